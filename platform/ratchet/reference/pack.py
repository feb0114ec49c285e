"""The blocks of a finished pass as one file, so that a reader opens one file and not thousands.

    scores.arrow    the rows as one Arrow stream, with a batch for each block
    scores.json     the bytes and the SHA-256 of each part of it: opened only where that file is damaged

Both appear whole, then the record names them, then the blocks go. A kill in between leaves the blocks beside them, with
the same content. A damaged file gives its sound blocks back, so that only the pairs of the others are scored again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ratchet.errors import CorruptError
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import read_sealed, write_bytes, write_sealed
from ratchet.store.record import Record

SCORES, INDEX = "scores.arrow", "scores.json"
MOST_BLOCKS = 8
"""A pass of more blocks than these is packed; fewer are opened as they are."""
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends a stream, as the format says (Arrow Columnar Format, IPC Streaming Format)."""
_FIX = "run again: the pairs of what is damaged are scored again, and no others"


@dataclasses.dataclass(frozen=True)
class PackedParts:
    """The parts of a packed file in their order: the schema, then each block; `sizes` in bytes, `digests` SHA-256."""

    sizes: tuple[int, ...]
    digests: tuple[str, ...]


def write_pack(folder: Path, blocks: Sequence[pa.Table]) -> tuple[str, str]:
    """Write blocks, in the order of their numbers, as one file, its index first; return the names of the two.

    Raises StorageError.
    """
    batches = [block.combine_chunks().to_batches()[0] for block in blocks]
    parts = [bytes(batches[0].schema.serialize()), *(bytes(batch.serialize()) for batch in batches)]
    index = PackedParts(tuple(map(len, parts)), tuple(hashlib.sha256(part).hexdigest() for part in parts))
    write_sealed(folder / INDEX, to_values(index))
    write_bytes(folder / SCORES, b"".join([*parts, _END]))
    return SCORES, INDEX


def is_packed(record: Record | None) -> bool:
    """Whether the record of a finished folder names a packed file, which has all its blocks."""
    return record is not None and SCORES in record.files


def read_pack(folder: Path, record: Record) -> pa.Table:
    """Return all rows of a folder whose record names a packed file, which is read once. Raises CorruptError."""
    path, (size, digest) = folder / SCORES, record.files[SCORES]
    with contextlib.suppress(FileNotFoundError):
        data = path.read_bytes()
        # Before the library sees a byte of it.
        if (len(data), hashlib.sha256(data).hexdigest()) == (size, digest):
            return pa.ipc.open_stream(pa.py_buffer(data)).read_all()
    raise CorruptError("the file is not the one that was written", where=str(path), fix=_FIX, code="corrupt.scores")


def sound_blocks(folder: Path) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows of each block of a packed file that is as it was written; none without a sound index."""
    try:
        values, data = read_sealed(folder / INDEX, _FIX), (folder / SCORES).read_bytes()
        index = from_values(PackedParts, values, where=str(folder / INDEX), fix=_FIX, error=CorruptError)
    except (CorruptError, FileNotFoundError):
        return
    schema, start = None, 0
    for number, (size, digest) in enumerate(zip(index.sizes, index.digests, strict=True), -1):
        part, start = data[start : start + size], start + size
        if hashlib.sha256(part).hexdigest() != digest:
            if schema is None:
                return
        elif schema is None:
            schema = pa.ipc.read_schema(pa.py_buffer(part))
        else:
            yield number, pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(part), schema)])


def remove_pack(folder: Path) -> None:
    """Remove a packed file, and then its index."""
    for name in (SCORES, INDEX):
        (folder / name).unlink(missing_ok=True)
