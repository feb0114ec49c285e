"""A file that only grows, line by line: a line is on the disk before it counts, and one process writes.

Only the last line can be torn, by a kill or a power cut; nobody counted on it, and it is cut off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from ratchet import redact
from ratchet.errors import RatchetError
from ratchet.store.files import fsync_folder, storage_errors

Place = tuple[int, int]
"""Where a line begins in its file, and its length, in bytes."""


class AppendLog:
    """Lines by their keys, open for appending.

    `places_in` reads the file that is there: where each key's line lies, and where the last whole line ends.
    `held` is the error of a file that another process writes. Only places are held in memory. Raises `held`,
    what `places_in` raises, and StorageError.
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

    def append(self, key: str, raw: bytes) -> None:
        """Add a line, newline included, the values of secrets masked; when this returns, no kill and no power cut
        can lose it.

        Raises StorageError.
        """
        raw = redact.values(raw.decode(errors="surrogateescape")).encode(errors="surrogateescape")
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
