"""From a spec to the rows that a worker trains on and is checked with, each with its reference's scores."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.errors import CorruptError, DataError, TrainingError
from ratchet.losses.preference import loss_of
from ratchet.pairs.table import TokenTable, open_table
from ratchet.plan.stage_kinds import release_of
from ratchet.reference.store import Floats, PairIds, find_logps, scored_rows
from ratchet.store.fingerprint import digest_file
from ratchet.train.batches import Course, GlobalBatch, global_batches
from ratchet.train.objective import Data, Reference, Table
from ratchet.train.spec import TrainSpec


def open_rows(spec: TrainSpec) -> TokenTable:
    """Return the table of a step's rows, cut to `spec.rows` where it has some. Raises DataError, CorruptError."""
    table = open_table([Path(path) for path in spec.tokens], spec.shares, spec.stage.seed)
    if spec.rows is None:
        return table
    if spec.rows_sha256 is not None and digest_file(Path(spec.rows)) != spec.rows_sha256:
        raise CorruptError(
            "not the rows that were written",
            where=spec.rows,
            fix="run again: they are written again",
            code="corrupt.rows",
        )
    # Without pickles, which could run code.
    rows = np.load(spec.rows, allow_pickle=False).astype(np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise DataError(
            f"rows outside the table of {len(table)}",
            where=spec.rows,
            fix="start this step over",
        )
    return table.subset(rows)


def open_data(spec: TrainSpec) -> tuple[Data, Data | None]:
    """Return what a step trains on and what it is checked with, each with its reference.

    Raises DataError, CorruptError; TrainingError where this host has another version of the package that adds the loss.
    """
    kind = spec.stage.kind
    if (release := release_of(kind)) != spec.package:
        raise TrainingError(
            f"kind {kind} is of {spec.package or 'Ratchet itself'}, and here of {release or 'Ratchet itself'}",
            where=f"step {spec.step} on {platform.node()}",
            fix="install the same packages on every host",
        )
    table = open_rows(spec)
    if table.demonstrations and not spec.supervised:
        raise DataError(
            "some rows have no rejected answer, and a preference loss needs both",
            where=", ".join(spec.tokens),
            fix="train on demonstrations with an sft stage",
            code="data.one-sided",
        )
    reads = not spec.supervised and loss_of(kind).reads_reference
    # Once, as both halves are joined from the same folders, which have millions of rows.
    folders = dict.fromkeys((*spec.references, *spec.heldout_references)) if reads else {}
    scored = {folder: scored_rows(Path(folder)) for folder in folders}
    data = _joined(table, spec.references, scored, spec) if reads else Data(table, None)
    files = [Path(path) for path in spec.heldout_tokens]
    # Held-out pairs are taken whole, whatever share of a source is trained on.
    heldout = open_table(files, [1.0] * len(files), spec.stage.seed)
    if not len(heldout):
        return data, None
    return data, _joined(heldout, spec.heldout_references, scored, spec) if reads else Data(heldout, None)


def course_of(spec: TrainSpec, rows: int) -> Course:
    """Return how far a step goes over a table of `rows`. Raises TrainingError where there is nothing to do."""
    if not rows:
        raise TrainingError(
            "no pair to train on", where=f"step {spec.step}", fix="look at the skipped rows", code="training.no-pairs"
        )
    return Course(rows, spec.stage.batch, spec.stage.epochs, spec.stage.seed, spec.stage.max_steps)


def batches_of(spec: TrainSpec, table: Table, after: int = 0) -> Iterator[GlobalBatch]:
    """Yield the batches of a step's training from the one behind `after` on. Raises TrainingError."""
    together = table.together_of_N(prompts=spec.stage.shuffle == "prompts")
    yield from global_batches(course_of(spec, len(table)), after, together, table.repeats)


def count_steps(spec: TrainSpec) -> int:
    """Return the optimiser steps of a step's training; opens its token files. Raises DataError, CorruptError."""
    return course_of(spec, len(open_rows(spec))).total_steps


def _joined(table: TokenTable, folders: Sequence[str], scored: Mapping[str, pa.Table], spec: TrainSpec) -> Data:
    if not folders:
        raise DataError(
            f"{spec.stage.kind} needs the reference's log-probabilities",
            where=f"step {spec.step}",
            code="data.unscored",
        )
    return Data(table, Reference(*_join(table.pair_ids(), {Path(folder): scored[folder] for folder in folders})))


_SHOWN = 3


def join_reference(pair_ids: PairIds, folders: Sequence[Path]) -> tuple[Floats, Floats]:
    """Return the reference's summed log-probabilities (chosen_N, rejected_N), float64, nats.

    Rows are joined by pair id, never by position; folders may hold more pairs than are asked for.
    A pair that stands in two folders (it is in two sources) is read from the first, as its tokens
    are. Raises DataError with counts where a pair is absent, stands twice in one folder, or has a
    number that is not finite; CorruptError where a block cannot be read.
    """
    return _join(pair_ids, {folder: scored_rows(folder) for folder in folders})


def _join(pair_ids: PairIds, scored: Mapping[Path, pa.Table]) -> tuple[Floats, Floats]:
    logps, folders = find_logps(scored, pair_ids), list(scored)
    for folder, rows in scored.items():
        _refuse_doubled(folder, rows)
    one_sided = np.flatnonzero(~np.isfinite(logps.rejected))
    if len(one_sided):
        raise DataError(
            f"{len(one_sided)} of {len(pair_ids)} pairs have no score of a rejected answer, first "
            f"{pair_ids[one_sided[0]]}",
            where=", ".join(map(str, folders)),
            fix="preference losses need two answers a pair",
            code="data.one-sided",
        )
    return logps.chosen, logps.rejected


def _refuse_doubled(folder: Path, rows: pa.Table) -> None:
    counts = pc.value_counts(rows["pair_id"])
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise DataError(
            f"{len(doubled)} pairs stand twice: {', '.join(doubled[:_SHOWN].to_pylist())}",
            where=str(folder),
            fix="delete the folder and run again: the reference is scored again",
            code="data.scored-twice",
        )
