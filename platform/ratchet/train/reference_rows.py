"""The reference's log-probabilities of a table's rows, joined by pair id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.errors import DataError
from ratchet.reference.store import Floats, PairIds, block_paths, read_block, read_logps

_SHOWN = 3


def join_reference(pair_ids: PairIds, folders: Sequence[Path]) -> tuple[Floats, Floats]:
    """Return the reference's summed log-probabilities (chosen_N, rejected_N), float64, nats.

    Rows are joined by pair id, never by position; folders may hold more pairs than are asked for.
    A pair that stands in two folders (it is in two sources) is read from the first, as its tokens
    are. Raises DataError with counts where a pair is absent, stands twice in one folder, or has a
    number that is not finite; CorruptError where a block cannot be read.
    """
    logps = read_logps(folders, pair_ids)
    for folder in folders:
        _refuse_doubled(folder)
    one_sided = np.flatnonzero(~np.isfinite(logps.rejected))
    if len(one_sided):
        raise DataError(
            f"{len(one_sided)} of {len(pair_ids)} pairs have no score of a rejected answer, first "
            f"{pair_ids[one_sided[0]]}",
            where=", ".join(map(str, folders)),
            fix="preference losses need two answers a pair",
        )
    return logps.chosen, logps.rejected


def _refuse_doubled(folder: Path) -> None:
    ids = [read_block(block)["pair_id"] for block in block_paths(folder)]
    counts = pc.value_counts(pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string()))
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise DataError(
            f"{len(doubled)} pairs stand twice: {', '.join(doubled[:_SHOWN].to_pylist())}",
            where=str(folder),
            fix="delete the folder and run again: the reference is scored again",
        )
