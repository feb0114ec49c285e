"""One training worker, from the spec to the published model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratchet import redact
from ratchet.documents.events import Event, events_of, write_event
from ratchet.errors import RatchetError, RunError, StorageError, error_values
from ratchet.model.memory import peak_memory_mb
from ratchet.store import machine, warned
from ratchet.store.codec import to_values
from ratchet.store.files import gone, write_json
from ratchet.store.lease import highest
from ratchet.track.jsonl import Tracker, open_tracker
from ratchet.train import budget, gathered, ledger, loop
from ratchet.train.checkpoint import Checkpoints, Saved
from ratchet.train.communicate import Communicator, Group, agree, limit_waiting
from ratchet.train.data import course_of, open_data
from ratchet.train.effect import sample_of
from ratchet.train.engine import MakeEngine, TorchEngine, TrainingEngine
from ratchet.train.masters import carry, check_masters
from ratchet.train.notice import WORKERS, Ended, Notice, WorkerNodes, read_notice
from ratchet.train.optimiser import warn_of_warmup
from ratchet.train.owed import score_owed
from ratchet.train.publish import publish_model
from ratchet.train.rehearsal import rehearse
from ratchet.train.scorer import build_scorer, recompute_activations
from ratchet.train.spec import TrainSpec


def ray_worker(
    config: Mapping[str, Any], around: Callable[[MakeEngine], MakeEngine] = lambda make: make
) -> dict[str, Any]:
    """Run one Ray Train worker; return its outcome as JSON types. `around` may put an engine around the engine.

    A RatchetError is returned under ``error``; training that ended because it was told to is under ``ended``. Anything
    else is raised, and Ray starts the group again from our checkpoint.
    """
    spec, group, device, make_engine = _join(config)
    try:
        with noting_failures(spec, group), group.naming_the_missing():
            _tell_nodes(spec, group)
            rehearsed = rehearse(spec, group, device, make_engine)
            step = begin_step(spec, group, device, around(make_engine))
            with step.books:
                trained = loop.run(spec, step.parts, step.resumed)
            return {"result": finish_step(spec, step, trained, rehearsed)}
    except Ended as end:
        return {"ended": ended_of(end, group.world)}
    except RatchetError as error:
        # All workers agree on it and it would come again, so Ray must not start the group again.
        return {"error": error_values(error)}


def rehearsing_worker(config: Mapping[str, Any]) -> dict[str, Any]:
    """Run one Ray Train worker that rehearses a step, and trains nothing; return its outcome as `ray_worker` does."""
    spec, group, device, make_engine = _join(config)
    try:
        with noting_failures(spec, group), group.naming_the_missing():
            _tell_nodes(spec, group)
            rehearse(spec, group, device, make_engine)
    except RatchetError as error:
        return {"error": error_values(error)}
    return {"ended": ended_of(Ended(Notice("known", "rehearsed"), 0), group.world)}


def _join(config: Mapping[str, Any]) -> tuple[TrainSpec, Group, torch.device, MakeEngine]:
    """Make this process a worker of its group: threads, device, and what makes its engine."""
    redact.guard_process()
    warned.send(config["warnings"])
    spec: TrainSpec = config["spec"]
    os.environ.update(config["faults"])
    # DeepSpeed reads it once, when it is imported.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if spec.cluster.gpus_per_worker else "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    torch.set_num_threads(int(config["threads"]))
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # nccl sends objects through the current device
    make_engine = engine_for(spec)
    group = Group(device)
    limit_waiting(spec.cluster.collective_timeout)
    return spec, group, device, make_engine


def ended_of(end: Ended, workers: int) -> dict[str, Any]:
    """Return as JSON types on which notice, after which step and with how many workers training ended."""
    return {"kind": end.notice.kind, "why": end.notice.why, "step": end.step, "workers": workers}


def engine_for(spec: TrainSpec) -> MakeEngine:
    """Return what makes the engine of a step; DeepSpeed is loaded and started where it divides anything."""
    if spec.cluster.deepspeed.zero == 0:
        return TorchEngine
    from ratchet.train.deepspeed import DeepSpeedEngine, start_deepspeed

    start_deepspeed()
    return DeepSpeedEngine


def _tell_nodes(spec: TrainSpec, group: Group) -> None:
    """Write down which nodes the workers are on, for the driver, which watches those."""
    import ray

    nodes = group.gather(ray.get_runtime_context().get_node_id())
    if group.rank == 0:
        write_json(Path(spec.folder) / WORKERS, to_values(WorkerNodes(tuple(nodes))))


@contextlib.contextmanager
def noting_failures(spec: TrainSpec, group: Communicator) -> Iterator[None]:
    """Note what ends this worker, unless it is the step's end or an error of Ratchet's own."""
    try:
        yield
    except (Ended, RatchetError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        with contextlib.suppress(StorageError):  # what is told is the failure, and not that its note found no room
            said = f"worker {group.rank} of {group.world} failed: {lines[0]}"
            event = Event(code="worker-failed", what=said, worker=group.rank, workers=group.world)
            write_event(Path(spec.folder), event)
            if machine.out_of_memory(f"{type(error).__name__}: {lines[0]}"):
                budget.halve(spec, "memory ran out")  # a group that Ray begins again would run out of it, too
        raise


@dataclasses.dataclass(frozen=True)
class BegunStep:
    """A step that is ready for the loop: its parts, the checkpoint that it goes on from, and `books`, which closes
    metrics and ledger. `began` is a reading of the monotonic clock and `setup` the seconds since then.
    """

    parts: loop.Parts
    resumed: Saved | None
    books: contextlib.ExitStack
    unshared: str | None
    began: float
    setup: float


def begin_step(
    spec: TrainSpec,
    communicator: Communicator,
    device: torch.device,
    make_engine: MakeEngine,
    told: Callable[[], Notice | None] | None = None,
) -> BegunStep:
    """Make all that the loop needs, with whatever engine and workers there are, from the newest good checkpoint.

    `told` gives the word of the driver; left out, it is read from the step's folder. Raises RatchetError, alike on
    all workers.
    """
    clock = time.monotonic()
    data, heldout = agree(communicator, lambda: open_data(spec))
    course = agree(communicator, lambda: course_of(spec, len(data.table)))
    scorer = agree(communicator, lambda: build_scorer(spec, device, first=communicator.rank == 0))
    # Before an engine divides the weights.
    reach = gathered.adapters_reach(scorer.model) if spec.stage.lora is not None else None
    agree(communicator, lambda: check_masters(spec, scorer, first=communicator.rank == 0))
    engine = make_engine(spec, scorer, device)
    carry(spec, engine)
    agree(communicator, lambda: check_driver(spec))
    checkpoints = Checkpoints(Path(spec.folder), communicator, spec.stage.checkpoint.keep)
    resumed = _go_on(engine, checkpoints)
    after = resumed.step if resumed else 0
    if communicator.rank == 0:
        _note_start(Path(spec.folder), checkpoints, communicator.world, after)
        if reach is not None:
            gathered.say_reach(reach, Path(spec.folder))
        if not after:
            warn_of_warmup(spec.step, course.total_steps, spec.stage.warmup)
    engine.train(True)
    token_budget = budget.choose(spec, engine, data, communicator, lambda: recompute_activations(scorer.causal))
    setup = time.monotonic() - clock
    told = told or functools.partial(read_notice, Path(spec.folder), spec.stop_file)
    with contextlib.ExitStack() as stack:
        tracker, book = agree(communicator, lambda: _open_books(spec, communicator, after, stack))
        parts = loop.Parts(engine, data, heldout, token_budget, communicator, checkpoints, tracker, book, told)
        return BegunStep(parts, resumed, stack.pop_all(), budget.why_unshared(scorer.packing, data.table), clock, setup)


def finish_step(
    spec: TrainSpec, step: BegunStep, trained: loop.Result, rehearsed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Prove what was trained on, publish the model, score what it owes, and return the outcome as JSON types.

    `rehearsed` is what a rehearsal before the step saw.

    Raises RatchetError, alike on all workers.
    """
    training, parts, folder = time.monotonic() - step.began - step.setup, step.parts, Path(spec.folder)
    communicator, checkpoints = parts.communicator, parts.checkpoints
    course = course_of(spec, len(parts.data.table))
    counts = agree(communicator, lambda: ledger.prove_ledger(folder / ledger.NAME, course))
    of_file = np.bincount(parts.data.table.file_of_N, minlength=len(spec.tokens)).tolist()
    chosen = _choose(spec, parts.engine, checkpoints, course.total_steps)
    checkpoints.still_ours()  # another group may have taken over since the last checkpoint, and publishes then
    published = publish_model(spec, parts.engine, sample_of(spec, parts.data, parts.heldout), communicator, chosen)
    peak = max(communicator.gather(peak_memory_mb(parts.engine.device)))
    publishing, clock = time.monotonic() - step.began - step.setup - training, time.monotonic()
    scored = score_owed(spec, parts, published)
    return {
        "steps": trained.steps,
        "counts": {**counts, "of_file": of_file},
        "metrics": trained.last,
        "rehearsal": rehearsed,
        "first": trained.first,
        "published": published.facts,
        "scored": scored,
        "resumed_from": step.resumed.step if step.resumed else 0,
        "attempt": checkpoints.attempt,
        "events": [to_values(event) for event in events_of(folder)],
        "workers": communicator.world,
        "token_budget": parts.token_budget,
        "unshared": step.unshared,
        "peak_memory_mb": peak,
        "seconds": {
            "rehearsal": 0.0 if rehearsed is None or rehearsed["reused"] else rehearsed.get("seconds", 0.0),
            "setup": step.setup,
            "training": training,
            "publishing": publishing,
            "scoring": time.monotonic() - clock,
        },
    }


