"""Score pairs under models: Ray Data over a pool of processes that each hold one engine, or without a Ray here.

The unit of work is a block of pairs, written by the process that scored it; a killed run goes on
with the blocks that are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.errors import DataError, some
from ratchet.pairs.table import TokenTable, open_table
from ratchet.reference.models import TRAINER, EngineChoice, Passes, ScoredPairs, ScoreJob, Scores, ScoringModel
from ratchet.reference.processes import MOST, attempt, gone_afterwards, sign
from ratchet.reference.rate import Rater, TrainerRater
from ratchet.reference.store import block_path, block_rows, finish, missing_blocks, proved, write_block
from ratchet.store import warned
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait
from ratchet.store.machine import keep_to_threads, on_ray
from ratchet.store.made import LeasedTurn, Made, Product, find, lease_key, made_folder, record_of, turn
from ratchet.store.record import now


@dataclasses.dataclass(frozen=True)
class Pool:
    """The processes that score: how many, what each of them takes, and how it lays out pairs.

    Without a Ray the calling process is the only one.
    """

    actors: int
    gpus: float
    passes: Passes


class BlockScorer:
    """Scores one block at a time. Ray Data keeps it alive in its own process, which `sign_in` makes known."""

    def __init__(
        self,
        make_rater: Callable[[], Rater],
        models: Sequence[ScoringModel],
        run: str,
        sign_in: Callable[[], None],
        warnings: str | None,
    ) -> None:
        warned.send(warnings)
        keep_to_threads()
        self.make_rater, self.models, self.run, self.sign_in = make_rater, models, run, sign_in
        self.tables: dict[str, TokenTable] = {}

    @functools.cached_property
    def rater(self) -> Rater:
        """The engine; made with the first block, because an error in a constructor comes back without its cause."""
        return self.make_rater()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["file"] not in self.tables:
            self.tables[item["file"]] = open_table([Path(item["file"])], [1.0], 0)
        table = self.tables[item["file"]]
        rows, folder = np.asarray(item["rows"]), Path(item["folder"])
        ids = [table.pair_id(int(row)) for row in rows]
        started = time.monotonic()
        self.sign_in()
        with attempt(block_path(folder, item["block"]), self.run) as deaths:
            if deaths >= MOST:
                raise deadly(ids, folder, deaths)
            if deaths:
                self.rater.halve()
            logps = self.rater.rate(self.models[item["model"]], table, rows)
            write_block(folder, item["block"], ids, logps)
        self.sign_in()  # again: an engine may have started processes of its own
        return {"pairs": len(rows), "seconds": time.monotonic() - started, "folder": item["folder"]}


def score_jobs(
    work: Sequence[tuple[ScoringModel, ScoreJob]],
    layout: Layout,
    pool: Pool,
    engine: EngineChoice = TRAINER,
    on_pairs: Callable[[int, int], None] = lambda done, total: None,
    wait: Wait = SILENTLY,
) -> list[Scores]:
    """Score every job under its model in one pass, and return where each one's scores lie.

    What the store already holds is not computed again. It waits for other processes without holding cluster resources.
    `on_pairs(done, total)` follows the work. `wait.look` is called before a pass begins and after each block, too.
    Raises the error of the process that failed, too; finished blocks stay.
    """
    with turn(layout, lambda mine: _plans(work, engine, layout), _missing, wait) as mine:
        if mine.leases:
            return _score(work, mine, engine, pool, on_pairs, wait.look)
        return [_found(plan) for plan in mine.found]


def _missing(plans: Sequence[_JobPlan]) -> dict[str, str]:
    return {plan.lease: plan.what for plan in plans if plan.missing}


def _score(
    work: Sequence[tuple[ScoringModel, ScoreJob]],
    mine: LeasedTurn[list[_JobPlan]],
    engine: EngineChoice,
    pool: Pool,
    on_pairs: Callable[[int, int], None],
    look: Callable[[], None],
) -> list[Scores]:
    started, clock = now(), time.monotonic()
    models = list(dict.fromkeys(model for model, _ in work))
    items = [
        {**item, "model": models.index(model)}
        # By model, because an engine that changes its model loads the whole of it.
        for (model, _), plan in sorted(zip(work, mine.found, strict=True), key=lambda pair: models.index(pair[0][0]))
        if plan.missing
        for item in _items(plan)
    ]
    seconds, start = _run(models, items, engine, pool, on_pairs, look) if items else ({}, 0.0)
    mine.check()
    return [
        _finish(plan, started, clock, seconds.get(str(plan.folder), 0.0), start) if plan.missing else _found(plan)
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


def _plans(work: Sequence[tuple[ScoringModel, ScoreJob]], engine: EngineChoice, layout: Layout) -> list[_JobPlan]:
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


def _items(plan: _JobPlan) -> Iterator[dict[str, Any]]:
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
    start = record.facts.get("start_seconds")
    return Scores(plan.folder, record.fingerprint, record.counts["pairs"], record.seconds, start, reused=True)


def _finish(plan: _JobPlan, started: str, clock: float, seconds: float, start: float) -> Scores:
    table = open_table([plan.job.file], [1.0], 0)
    scored = block_rows(plan.folder)
    counts = proved(scored, plan.folder, table.subset(_rows(plan.job)).pair_ids())
    plan.folder.mkdir(parents=True, exist_ok=True)
    facts = {"wall_seconds": round(time.monotonic() - clock, 3), "start_seconds": round(start, 3)}
    product = Product(counts, facts=facts)
    record = record_of(plan.scores, product, started, seconds)
    finish(plan.folder, record, scored)
    return Scores(plan.folder, record.fingerprint, counts["pairs"], seconds, start, reused=False)


def _run(
    models: list[ScoringModel],
    items: list[dict[str, Any]],
    engine: EngineChoice,
    pool: Pool,
    on_pairs: Callable[[int, int], None],
    look: Callable[[], None],
) -> tuple[dict[str, float], float]:
    """Send the items through the pool; return the seconds spent on each score folder, and on starting and ending."""
    total, done = sum(len(item["rows"]) for item in items), 0
    seconds: dict[str, float] = {}
    clock, began, ended = time.monotonic(), math.inf, -math.inf
    with contextlib.ExitStack() as stack:
        if on_ray():
            scored = _on_ray(models, items, engine, pool, stack.enter_context(gone_afterwards()))
        else:
            make = _maker(models, items, engine, dataclasses.replace(pool, actors=1))
            scorer = BlockScorer(make, models, uuid.uuid4().hex, lambda: None, warned.destination())
            scored = map(scorer, items)
        for row in scored:
            ended = time.monotonic()
            began = min(began, ended - row["seconds"])
            done += row["pairs"]
            seconds[row["folder"]] = seconds.get(row["folder"], 0.0) + row["seconds"]
            on_pairs(done, total)
            look()
    return seconds, time.monotonic() - clock - (ended - began)


def _on_ray(
    models: list[ScoringModel], items: list[dict[str, Any]], engine: EngineChoice, pool: Pool, register: Any
) -> Iterator[dict[str, Any]]:
    """Return what the pool's processes say of each item as it is done; they sign the register."""
    import ray

    make, sign_in = _maker(models, items, engine, pool), functools.partial(sign, register)
    # A foreign engine may be spread over more GPUs than a worker of the training has.
    gpus = max(pool.gpus, engine.tensor_parallel) if pool.gpus and engine.foreign else pool.gpus
    # A block of Ray Data for each item, or a process would be handed several at once, and report them together.
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        BlockScorer,
        fn_constructor_args=(make, models, uuid.uuid4().hex, sign_in, warned.destination()),
        # No more processes than blocks: each holds a whole engine.
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(items))),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    rows: Iterator[dict[str, Any]] = dataset.iter_rows()
    return rows


