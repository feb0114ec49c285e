"""The order in which a stepwise stage trains its chunks, from what its start model prefers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ratchet.errors import CorruptError, DataError
from ratchet.pipeline.context import Order, Run
from ratchet.pipeline.graph import BASE, chunk_names, chunking, final_model, needs_difficulty, stepwise
from ratchet.pipeline.prepare import external_model, stage_tokens
from ratchet.pipeline.reference_passes import GAMMA_SAMPLE, ensure_scores, gamma_job, gate_of, stage_table, train_job
from ratchet.pipeline.step_inputs import Contents
from ratchet.plan.references import start_of
from ratchet.plan.stage_kinds import reads_pairs, trains
from ratchet.plan.training import Steps
from ratchet.reference.models import TRAINER, Model, ScoreJob
from ratchet.reference.partition import difficulty, log_ratio, order_chunks, split_rows
from ratchet.reference.store import Floats, read_job
from ratchet.store.made import find_document, keep_document


@dataclasses.dataclass(frozen=True)
class StageOrder:
    """The order of a preference stage's chunks, a document of the run folder.

    Its sources' pairs and all its models are known. `start` is the model that it starts from, known by its weights:
    they decide how hard each source is. One recipe may come out with other weights.
    """

    run: Run
    stage: str
    start: Model
    kind: ClassVar[str] = "order"

    @property
    def what(self) -> str:
        return f"order of {self.stage}"

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        run, stage, names = self.run, self.run.plan.stages[self.stage], Contents(self.run)
        assert trains(stage)  # noqa: S101  `order_of_stage` looked
        found: dict[str, Any] = {
            "kind": self.kind,
            "version": 1,
            "chunks": chunk_names(stage),
            "measured": [[source, names.tokens(source, stage)] for source in stage.shares()],
            "by": [self.start.identity, self.start.weights, self.start.dtype],
            "sample": GAMMA_SAMPLE,
        }
        return found | (chunking(run.plan, self.stage, names) if stepwise(stage) else {})


def order_of_stage(run: Run, name: str) -> StageOrder | None:
    """Return the order of a preference stage as it is kept; None where something is not known that decides it."""
    stage, start = run.plan.stages[name], run.models.get(final_model(run.plan, start_of(run.plan, name)))
    known = BASE in run.models and run.pairs.keys() >= stage.shares().keys()
    return StageOrder(run, name, start) if known and start is not None else None


def find_order(run: Run, name: str, *, unnamed: bool = False) -> Order | None:
    """Return the order of a stage as the run folder has it, made from what the plan now asks for; else None.

    `unnamed` as `find_document` has it. Raises CorruptError where it is not as it was written.
    """
    stage = run.plan.stages[name]
    if not reads_pairs(stage):
        return None
    path = run.layout.order(run.plan.name, name)
    kept = find_document(Order, path, order_of_stage(run, name), unnamed=unnamed)
    # An `unnamed` document does not say what it was made from: its chunks at least must be those of the plan.
    return kept if kept is not None and sorted(kept.chunks) == sorted(chunk_names(stage)) else None


def ensure_order(run: Run, name: str) -> Order:
    """Return the order of a stage's chunks, decided if need be, and with `--fresh`. Raises DataError, ModelError."""
    with contextlib.suppress(CorruptError):  # it is decided again
        if not run.fresh and (found := find_order(run, name)) is not None:
            return found
    order = decide_order(run, name)
    if (kept := order_of_stage(run, name) if reads_pairs(run.plan.stages[name]) else None) is not None:
        keep_document(run.layout.order(run.plan.name, name), kept, order)
    return order


def decide_order(run: Run, name: str) -> Order:
    """Decide the order of a stage's chunks, scoring its start model where the order depends on it.

    Every source's reward accuracy is measured, on all its pairs where the order needs it, else on the fixed sample.
    """
    stage = run.plan.stages[name]
    if not reads_pairs(stage):
        return Order((), ())
    start = run.models[final_model(run.plan, start_of(run.plan, name))]
    steps = stepwise(stage)
    chunks = chunk_names(stage)
    if steps is None or steps.by == "source":
        ratios = _source_ratios(run, name, start, whole=needs_difficulty(stage))
        found = [difficulty(source, values) for source, values in ratios.items()]
        accuracy = {one.chunk: one.accuracy for one in found}
        ordered = order_chunks(steps.order, chunks, accuracy, stage.seed) if steps else chunks
        return Order(tuple(ordered), tuple(found))
    return _cut(run, name, steps, start, chunks)


def _source_ratios(run: Run, name: str, start: Model, *, whole: bool) -> dict[str, Floats]:
    stage = run.plan.stages[name]
    assert trains(stage)  # noqa: S101  the caller looked
    jobs = {source: train_job(one) if whole else gamma_job(one) for source, one in stage_tokens(run, stage).items()}
    return dict(zip(jobs, _ratios(run, name, start, list(jobs.values()), whole=whole), strict=True))


def _ratios(run: Run, name: str, start: Model, jobs: Sequence[ScoreJob], *, whole: bool) -> list[Floats]:
    """Return γ of each job's pairs.

    The engine that scores the stage's reference scores whole sources. The trainer's scores samples, as for γ in the
    report. So each pass serves two ends.
    """
    steps = stepwise(run.plan.stages[name])
    scored = ensure_scores(run, start, jobs, gate_of(run, name, start).engine if whole else TRAINER)
    base = external_model(run, steps.base) if steps and steps.base else None
    against = ensure_scores(run, base, jobs, gate_of(run, name, base).engine if whole else TRAINER) if base else None
    return [
        log_ratio(
            read_job(job, scored[job]),
            length_normalised=bool(steps and steps.length_normalised),
            base=read_job(job, against[job]) if against else None,
        )
        for job in jobs
    ]


def _cut(run: Run, name: str, steps: Steps, start: Model, chunks: Sequence[str]) -> Order:
    """Cut the union of the sources into chunks, by difficulty where the order asks for it."""
    stage = run.plan.stages[name]
    assert trains(stage)  # noqa: S101  the caller looked
    table, ratios, found = stage_table(run, stage), None, []
    if needs_difficulty(stage):
        jobs = [train_job(one) for one in stage_tokens(run, stage).values()]
        ratios = np.empty(len(table))
        for file, values in enumerate(_ratios(run, name, start, jobs, whole=True)):
            here = table.file_of_N == file
            ratios[here] = values[table.row_of_N[here]]
    if len(table) < len(chunks):
        raise DataError(
            f"{len(table)} pairs cannot be cut into {len(chunks)} chunks",
            where="steps.count",
            fix="lower steps.count, or look at the skipped rows",
        )
    rows = split_rows(steps.order, len(table), len(chunks), ratios, stage.seed)
    if ratios is not None:
        found = [difficulty(chunk, ratios[part]) for chunk, part in zip(chunks, rows, strict=True)]
    # For the page alone: the parts of a union have no source to be named by.
    sources = [difficulty(name, values) for name, values in _source_ratios(run, name, start, whole=False).items()]
    return Order(tuple(chunks), (*found, *sources), tuple(tuple(part.tolist()) for part in rows))