def check_driver(spec: TrainSpec) -> None:
    """Raise RunError where another driver has taken the run over from the one that started these workers.

    Raises StorageError where the lease's folder is gone: a worker's node may have lost the storage alone.
    """
    if spec.lease is None:
        return
    found = highest(Path(spec.lease))
    if not found:
        raise gone(Path(spec.lease))
    if found != spec.generation:
        raise RunError(
            "another driver has taken this run over",
            where=spec.lease,
            fix="nothing to do here: that one goes on with it",
            code="run.taken-over",
        )


def _note_start(folder: Path, checkpoints: Checkpoints, workers: int, after: int) -> None:
    for event in checkpoints.events:
        write_event(folder, event)
    many = f"{workers} worker{'s' * (workers > 1)} ({checkpoints.attempt})"
    start = Event(code="group-began", what=f"{many} began", attempt=checkpoints.attempt, workers=workers)
    if after:
        start = dataclasses.replace(start, code="group-went-on", what=f"{many} went on after step {after}", step=after)
    write_event(folder, start)


def _go_on(engine: TrainingEngine, checkpoints: Checkpoints) -> Saved | None:
    """Load the newest good checkpoint, and return it, if there is one."""
    found = checkpoints.newest()
    if found is not None:
        _check_layout(found, engine)
        engine.load(found.path, found.facts["workers"])
    return found


