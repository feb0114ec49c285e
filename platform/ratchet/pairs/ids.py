"""Ids of pairs and prompts: which are kept, sampled and held out, and which stand in more than one source.

Seeded hashes of ids decide, never the order of rows. Ids that must be compared lie on disk, in SQLite: memory does not
grow with the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.documents.sources import SourceOverlap
from ratchet.pairs.unique import digests_of, unique_ids

SPLIT_VERSION = 4
"""Of the sample and the split. It is in the identity of pairs: raise it when they would fall otherwise."""
_PARTS = ("train", "heldout")
_SORTED_AT_ONCE = 1 << 14
_WINNER = np.array([0, 1], np.uint64)
"""The bit of a comparison's digest that is given to its winner: of 127 others, two that differ differ in one."""


def sample_key(seed: int, pair_id: str) -> bytes:
    """Return 8 bytes, uniform over pairs; a sample of n rows is the n lowest, whatever their order."""
    return _hash(f"sample:{seed}:{pair_id}")


def held_out(seed: int, share: float, prompt_key: str) -> bool:
    """Say whether a group of prompts, named by a key, is held out. A larger share holds out a superset."""
    return int.from_bytes(_hash(f"split:{seed}:{prompt_key}")) < share * 2**64


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


@contextlib.contextmanager
def table_on_disk(path: Path, columns: str) -> Iterator[sqlite3.Connection]:
    """Make a table `seen` in a file that is gone afterwards."""
    base = sqlite3.connect(path, isolation_level=None)
    try:
        # A crash loses nothing: the file is made again with the folder. So no journal and no wait for the disk.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8000", "temp_store=FILE"):
            base.execute(f"PRAGMA {pragma}").close()
        base.execute(f"CREATE TABLE seen ({columns}) WITHOUT ROWID").close()
        base.execute("BEGIN").close()  # one transaction: else SQLite begins one for each row
        yield base
    finally:
        base.close()
        path.unlink()


class Lowest:
    """The `count` lowest of many keys, in memory that does not grow with how many there are.

    Keys are bytes of one length, `pa.binary(n)`, and all differ.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[pa.Array] = []
        self._rows = self._seen = 0

    def add(self, keys: pa.ChunkedArray) -> None:
        """Look at more keys."""
        self._held += keys.chunks
        self._rows += len(keys)
        self._seen += len(keys)
        if self._rows > 2 * self._count + _SORTED_AT_ONCE:
            self._sort()

    def last(self) -> pa.Scalar | None:
        """Return the highest of the lowest keys; None where there are no more keys than `count`."""
        if self._seen <= self._count:
            return None
        return self._sort()[-1]

    def _sort(self) -> pa.Array:
        keys = pa.chunked_array(self._held)
        lowest = keys.take(pc.sort_indices(keys)[: self._count]).combine_chunks()
        self._held, self._rows = [lowest], len(lowest)
        return lowest


def overlaps_of(folders: dict[str, Path]) -> list[SourceOverlap]:
    """Compare the pairs folders of sources, given by name; what does not overlap is left out.

    Prompts are equal where their keys are: the split goes by those, too.

    Train parts are compared with each other (each two once) and with the held-out parts of the
    other sources.
    """
    places = [(name, part) for name in folders for part in _PARTS]
    with tempfile.TemporaryDirectory(prefix="ratchet-overlap-") as scratch:
        pairs, prompts = (_shared(folders, places, column, Path(scratch)) for column in ("pair_id", "prompt_key"))
    found = []
    for (at, (left, part)), (beside, (right, other)) in itertools.combinations(enumerate(places), 2):
        counts = pairs.get((at, beside), 0), prompts.get((at, beside), 0)
        if left == right or part == other == "heldout" or not any(counts):
            continue
        names = (left, right) if part == "train" else (right, left)
        found.append(SourceOverlap(*names, *counts, held_out="heldout" in {part, other}))
    return found


def _shared(
    folders: dict[str, Path], places: list[tuple[str, str]], column: str, scratch: Path
) -> dict[tuple[int, int], int]:
    """Return how many ids each two places share, by their numbers."""
    with table_on_disk(scratch / f"{column}.sqlite", "id BLOB, place INTEGER, PRIMARY KEY (id, place)") as base:
        for number, (name, part) in enumerate(places):
            rows = ((bytes.fromhex(text), number) for text in _ids(folders[name] / f"{part}.parquet", column))
            base.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).close()
        found = base.execute(
            "SELECT a.place, b.place, count(*) FROM seen a JOIN seen b ON a.id = b.id AND a.place < b.place "
            "GROUP BY 1, 2"
        ).fetchall()
    return {(left, right): count for left, right, count in found}


def contradictions_in(folder: Path) -> int:
    """Return how many comparisons of a pairs folder are decided both ways, A over B and B over A, up to form."""
    with tempfile.TemporaryDirectory(prefix="ratchet-contests-") as scratch:
        # One after the other, so that one table of ids is there at a time.
        verdicts, contests = (_contests(folder, Path(scratch), by_winner=by_winner) for by_winner in (True, False))
    return verdicts - contests


def _contests(folder: Path, scratch: Path, *, by_winner: bool) -> int:
    """Return how many comparisons differ from each other, or differ in their winner."""
    with unique_ids(scratch / "contests") as found:
        for part in _PARTS:
            with pq.ParquetFile(folder / f"{part}.parquet", pre_buffer=False) as file:
                for batch in file.iter_batches(4096, columns=["contest", "first_won"]):
                    table = pa.Table.from_batches([batch]).drop_null()  # demonstrations
                    ids_N2 = digests_of(table.column("contest")) | _WINNER
                    if by_winner:
                        ids_N2[~table.column("first_won").to_numpy()] ^= _WINNER
                    found.add(ids_N2)
        return len(found)


def _ids(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(4096, columns=[column]):
            yield from batch.column(0).to_pylist()
