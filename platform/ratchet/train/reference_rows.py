"""The reference's log-probabilities of a table's rows, joined by pair id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptError, DataError

Floats = npt.NDArray[np.float64]
_COLUMNS = ["pair_id", "chosen", "rejected"]
_SHOWN = 3


def join_reference(pair_ids: Sequence[str], folders: Sequence[Path]) -> tuple[Floats, Floats]:
    """Return the reference's summed log-probabilities (chosen_N, rejected_N), float64, nats.

    Rows are joined by pair id, never by position; folders may hold more pairs than are asked for.
    A pair that stands in two folders (it is in two sources) is read from the first, as its tokens
    are. Raises DataError with counts where a pair is absent, stands twice in one folder, or has a
    number that is not finite; CorruptError where a block cannot be read.
    """
    table = pa.concat_tables([_read(folder) for folder in folders])
    wanted = pa.array(pair_ids, pa.string())
    found = pc.index_in(wanted, value_set=table["pair_id"].combine_chunks())
    where = ", ".join(str(folder) for folder in folders)
    if found.null_count:
        raise DataError(
            f"{found.null_count} of {len(wanted)} pairs have no reference log-probability: "
            f"{_some(wanted.filter(pc.is_null(found)))}",
            where=where,
            fix="delete these folders and run again: the reference is scored anew",
        )
    rows = found.to_numpy().astype(np.int64)
    chosen_N, rejected_N = (table[name].to_numpy().astype(np.float64)[rows] for name in _COLUMNS[1:])
    bad_N = ~(np.isfinite(chosen_N) & np.isfinite(rejected_N))
    if bad_N.any():
        raise DataError(
            f"{int(bad_N.sum())} of {len(wanted)} pairs have a reference log-probability that is not finite: "
            f"{_some(wanted.filter(pa.array(bad_N)))}",
            where=where,
            fix="preference losses need two answers a pair, and a reference model whose scores are numbers",
        )
    return chosen_N, rejected_N


def _read(folder: Path) -> pa.Table:
    """Return a folder's rows; refuse one in which a pair stands twice."""
    blocks = sorted(folder.glob("block-*.parquet"))
    if not blocks:
        raise DataError("no reference log-probabilities here", where=str(folder), fix="score the reference first")
    tables = []
    for block in blocks:
        try:
            tables.append(pq.read_table(block, columns=_COLUMNS))
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(
                f"not a block of log-probabilities: {error}", where=str(block), fix="delete it; it is made again"
            ) from error
    table = pa.concat_tables(tables)
    counts = pc.value_counts(table["pair_id"].combine_chunks())
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise DataError(
            f"{len(doubled)} pairs stand twice: {_some(doubled)}",
            where=str(folder),
            fix="delete the folder and run again: the reference is scored anew",
        )
    return table


def _some(ids: pa.Array) -> str:
    return ", ".join(ids[:_SHOWN].to_pylist()) + (", …" if len(ids) > _SHOWN else "")
