"""The training loop: read this first. It knows no Ray and no DeepSpeed.

One step: divide the global batch, add up each micro-batch's gradient, agree on the figures in one
all-reduce, refuse what is not a number, update, write down what was done, end where it is told to.
The loss is the mean over the GLOBAL batch of pairs (sft: of answer tokens), so no split of the batch
changes a step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from ratchet.errors import RatchetError
from ratchet.model import memory
from ratchet.track.jsonl import Tracker
from ratchet.train import faults, first_step
from ratchet.train.balance import Balance
from ratchet.train.batches import GlobalBatch, Rows
from ratchet.train.checkpoint import Checkpoints, Saved
from ratchet.train.communicate import Communicator, agree
from ratchet.train.data import batches_of, course_of
from ratchet.train.engine import TrainingEngine
from ratchet.train.ledger import Ledger
from ratchet.train.notice import CODES, Ended, Notice
from ratchet.train.objective import (
    Data,
    Work,
    answer_logps,
    heldout_metrics,
    loss_function,
    metric_sums,
    metrics_of,
    normaliser,
    own_tokens,
    pass_over_prompt,
    passes_over,
    prefetch,
)
from ratchet.train.optimiser import learning_rate
from ratchet.train.skips import Skips
from ratchet.train.spec import TrainSpec


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the loop works with; `token_budget` is what one forward pass of one worker computes, `tracker` and
    `ledger` are worker 0's, None on the others. Worker 0 calls `told` in each step for the word of the driver.
    """

    engine: TrainingEngine
    data: Data
    heldout: Data | None
    token_budget: int
    communicator: Communicator
    checkpoints: Checkpoints
    tracker: Tracker | None
    ledger: Ledger | None
    told: Callable[[], Notice | None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Tally:
    """One worker's sums over its forward passes of one step: metrics by name and tokens computed; each pass's
    losses with their pairs' ids; where tokens went. Tensors are on the device, not yet read.
    """

    names: tuple[str, ...]
    sums: Tensor
    losses: list[tuple[tuple[str, ...], Tensor]]
    computed: int
    first: first_step.Figures
    balance: Balance


@dataclasses.dataclass(frozen=True)
class Agreed:
    """What all workers know of a step before its update: mean metrics over the global batch, the gradient's norm
    (None where only the update tells), the pairs whose loss is no finite number, and what they are told.
    """

    metrics: dict[str, float]
    norm: float | None
    nonfinite: list[str]
    notice: Notice | None


@dataclasses.dataclass(frozen=True)
class Result:
    """`last` is the last step's metrics; `first` the `FirstStep` that the check of step 1 saw, where it was made."""

    steps: int
    last: dict[str, float]
    first: dict[str, Any] | None


def run(spec: TrainSpec, parts: Parts, resumed: Saved | None = None) -> Result:
    """Train from the step after `resumed` (already loaded), or from the first, to the end.

    Raises TrainingError (a number that is not finite, a first loss that is not ln 2), StorageError,
    RunError, and Ended where it was told to end; each on all workers alike.
    """
    course, stage = course_of(spec, len(parts.data.table)), spec.stage
    first: dict[str, Any] | None = resumed.facts["first"] if resumed else None
    metrics: dict[str, float] = dict(resumed.facts["metrics"]) if resumed else {}
    skips = Skips(spec, parts.checkpoints, resumed.facts["skipped"] if resumed else [])
    error: RatchetError | None = None
    first_of = 1 + (resumed.step if resumed else 0)
    with prefetch(passes(spec, parts, first_of - 1)) as steps:
        clock = time.monotonic()
        for batch, works in steps:
            seed_step(spec, batch.step, parts.communicator.rank)
            parts.communicator.reached(batch.step)
            rate = learning_rate(stage.schedule, stage.learning_rate, batch.step, course.total_steps, stage.warmup)
            tally = accumulate(spec, parts, batch, works)
            agreed = agree_on(spec, parts, batch, tally, error)
            metrics = agreed.metrics
            if batch.step == 1 and spec.starts_at_reference and parts.data.reference is not None:
                seen = first_step.combine(parts.communicator.gather(tally.first))
                checked = first_step.check(spec, seen, metrics["loss"], len(batch.rows))
                if parts.communicator.rank == 0:
                    first_step.warn_of_turned(spec.step, checked)
                first = dataclasses.asdict(checked)
                metrics |= {f"first/{key}": first[key] for key in ("largest_h", "h_tolerance", "loss_tolerance")}
            faults.kill_if_due("step:kill", batch.step, parts.communicator.rank)
            metrics |= update(spec, parts, batch, rate, agreed, skips)
            if batch.step == first_of:
                memory.trim(parts.engine.device)  # what the first update made beside what stays
            metrics |= rates(spec, parts, batch, time.monotonic() - clock)
            last = batch.step == course.total_steps
            due = last or batch.step % stage.checkpoint.every == 0
            if due and parts.heldout is not None:
                metrics |= heldout_metrics(spec, parts.engine, parts.heldout, parts.token_budget, parts.communicator)
            error = write_down(parts, batch, metrics)
            if due or (agreed.notice and agreed.notice.saves):
                facts = {"metrics": metrics, "first": first, "workers": parts.communicator.world}
                save(parts, batch, {**facts, "layout": dict(parts.engine.layout), "skipped": skips.steps}, error)
            if agreed.notice and not last and (due or agreed.notice.kind != "grow"):
                end(parts, batch, agreed.notice, error)
            # Here, so that neither held-out passes nor a checkpoint count in the next step's speed.
            clock = time.monotonic()
    if parts.tracker is not None:
        parts.tracker.summary(metrics)
    return Result(course.total_steps, metrics, first)


def seed_step(spec: TrainSpec, step: int, rank: int) -> None:
    """Seed torch from (seed, step, worker), so that no random state has to be saved or restored."""
    # Seed, step and worker are so far apart that two of these sums are hardly ever the same.
    torch.manual_seed((spec.stage.seed * 1_000_003 + step * 4_096 + rank) & ((1 << 63) - 1))


def passes(spec: TrainSpec, parts: Parts, after: int) -> Iterator[tuple[GlobalBatch, list[Work]]]:
    """Yield each step's batch, and its forward passes on this worker."""
    table, device = parts.data.table, parts.engine.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # this runs in a thread, and the current device is each thread's own
    for batch in batches_of(spec, table, after):
        yield batch, works_of(spec, parts, batch.rows)


def works_of(spec: TrainSpec, parts: Parts, rows: Rows) -> list[Work]:
    """Return this worker's forward passes over a global batch, as many as every other worker has."""
    return list(passes_over(spec, parts.data, rows, parts.engine, parts.token_budget, parts.communicator))


def accumulate(spec: TrainSpec, parts: Parts, batch: GlobalBatch, works: list[Work]) -> Tally:
    """Run this worker's forward and backward passes of one step, and return its sums."""
    engine, rank = parts.engine, parts.communicator.rank
    faults.hang_if_due(batch.step, rank)
    faults.no_memory_if_due(batch.step, rank)
    share, loss = 1.0 / normaliser(spec, parts.data.table, batch.rows), loss_function(spec)
    sums: list[Tensor] = []
    losses: list[tuple[tuple[str, ...], Tensor]] = []
    figures: list[first_step.Figures] = []
    names: tuple[str, ...] = ()
    if batch.step == 1 and spec.starts_at_reference and not spec.supervised:
        # Before any update, for here policy and reference are the same weights.
        figures.append(first_step.measured(engine, works))
    balance = Balance(engine, parts.communicator)
    balance.begin(works)
    for k, prepared in enumerate(works, 1):
        work = prepared.to(engine.device)
        if work.role != "score":
            pass_over_prompt(engine, work, last=k == len(works), more=balance.loss)
            continue
        logps = answer_logps(engine, work)
        loss_B = loss(logps)
        metrics = metrics_of(spec, logps, loss_B)
        if faults.due("step:nan", batch.step, rank):
            loss_B = loss_B * math.nan
        engine.backward(loss_B.sum() * (work.weight * share) + balance.loss(work), last=k == len(works))
        names = tuple(metrics)
        sums.append(metric_sums(metrics) * work.weight)
        # Nothing is read from the device before the exchange: each reading would wait for all passes so far.
        losses.append((work.ids, loss_B.detach()))
        if batch.step == 1 and spec.starts_at_reference and not spec.supervised and work.weight:
            figures.append(first_step.figures(work.ids, logps))
    computed = sum(work.batch.computed for work in works)
    return Tally(names, torch.stack(sums).sum(0), losses, computed, first_step.combine(figures), balance)


def agree_on(spec: TrainSpec, parts: Parts, batch: GlobalBatch, tally: Tally, error: RatchetError | None) -> Agreed:
    """Return what all workers know of the step now.

    Raises on all workers where any is in trouble; `error` is what worker 0 met in writing the step before down. A step
    waits for the device here, and once more where only the update knows the norm.
    """
    communicator = parts.communicator
    norm = parts.engine.finish_gradient()
    nonfinite = sum((~torch.isfinite(loss_B)).sum() for _, loss_B in tally.losses)
    notice = parts.told() if communicator.rank == 0 else None
    length = 0.0 if norm is None else norm / communicator.world
    counts = [nonfinite, error is not None, CODES[notice.kind] if notice else 0, tally.computed, length]
    mine = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=tally.sums.device) for value in counts])
    # Until here every number stays on the device, so that a step waits for it only here.
    loads = tally.balance.sums()
    total = communicator.sum(torch.cat([loads, tally.sums, mine]))
    *sums, bad, troubled, told, computed, length = total[len(loads) :].tolist()
    if troubled:
        raise next(found for found in communicator.gather(error) if found is not None)
    if told:
        notice = communicator.gather(notice)[0]
    spoiled: list[str] = []
    if bad:
        own = [pair_id for ids, loss_B in tally.losses for pair_id in _nonfinite(ids, loss_B)]
        spoiled = sorted({pair_id for part in communicator.gather(own) for pair_id in part})
    per = normaliser(spec, parts.data.table, batch.rows)
    metrics = {name: value / per for name, value in zip(tally.names, sums, strict=True)}
    if spec.supervised:
        # Above 709 the exponential is no float64.
        metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
    metrics = {"epoch": batch.progress, **metrics, "tokens_computed": computed}
    metrics |= tally.balance.metrics(total[: len(loads)])
    return Agreed(metrics, None if norm is None else length, spoiled, notice)