def _check_layout(found: Saved, engine: TrainingEngine) -> None:
    """Refuse a checkpoint that this engine cannot read, naming what differs."""
    old, new = found.facts.get("layout", {}), dict(engine.layout)
    differs = [f"{key} {old.get(key)} → {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differs:
        raise RunError(
            f"the checkpoint of step {found.step} was written with another cluster: {', '.join(differs)}",
            where=str(found.path),
            fix="go on with the cluster settings it was begun with, or start this step over with --fresh",
            code="run.other-engine",
        )


def _open_books(
    spec: TrainSpec, communicator: Communicator, after: int, stack: contextlib.ExitStack
) -> tuple[Tracker | None, ledger.Ledger | None]:
    """Open metrics and ledger on worker 0, both cut back to step `after`."""
    if communicator.rank != 0:
        return None, None
    folder = Path(spec.folder)
    book = stack.enter_context(contextlib.closing(ledger.Ledger(folder / ledger.NAME, after)))
    return stack.enter_context(contextlib.closing(open_tracker(folder, spec.track, after))), book


def _choose(spec: TrainSpec, engine: TrainingEngine, checkpoints: Checkpoints, last: int) -> int:
    """Load the checkpoint to publish where it is not the last; return its step."""
    if spec.stage.checkpoint.publish == "last":
        return last
    best = checkpoints.best()
    if best is None or best.step == last:
        return last
    if not checkpoints.verify(best):
        raise RunError(
            f"the best checkpoint, of step {best.step}, is broken",
            where=str(best.path),
            fix="publish the last one (checkpoint.publish: last), or start this step over with --fresh",
        )
    engine.load(best.path, best.facts["workers"])
    return best.step
