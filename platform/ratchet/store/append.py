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
from typing import Any, BinaryIO

from ratchet import redact
from ratchet.errors import RatchetError
from ratchet.store.files import fsync_folder, storage_errors, write_bytes

_log = logging.getLogger(__name__)

_CHECK = "check"
Place = tuple[int, int]
"""Where a line begins in its file, and its length, in bytes."""


class AppendLog:
    """Lines by their keys, open for appending.

    `places_in` reads the file that is there, by `read_places`. `held` is the error of a file that another process
    writes. Only places are held in memory. Raises `held`, what `places_in` raises, and StorageError.
    """

    def __init__(
        self, path: Path, places_in: Callable[[Path], tuple[Mapping[str, Place], int]], held: RatchetError
    ) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that could not be written must not be written by a later flush.
            self.file: BinaryIO = path.open("a+b", buffering=0)
            try:
                self._lock(held)
                places, self._end = places_in(path)
                self.places: dict[str, Place] = dict(places)
                self.file.truncate(self._end)
                os.fsync(self.file.fileno())
                fsync_folder(path.parent)
            except BaseException:
                self.file.close()
                raise

    def _lock(self, held: RatchetError) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise held from None

    def append(self, key: str, body: Mapping[str, Any]) -> None:
        """Add a line, the values of secrets masked; when this returns, no kill and no power cut can lose it.

        Raises StorageError.
        """
        raw = checked_line(body)
        with storage_errors(self.path):
            try:
                written = 0
                while written < len(raw):  # a disk that fills up takes a part, and says so only when given the rest
                    written += self.file.write(raw[written:])
                os.fsync(self.file.fileno())
            except BaseException:
                self.file.truncate(self._end)
                raise
        self.places[key] = self._end, len(raw)
        self._end += len(raw)

    def read(self, key: str) -> bytes:
        """Return the line under `key`; the file's own position stays where it is. Raises KeyError."""
        start, length = self.places[key]
        return os.pread(self.file.fileno(), length, start)

    def close(self) -> None:
        """Let go of the file, and of the lock on it."""
        self.file.close()


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


def read_places(path: Path, key_of: Callable[[bytes, int], str]) -> tuple[dict[str, Place], int]:
    """Return where each key's last line lies, and where the last whole line ends.

    `key_of` gets a line and its number, from 1, and raises ValueError where it is none: those are left out, and one
    warning says so.
    """
    found: dict[str, Place] = {}
    end, bad = 0, []
    for number, start, raw in _lines(path):
        try:
            found[key_of(raw, number)] = start, len(raw)
            end = start + len(raw)
        except ValueError as error:
            bad.append((start, number, error))
    damaged = [f"{number}: {error}" for start, number, error in bad if start < end]
    if damaged:
        _log.warning(
            "%s: %d lines are damaged and are left out (line %s); what they held is made again",
            path, len(damaged), damaged[0],
        )  # fmt: skip
    if len(damaged) < len(bad):
        _log.warning("%s: the last line was not written to its end and is dropped", path)
    return found, end


def damaged_lines(path: Path, parse_line: Callable[[bytes], object]) -> dict[int, str]:
    """Return the numbers, from 1, of the lines that `parse_line` raises ValueError for, and why."""
    found = {}
    for number, _, raw in _lines(path):
        try:
            parse_line(raw)
        except ValueError as error:
            found[number] = str(error)
    return found


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


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _check(body: Any) -> str:
    return hashlib.sha256(_text(body).encode()).hexdigest()[:16]
