"""Run a sweep, or go on with it: trials of one plan on one Ray, and the page of what came of them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ratchet.errors import RunError
from ratchet.pipeline.session import native_noise_to, needs, ray_session, runs_at_once
from ratchet.pipeline.summary import hardware
from ratchet.plan.reading import in_yaml
from ratchet.report.sweep_data import Sweep as Outcome
from ratchet.report.sweep_page import write_sweep_page
from ratchet.store.files import storage_errors, write_json, write_text
from ratchet.store.fingerprint import changed_keys
from ratchet.store.layout import Layout
from ratchet.store.lease import leased
from ratchet.store.lock import hold
from ratchet.store.record import now, read_json_or_none
from ratchet.track.progress import Console, duration
from ratchet.track.trial import tell_end
from ratchet.tune.choose import Chooser, Chosen, read_trials
from ratchet.tune.definition import TRIALS, Sweep
from ratchet.tune.gather import Asked, gather, write_sweep
from ratchet.tune.marks import order_marks
from ratchet.tune.points import Trial, trial_count
from ratchet.tune.process import end_from_outside, work
from ratchet.tune.promote import Origin, promote, winner
from ratchet.tune.trial import TrialTask, error_of, write_point
from ratchet.tune.trial_plan import trial_document

IDENTITY, CALLS = "identity.json", "calls.json"


def run_sweep(sweep: Sweep, *, fresh: bool = False) -> tuple[Path, Outcome]:
    """Run a sweep to the end of its budget; return its page, and what came of it. One that was cut short goes on.

    Raises RunError where another process is at it, or its folder holds trials of another plan or
    space and `fresh` is not given; ClusterError where Ray is too small for one trial.
    """
    folder, console = sweep.folder, Console()
    with hold(folder):
        _claim(sweep, console, fresh=fresh)
        clock = Clock(folder / CALLS)
        chooser = Chooser(sweep.space, folder / TRIALS, clock.before / 3600)
        if chooser.ended_before:
            console.say(f"{sweep.name}: {len(chooser.ended_before)} trials are there already")
        first = chooser.next()
        if first is not None:
            cluster = sweep.plan.cluster
            at_once = sweep.space.at_once or max(1, int((os.cpu_count() or 1) // needs(cluster)["CPU"]))
            with native_noise_to(folder / "native.log"), ray_session(cluster, at_once):
                _run(sweep, chooser, first, clock, console)
        clock.tick()
        return write_page(sweep, clock.seconds)


def run_one(sweep: Sweep, values: Mapping[str, Any], seed: int | None) -> Path:
    """Run one trial in this process, as an agent of wandb asks for it, and return its report.

    Several processes may do so in one sweep at a time. Raises what the trial failed of.
    """
    _claim(sweep, Console(), fresh=False)
    numbers = [one.chosen.number for one in read_trials(sweep.folder / TRIALS)]
    task = sweep.task(Chosen(Trial(values, seed), 1 + max(numbers, default=0), "agent"))
    with ray_session(task.plan.cluster):
        document = work(task, lambda line: None)
    write_page(sweep, sum(call["seconds"] for call in read_json_or_none(sweep.folder / CALLS) or []))
    if document["status"] != "finished":
        raise error_of(document["reason"])
    return task.folder / "report.html"


def _run(sweep: Sweep, chooser: Chooser, first: Chosen, clock: Clock, console: Console) -> None:
    """Run the trials that are left, and say what becomes of each."""
    from ratchet.tune.ray_trials import run_trials
    from ratchet.tune.schedule import scheduler_of

    of = trial_count(sweep.space)
    waiting = iter(itertools.chain([first], iter(chooser.next, None)))

    def choose() -> TrialTask | None:
        chosen = next(waiting, None)
        if chosen is None:
            return None
        clock.tick()
        task = sweep.task(chosen)
        write_point(task)
        console.step(f"{task.number}{f' of {of}' if of else ''}", words(task))
        return task

    def take(task: TrialTask, status: str, reason: Mapping[str, str]) -> None:
        document, run = end_from_outside(task, status, reason)
        chooser.ended(task.name, document)
        clock.tick()
        console.say(said(task, document))
        if run is not None:
            telling.submit(tell_end, run, document["status"], document["reason"]["what"])

    with ThreadPoolExecutor(1, "ratchet-wandb") as telling:  # one after another: wandb has one run in a process
        run_trials(
            work,
            choose,
            take,
            at_once=sweep.space.at_once or runs_at_once(sweep.plan.cluster),
            scheduler=scheduler_of(
                sweep.space.scheduler, [sweep.folder / TRIALS / name for name in chooser.ended_before]
            ),
            folder=sweep.folder,
        )


def words(task: TrialTask) -> str:
    """Return what a trial is, for people."""
    values = ", ".join(f"{key} {in_yaml(value)}" for key, value in task.point.items())
    return f"{task.name}: {values}" + ("" if task.seed is None else f", seed {task.seed}")


def said(task: TrialTask, document: Mapping[str, Any]) -> str:
    """Return what a trial came to, for people."""
    if document["status"] != "finished":
        return f"{task.name:<20} {document['status']}: {document['reason']['what']}"
    found = []
    for name in task.objectives:
        value, error = (document["metrics"][name][key] for key in ("value", "standard_error"))
        found.append(f"{name} {value:.4g}" + ("" if error is None else f" ± {error:.2g}"))
    return f"{task.name:<20} finished in {duration(document['seconds'])}: {', '.join(found)}"


class Clock:
    """How long all calls have worked on a sweep, in seconds; kept beside it, as of the last `tick`."""

    def __init__(self, path: Path) -> None:
        self.path, self._start = path, time.monotonic()
        self._calls: list[dict[str, Any]] = read_json_or_none(path) or []
        self.before = sum(call["seconds"] for call in self._calls)
        self._calls.append({"started": now(), "seconds": 0.0})
        self.tick()

    @property
    def seconds(self) -> float:
        """Seconds of all calls."""
        return float(self.before + self._calls[-1]["seconds"])

    def tick(self) -> None:
        """Write down the time so far. Raises StorageError."""
        self._calls[-1]["seconds"] = round(time.monotonic() - self._start, 1)
        write_json(self.path, self._calls)


def _claim(sweep: Sweep, console: Console, *, fresh: bool) -> None:
    """Refuse a folder that holds trials of something else, or put it aside where `fresh`."""
    folder, identity = sweep.folder, sweep.identity
    before = read_json_or_none(folder / IDENTITY)
    if before is not None and fresh:
        aside = folder.with_name(f"{folder.name}.{now().replace(':', '')}")
        with storage_errors(aside):
            aside.mkdir()
            for path in sorted(folder.iterdir(), key=lambda path: path.name == IDENTITY):  # which says whose they are
                if path.name != "lock":
                    path.rename(aside / path.name)
        console.say(f"{sweep.name:<20} put aside as {aside}")
    elif before is not None and (changes := changed_keys(before, identity)):
        raise RunError(
            f"the sweep {sweep.name} was begun with something else: {'; '.join(changes)}",
            where=str(folder),
            fix="run with --fresh to put it aside and begin again (what its trials trained is found again), "
            "or give the space another name",
        )
    write_json(folder / IDENTITY, identity)
    write_text(folder / "plan.yaml", sweep.plan_text)
    write_text(folder / "space.yaml", sweep.space_text)


def write_page(sweep: Sweep, seconds: float) -> tuple[Path, Outcome]:
    """Gather what all trials have come to, write `sweep.json` and the page, and return that. Raises StorageError."""
    layout = Layout(Path(sweep.plan.cluster.storage).resolve())
    asked = Asked(sweep.plan, sweep.space, sweep.plan_text, sweep.space_text, trial_count(sweep.space))
    with leased(layout.lease(f"sweep-{sweep.name}"), what=f"the page of {sweep.name}"):  # the last one knows of all
        found = [one.document for one in read_trials(sweep.folder / TRIALS) if one.document is not None]
        marks = order_marks(sweep.space, sweep.plan, found, layout)
        document = gather(layout, asked, seconds=seconds, marks=marks, hardware=hardware())
        write_sweep(sweep.folder, document)
        page, _ = write_sweep_page(sweep.folder, dataclasses.asdict(document))
    return page, document


def promote_point(sweep: Sweep, outcome: Outcome, point: str | None, jobs: Path, command: str) -> Path:
    """Write the best point of a sweep, or the one whose id is `point`, as a plan into `jobs`, and return its path.

    Raises PlanError where there is no such point, RunError where another file has the name, StorageError.
    """
    best = winner(outcome, point)
    document = trial_document(sweep.document, sweep.space, best.values, None, sweep.written)
    return promote(document, outcome, best, Origin(sweep.plan, sweep.folder, command), jobs)
