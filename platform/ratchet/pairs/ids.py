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

import pyarrow.parquet as pq

from ratchet.documents.report import SourceOverlap

SPLIT_VERSION = 2
"""Of the sample and the split. It is in the identity of pairs: raise it when they would fall otherwise."""
_PARTS = ("train", "heldout")


def sample_key(seed: int, pair_id: str) -> bytes:
    """Return 8 bytes, uniform over pairs; a sample of n rows is the n lowest, whatever their order."""
    return _hash(f"sample:{seed}:{pair_id}")


def held_out(seed: int, share: float, prompt_key: str) -> bool:
    """Say whether a prompt, with all pairs of the same key, is held out. A larger share holds out a superset."""
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


class UniqueIds:
    """Ids on disk, each once, with their sample keys."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base

    def add(self, pair_id: str, key: bytes | None) -> bool:
        """Say whether the id is new."""
        row = (bytes.fromhex(pair_id), key)
        return self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", row).rowcount == 1

    def sampled_up_to(self, count: int) -> tuple[bytes, bytes]:
        """Return key and id of the last of the `count` lowest, or what is above all where there are fewer."""
        self._base.execute("CREATE INDEX by_key ON seen (key, id)").close()
        found = self._base.execute(
            "SELECT key, id FROM seen ORDER BY key, id LIMIT 1 OFFSET ?", (count - 1,)
        ).fetchone()
        return found if found is not None else (b"\xff" * 9, b"")  # keys have 8 bytes: nothing is above nine of 255


@contextlib.contextmanager
def unique_ids(path: Path) -> Iterator[UniqueIds]:
    """Keep ids in a file that is gone afterwards."""
    with table_on_disk(path, "id BLOB PRIMARY KEY, key BLOB") as base:
        yield UniqueIds(base)


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
    with (
        tempfile.TemporaryDirectory(prefix="ratchet-contests-") as scratch,
        table_on_disk(Path(scratch) / "contests.sqlite", "id BLOB, won INTEGER, PRIMARY KEY (id, won)") as base,
    ):
        for part in _PARTS:
            with pq.ParquetFile(folder / f"{part}.parquet", pre_buffer=False) as file:
                for batch in file.iter_batches(4096, columns=["contest", "first_won"]):
                    columns = (batch.column(at).to_pylist() for at in range(2))
                    rows = ((bytes.fromhex(key), won) for key, won in zip(*columns, strict=True) if key is not None)
                    base.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).close()
        both = "SELECT count(*) FROM (SELECT 1 FROM seen GROUP BY id HAVING count(*) > 1)"
        (count,) = base.execute(both).fetchone()
    return int(count)


def _ids(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(4096, columns=[column]):
            yield from batch.column(0).to_pylist()
