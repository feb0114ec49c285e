"""Score pairs under models, what the store does not hold yet; who computes the blocks is passed in.

The unit of work is a block of pairs, written by the process that scored it; a killed run goes on
with the blocks that are missing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ratchet.pairs.table import open_table
from ratchet.reference.models import TRAINER, EngineChoice, ScoredPairs, ScoreJob, Scores, ScoringModel
from ratchet.reference.pool import Item, Pool, Spread, in_pool
from ratchet.reference.store import block_rows, finish, missing_blocks, proved
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait
from ratchet.store.made import LeasedTurn, Made, Product, find, lease_key, made_folder, record_of, turn
from ratchet.store.record import now

ScoringWork = Sequence[tuple[ScoringModel, ScoreJob]]
IN_TRAINING = "in_training"
"""The fact of a record that says that the workers that trained the model scored with it before they ended."""


def score_jobs(
    work: ScoringWork,
    layout: Layout,
    pool: Pool,
    engine: EngineChoice = TRAINER,
    on_pairs: Callable[[int, int], None] = lambda done, total: None,
    wait: Wait = SILENTLY,
) -> list[Scores]:
    """Score every job under its model in one pass of a pool, and return where each one's scores lie.

    It waits for other processes without holding cluster resources. Raises as `score_by`.
    """
    return score_by(work, layout, in_pool(pool, engine), engine, on_pairs, wait)


def score_by(
    work: ScoringWork,
    layout: Layout,
    spread: Spread,
    engine: EngineChoice = TRAINER,
    on_pairs: Callable[[int, int], None] = lambda done, total: None,
    wait: Wait = SILENTLY,
    *,
    in_training: bool = False,
) -> list[Scores]:
    """Score every job under its model by what `spread` says, and return where each one's scores lie.

    What the store already holds is not computed again. `on_pairs(done, total)` follows the work. `wait.look` is called
    before a pass begins and after each block, too. `in_training`: the workers that trained the model score.
    Raises the error of the process that failed, too; finished blocks stay.
    """
    with turn(layout, lambda mine: _plans(work, engine, layout), _missing, wait) as mine:
        if not mine.leases:
            return [_found(plan) for plan in mine.found]
        started, clock = now(), time.monotonic()
        items = _all_items(work, mine.found)
        models = list(dict.fromkeys(model for model, _ in work))
        seconds, start = _run(models, items, spread, on_pairs, wait.look) if items else ({}, 0.0)
        # No process began or ended for it.
        start = 0.0 if in_training else start
        return _finished(mine, seconds, _Pass(started, clock, start, in_training))


def _missing(plans: Sequence[_JobPlan]) -> dict[str, str]:
    return {plan.lease: plan.what for plan in plans if plan.missing}


@dataclasses.dataclass(frozen=True)
class _Pass:
    """A pass: when it began, by the date and by the monotonic clock, what starting took, and whose workers scored."""

    started: str
    clock: float
    start: float
    in_training: bool


def _all_items(work: ScoringWork, plans: Sequence[_JobPlan]) -> list[Item]:
    models = list(dict.fromkeys(model for model, _ in work))
    return [
        {**item, "model": models.index(model)}
        # By model, because an engine that changes its model loads the whole of it.
        for (model, _), plan in sorted(zip(work, plans, strict=True), key=lambda pair: models.index(pair[0][0]))
        if plan.missing
        for item in _items(plan)
    ]


def _finished(mine: LeasedTurn[list[_JobPlan]], seconds: dict[str, float], scored: _Pass) -> list[Scores]:
    mine.check()
    return [
        _finish(plan, scored, seconds.get(str(plan.folder), 0.0)) if plan.missing else _found(plan)
        for plan in mine.found
    ]


@dataclasses.dataclass(frozen=True)
class _JobPlan:
    """A job, its scores, where they lie, and their lease; `part`: they are, or will be, those of a whole split."""

    job: ScoreJob
    what: str
    scores: ScoredPairs
    folder: Path
    lease: str
    made: Made | None
    part: bool

    @property
    def missing(self) -> bool:
        """Whether it has to be scored for itself."""
        return self.made is None and not self.part


def _plans(work: ScoringWork, engine: EngineChoice, layout: Layout) -> list[_JobPlan]:
    return [_plan(model, job, engine, layout, [other for one, other in work if one == model]) for model, job in work]


def _plan(
    model: ScoringModel, job: ScoreJob, engine: EngineChoice, layout: Layout, jobs: Sequence[ScoreJob]
) -> _JobPlan:
    """Say what a job still needs. Rows of a split that is scored whole, now or before, need nothing of their own.

    So they have the whole split's lease: who scores a sample waits for who scores everything.
    """
    what = f"scores of {model.folder} on the {job.split} pairs of {job.tokens_fp}"
    scores = scored_pairs(model, job, engine)
    whole = dataclasses.replace(scores, rows=None)
    made, lease = find(layout, whole), lease_key(whole)
    if job.rows is not None:
        if made is not None or dataclasses.replace(job, rows=None) in jobs:
            return _JobPlan(job, what, whole, made_folder(layout, whole), lease, made, part=True)
        made = find(layout, scores)
    return _JobPlan(job, what, scores, made_folder(layout, scores), lease, made, part=False)


def _items(plan: _JobPlan) -> Iterator[Item]:
    """Yield the blocks that a job still needs. Unreadable ones are removed: its lease must be held."""
    rows = _rows(plan.job)
    for block, start, end in missing_blocks(plan.folder, len(rows)):
        yield {
            "file": str(plan.job.file),
            "folder": str(plan.folder),
            "block": block,
            "rows": rows[start:end].tolist(),
        }


def scored_pairs(model: ScoringModel, job: ScoreJob, engine: EngineChoice) -> ScoredPairs:
    """Return the scores of a job under a model, as the store knows them."""
    if engine.foreign:
        name = f"{engine.label}, adapter" if model.adapter else engine.label
        quantise = engine.quantisation
    else:
        name, quantise = engine.name, model.quantise
    return ScoredPairs(
        tokens=job.tokens_fp,
        split=job.split,
        rows=job.rows,
        weights=model.weights,
        dtype=model.dtype,
        quantise=quantise,
        engine=name,
        code=model.code,
    )


def _rows(job: ScoreJob) -> npt.NDArray[np.int64]:
    if job.rows is not None:
        return np.asarray(job.rows, dtype=np.int64)
    return np.arange(len(open_table([job.file], [1.0], 0)))


def _found(plan: _JobPlan) -> Scores:
    """Return the scores of a job for which nothing had to be computed."""
    if plan.part or plan.made is None:
        return Scores(plan.folder, fingerprint(plan.scores.identity), len(_rows(plan.job)), 0.0, 0.0, reused=True)
    record = plan.made.record
    start, in_training = record.facts.get("start_seconds"), bool(record.facts.get(IN_TRAINING))
    return Scores(
        plan.folder,
        record.fingerprint,
        record.counts["pairs"],
        record.seconds,
        start,
        reused=True,
        in_training=in_training,
    )


def _finish(plan: _JobPlan, scored: _Pass, seconds: float) -> Scores:
    table = open_table([plan.job.file], [1.0], 0)
    rows = block_rows(plan.folder)
    counts = proved(rows, plan.folder, table.subset(_rows(plan.job)).pair_ids())
    plan.folder.mkdir(parents=True, exist_ok=True)
    facts = {"wall_seconds": round(time.monotonic() - scored.clock, 3), "start_seconds": round(scored.start, 3)}
    facts |= {IN_TRAINING: True} if scored.in_training else {}
    product = Product(counts, facts=facts)
    record = record_of(plan.scores, product, scored.started, seconds)
    finish(plan.folder, record, rows)
    return Scores(
        plan.folder,
        record.fingerprint,
        counts["pairs"],
        seconds,
        scored.start,
        reused=False,
        in_training=scored.in_training,
    )


def _run(
    models: list[ScoringModel],
    items: list[Item],
    spread: Spread,
    on_pairs: Callable[[int, int], None],
    look: Callable[[], None],
) -> tuple[dict[str, float], float]:
    """Have the items scored; return the seconds spent on each score folder, and on starting and ending."""
    total, done = sum(len(item["rows"]) for item in items), 0
    seconds: dict[str, float] = {}
    clock, began, ended = time.monotonic(), math.inf, -math.inf
    with spread(models, items) as scored:
        for row in scored:
            ended = time.monotonic()
            began = min(began, ended - row["seconds"])
            done += row["pairs"]
            seconds[row["folder"]] = seconds.get(row["folder"], 0.0) + row["seconds"]
            on_pairs(done, total)
            look()
    return seconds, time.monotonic() - clock - (ended - began)
