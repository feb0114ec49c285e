"""Pairs and prompts that stand in more than one source, or in training and held-out data at once."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from ratchet.documents.report import SourceOverlap

_PARTS = ("train", "heldout")


def overlaps_of(folders: dict[str, Path]) -> list[SourceOverlap]:
    """Compare the pairs folders of sources, given by name; what does not overlap is left out.

    Train parts are compared with each other (each two once) and with the held-out parts of the
    other sources. Ids are on disk: memory does not grow with the data.
    """
    places = [(name, part) for name in folders for part in _PARTS]
    with tempfile.TemporaryDirectory(prefix="ratchet-overlap-") as scratch:
        pairs, prompts = (_shared(folders, places, column, Path(scratch)) for column in ("pair_id", "prompt_id"))
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
    base = sqlite3.connect(scratch / f"{column}.sqlite", isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8000", "temp_store=FILE"):
            base.execute(f"PRAGMA {pragma}").close()
        base.execute("CREATE TABLE seen (id BLOB, place INTEGER, PRIMARY KEY (id, place)) WITHOUT ROWID").close()
        base.execute("BEGIN").close()
        for number, (name, part) in enumerate(places):
            rows = ((bytes.fromhex(text), number) for text in _ids(folders[name] / f"{part}.parquet", column))
            base.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).close()
        found = base.execute(
            "SELECT a.place, b.place, count(*) FROM seen a JOIN seen b ON a.id = b.id AND a.place < b.place "
            "GROUP BY 1, 2"
        ).fetchall()
    finally:
        base.close()
    return {(left, right): count for left, right, count in found}


def _ids(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(4096, columns=[column]):
            yield from batch.column(0).to_pylist()