def _nonfinite(ids: tuple[str, ...], loss_B: Tensor) -> list[str]:
    return [pair_id for pair_id, finite in zip(ids, torch.isfinite(loss_B).tolist(), strict=True) if not finite]


def update(
    spec: TrainSpec, parts: Parts, batch: GlobalBatch, rate: float, agreed: Agreed, skips: Skips
) -> dict[str, float]:
    """Update the weights; where loss or gradient are not finite stop, or skip the step as far as the stage allows.

    All workers know the same loss and norm, and so do the same. Nothing that is not finite reaches the weights.
    """
    skipped = {"update_skipped": 1.0, "learning_rate": rate}
    norm = agreed.norm
    if agreed.nonfinite:
        what = f"the loss of {len(agreed.nonfinite)} pairs is not finite"
        skips.skip(batch.step, what, agreed.nonfinite)
        norm = None if norm is None else math.nan  # a gradient may be finite where its loss is not
    done = parts.engine.step(rate, norm)
    if done.applied and math.isfinite(done.grad_norm) and not agreed.nonfinite:
        return {"grad_norm": done.grad_norm, "learning_rate": rate}
    ids = [parts.data.table.pair_id(int(row)) for row in batch.rows]
    if done.applied:
        raise skips.stopped(batch.step, "an update was made where loss or gradient are not finite", ids)
    if not agreed.nonfinite and spec.dtype != "float16":  # where loss scaling tries again with a smaller scale
        skips.skip(batch.step, "the loss is finite, but the gradient's norm is not", ids)
    return skipped


