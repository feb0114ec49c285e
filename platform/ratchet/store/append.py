"""A file of JSON lines that only grows: a line is on the disk before it counts, and one process writes.

A line carries a check of its content. The last one may be torn, by a kill or a power cut; nothing depends on it, and it
is cut off. One before it that was changed since is left out, with a warning: what it held is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

from ratchet import redact
from ratchet.errors import CorruptError, RunError
from ratchet.store.files import fsync_folder, storage_errors, write_bytes

_log = logging.getLogger(__name__)

T = TypeVar("T")
_CHECK = "check"
Place = tuple[int, int]
"""Where a line begins in its file, and its length, in bytes."""


class AppendLog(Generic[T]):
    """Lines by their keys, open for appending. Use it in a `with`.

    `parse` returns the key and the content of a line, and raises ValueError where it is not a line of this log.
    Only places are held in memory, not contents. Raises RunError with the sentences `held` and `fix` where another
    process writes the file, CorruptError where one key has two contents, StorageError.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], tuple[str, T]], *, held: str, fix: str) -> None:
        self.path, self._parse = path, parse
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that could not be written must not be written by a later flush.
            self._file: BinaryIO = path.open("a+b", buffering=0)
            try:
                self._lock(held, fix)
                self._places, self._end = read_places(path, parse)
                self._file.truncate(self._end)
                os.fsync(self._file.fileno())
                fsync_folder(path.parent)
            except BaseException:
                self._file.close()
                raise

    def _lock(self, held: str, fix: str) -> None:
        try:
            # The system drops this lock with the process, whatever ends that: none has to lapse.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(held, where=str(self.path), fix=fix, code="run.held") from None

    def add(self, key: str, body: Mapping[str, Any]) -> None:
        """Add a line, the values of secrets masked; when this returns, no kill and no power cut can lose it.

        Raises StorageError.
        """
        raw = checked_line(body)
        with storage_errors(self.path):
            try:
                written = 0
                while written < len(raw):  # a disk that fills up takes a part, and says so only when given the rest
                    written += self._file.write(raw[written:])
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(self._end)
                raise
        self._places[key] = self._end, len(raw)
        self._end += len(raw)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def find(self, key: str) -> T:
        """Return the content under `key`. Raises KeyError where there is none."""
        start, length = self._places[key]
        # At a place of its own: the file's position is where the next line is written.
        return self._parse(os.pread(self._file.fileno(), length, start))[1]

    def close(self) -> None:
        """Close the file, which releases the lock on it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def checked_line(body: Mapping[str, Any]) -> bytes:
    """Return a line with its check, newline included, the values of secrets masked. Raises ValueError for a NaN."""
    plain: dict[str, Any] = json.loads(redact.values(_text(body)))
    return _text({**plain, _CHECK: _check(plain)}).encode() + b"\n"


def parse_checked_line(raw: bytes) -> dict[str, Any]:
    """Return what `checked_line` made a line of. Raises ValueError where it is none, or not as it was written."""
    if not raw.endswith(b"\n"):
        raise ValueError("cut short")
    line = json.loads(raw)
    if not isinstance(line, dict) or line.pop(_CHECK, None) != _check(line):
        raise ValueError("its check does not fit")
    return line


def read_places(path: Path, parse: Callable[[bytes], tuple[str, object]]) -> tuple[dict[str, Place], int]:
    """Return where each key's line lies, and where the last whole line ends.

    Lines that `parse` raises ValueError for are left out, and one warning says so. Raises CorruptError where a key has
    two lines that differ.
    """
    found: dict[str, Place] = {}
    contents: dict[str, bytes] = {}
    end, bad = 0, []
    for number, start, raw in _lines(path):
        try:
            key, content = parse(raw)
        except ValueError as error:
            bad.append((start, number, error))
            continue
        if contents.setdefault(key, digest := _digest(content)) != digest:
            raise CorruptError(
                "another answer to a request that has one above",
                where=f"{path}:{number}",
                fix="remove both lines, or run `ratchet fsck` over its storage, which does; they are asked again",
                code="corrupt.two-answers",
            )
        end = start + len(raw)
        found[key] = start, len(raw)
    damaged = [f"{number}: {error}" for start, number, error in bad if start < end]
    if damaged:
        _log.warning(
            "%s: %d lines are damaged and are left out (line %s); what they held is made again",
            path, len(damaged), damaged[0],
        )  # fmt: skip
    if len(damaged) < len(bad):
        _log.warning("%s: the last line was not written to its end and is dropped", path)
    return found, end


def damaged_lines(path: Path, parse: Callable[[bytes], tuple[str, object]]) -> dict[int, str]:
    """Return the numbers, from 1, of the lines that nobody can go by, and why.

    Such is a line that `parse` raises ValueError for. So are all lines of a key that has two contents, since nothing
    says which of them is right.
    """
    found = {}
    lines: dict[str, dict[int, bytes]] = {}
    for number, _, raw in _lines(path):
        try:
            key, content = parse(raw)
        except ValueError as error:
            found[number] = str(error)
        else:
            lines.setdefault(key, {})[number] = _digest(content)
    for same in lines.values():
        if len(set(same.values())) > 1:
            found |= dict.fromkeys(same, "its request has two answers")
    return dict(sorted(found.items()))


def rewrite(path: Path, *, without: Collection[int]) -> None:
    """Write the file again without the lines of some numbers, whole or not at all. Nobody may have it open.

    Raises StorageError.
    """
    write_bytes(path, b"".join(raw for number, _, raw in _lines(path) if number not in without))


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, the place and the bytes of each line."""
    start = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield number, start, raw
            start += len(raw)


def _digest(content: object) -> bytes:
    """A digest of what a line says, and not the line: a journal may be larger than the memory."""
    # Half a surrogate pair may come out of JSON, and no plain encoding takes it.
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).digest()


def _text(value: Any) -> str:
    # The keys stay in their own order, which JSON keeps: the check of a line that is read is of the same text.
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _check(body: Any) -> str:
    return hashlib.sha256(_text(body).encode()).hexdigest()[:16]
