"""Where pairs come from: `file:row` for a pair id, for messages that people read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.store.sound import checked


def places_of_pairs(files: Sequence[Path], pair_ids: Sequence[str]) -> list[str]:
    """Return each pair's `file:row`, as the tables of pairs in `files` name them; its id where none of them has it.

    Reads the files row group by row group, and those columns alone. Raises CorruptError where one is damaged.
    """
    wanted, found = pa.array(pair_ids, pa.string()), dict[str, str]()
    for path in files:
        if not path.exists():
            continue
        with pq.ParquetFile(checked(path)) as file:
            for batch in file.iter_batches(columns=["pair_id", "file", "row"]):
                rows = batch.filter(pc.is_in(batch.column("pair_id"), value_set=wanted))
                found |= {row["pair_id"]: f"{row['file']}:{row['row']}" for row in rows.to_pylist()}
    return [found.get(one, one) for one in pair_ids]