def rates(spec: TrainSpec, parts: Parts, batch: GlobalBatch, seconds: float) -> dict[str, float]:
    """Return pairs and tokens a second of this step, over all workers, padding not counted."""
    tokens = own_tokens(spec, parts.data.table, batch.rows)
    return {"pairs_per_second": len(batch.rows) / seconds, "tokens_per_second": tokens / seconds}


def write_down(parts: Parts, batch: GlobalBatch, metrics: dict[str, float]) -> RatchetError | None:
    """Log the step. An error is worker 0's alone, so it is returned: all agree on it at the next step."""
    try:
        if parts.tracker is not None:
            parts.tracker.log(batch.step, metrics)
        if parts.ledger is not None:
            parts.ledger.append(batch)
    except RatchetError as error:
        return error
    return None


def end(parts: Parts, batch: GlobalBatch, notice: Notice, error: RatchetError | None) -> NoReturn:
    """Raise Ended on all workers, or what worker 0 met in writing the last step down."""
    agree(parts.communicator, lambda: _raise(error))
    raise Ended(notice, batch.step)


def _raise(error: RatchetError | None) -> None:
    if error is not None:
        raise error


def save(parts: Parts, batch: GlobalBatch, facts: Mapping[str, Any], error: RatchetError | None) -> None:
    """Commit a checkpoint, once what it rests on is written down and durable."""

    def durable() -> None:
        _raise(error)
        if parts.ledger is not None:
            parts.ledger.make_durable()

    agree(parts.communicator, durable)
    parts.checkpoints.save(batch.step, parts.engine.save, facts)
