"""Opening a file of rows: its content unpacked as its first bytes say, and how far it was read.

Packed files are known by their first bytes, so that a download without the right ending is read too.
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from ratchet.errors import DataError
from ratchet.pairs.remote import open_url, url_size
from ratchet.plan.base import is_url


def _xz(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, lzma.LZMAFile(raw))


def _zstd(raw: BinaryIO) -> BinaryIO:
    import pyarrow as pa  # not at the top: only this one of the packings needs it

    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), 1 << 16))


@dataclasses.dataclass(frozen=True)
class FilePacking:
    """A way to pack one file: the first bytes of such a file, the endings of its name, and what unpacks it."""

    magic: tuple[bytes, ...]
    endings: tuple[str, ...]
    unpack: Callable[[BinaryIO], BinaryIO]


PACKINGS: Mapping[str, FilePacking] = {
    "gzip": FilePacking((b"\x1f\x8b",), (".gz", ".gzip"), lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw))),
    "bzip2": FilePacking((b"BZh",), (".bz2",), lambda raw: cast(BinaryIO, bz2.BZ2File(raw))),
    "xz": FilePacking((b"\xfd7zXZ\0",), (".xz",), _xz),
    # The second begins a frame that says something of the others, as pzstd writes it.
    "zstd": FilePacking((b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"), (".zst", ".zstd"), _zstd),
}
# Python's own 8 KiB are less than two rows of chat, and asking the system for the next ones took a tenth of reading.
_BUFFER = 1 << 18
# What a name and its first bytes may be of, and what to do: such a file is refused before its rows are counted as bad.
_OTHERS: Mapping[bytes, tuple[str, str]] = {
    b"PAR1": ("a Parquet file", "let its name end in .parquet"),
    b"ARROW1": ("an Arrow file", "let its name end in .arrow"),
    b"PK\x03\x04": ("a zip archive (.xlsx is one too)", "unpack it; save a spreadsheet as CSV (UTF-8)"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: run `git lfs pull` in the clone"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "save it as CSV (UTF-8)"),
    b"SQLite format 3": ("an SQLite database", "write its rows as JSON lines or CSV"),
    b"\x80\x04\x95": ("a Python pickle", "write its rows as JSON lines or Parquet"),
    b"<!doctype": ("a web page", "give the file itself: a download may have fetched a page about it"),
    b"<html": ("a web page", "give the file itself: a download may have fetched a page about it"),
    b"<?xml": ("XML", "write its rows as JSON lines or CSV; of a download it may be the store's refusal"),
    b"FEA1": ("of the first version of Feather", "write it again with a current library, or as Parquet"),
    b"\x04\x22\x4d\x18": ("packed with lz4", "unpack it, or pack it with gzip, bzip2, xz or zstd"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file that is open: its content, the file as it lies there, and the size of that in bytes."""

    stream: BinaryIO
    raw: BinaryIO
    size: int
    packed: bool

    @property
    def left(self) -> float:
        """The share of the file that was not read yet, of its packed bytes."""
        return 1 - self.raw.tell() / max(self.size, 1)


def bare_name(name: str) -> str:
    """Return a file's name in lower case, without the ending of a packing: `A.JSONL.GZ` is `a.jsonl`."""
    low = name.lower()
    endings = (ending for packing in PACKINGS.values() for ending in packing.endings)
    return next((low[: -len(ending)] for ending in endings if low.endswith(ending)), low)


def without_query(path: str) -> str:
    """Return a path as it is, and a URL without what stands behind ? or #."""
    return re.split(r"[?#]", path, maxsplit=1)[0] if is_url(path) else path


def file_size(path: str) -> int:
    """Return the size in bytes of a file or of what lies at a URL."""
    return url_size(path) if is_url(path) else Path(path).stat().st_size


def _as_it_lies(path: str) -> contextlib.AbstractContextManager[io.BufferedReader]:
    return open_url(path, "whole") if is_url(path) else io.BufferedReader(io.FileIO(path), _BUFFER)


def refuse_other(path: str, head: bytes) -> None:
    """Raise DataError where the first bytes of a file are plainly those of another kind."""
    for magic, (what, fix) in _OTHERS.items():
        if head[: len(magic)].lower() == magic.lower():
            raise DataError(f"the file is {what}", where=path, fix=fix, code="data.form")


@contextlib.contextmanager
def open_unpacked(path: str) -> Iterator[Opened]:
    """Open a file of text at its beginning. Raises DataError where it is plainly a file of another kind."""
    with _as_it_lies(path) as raw:
        head = raw.peek(64)
        refuse_other(path, head)
        packing = next((one for one in PACKINGS.values() if head.startswith(one.magic)), None)
        name = without_query(path).lower()
        if packing is None and bare_name(name) != name:
            raise DataError(
                "its name is that of a packed file, and its content is not packed so",
                where=path,
                fix="fetch it again; where it was unpacked before, take that ending off its name",
                code="data.damaged",
            )
        stream = raw if packing is None else packing.unpack(raw)
        yield Opened(stream, raw, file_size(path), packing is not None)