def _maker(
    models: list[ScoringModel], items: list[dict[str, Any]], engine: EngineChoice, pool: Pool
) -> Callable[[], Rater]:
    """Return what makes a process's engine."""
    if not engine.foreign:
        # Of a GPU what Ray gives it; the machine's memory is divided among the processes.
        share = min(1.0, pool.gpus) if pool.gpus else 1 / pool.actors
        return functools.partial(TrainerRater, pool.passes, "cuda" if pool.gpus else "cpu", share)
    from ratchet.reference.vllm_rater import VllmRater

    return functools.partial(VllmRater, engine, tuple(models), _longest(items), gpu=bool(pool.gpus))


def _longest(items: list[dict[str, Any]]) -> int:
    """Return the tokens of the longest sequence of all tables: the same for all processes, and after a restart."""
    lengths = [open_table([Path(file)], [1.0], 0).lengths_N3 for file in {item["file"] for item in items}]
    return max(int((rows_N3[:, 0] + rows_N3[:, 1:].max(1)).max()) for rows_N3 in lengths)


def deadly(ids: Sequence[str], folder: Path, deaths: int) -> DataError:
    """Return the error of a block that kills every process that begins it."""
    return DataError(
        f"{deaths} processes died over the same {len(ids)}: {some(ids)}",
        where=str(folder),
        fix="if memory ran out (see the kernel's log), lower cluster.score_actors, or take shorter ones",
    )
