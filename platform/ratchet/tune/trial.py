"""One trial: a run of the plan at a point, its files, and what it came to.

The files are the sweep's truth: `point.json` when the trial is chosen, `trial.json` last. A trial
without `trial.json` is unfinished; run again, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import Status, Value
from ratchet.documents.trial import FORMAT, TrialEnd, TrialPoint, TrialStep
from ratchet.errors import CorruptError, RatchetError, RunError, StoppedError, error_values
from ratchet.plan.reading import in_yaml
from ratchet.plan.schema import Plan
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import read_sealed, write_sealed, write_sealed_once
from ratchet.store.layout import Layout, root_of
from ratchet.store.record import Record, now, read_json_or_none, read_record
from ratchet.track.progress import duration
from ratchet.tune.watch import TrialStop

POINT, TRIAL, STOP = "point.json", "trial.json", "stop.json"
_log = logging.getLogger(__name__)
PAUSE = "pause.json"
"""The file of a sweep's folder that asks all its trials to save and to end, with the reason: they go on later.

Trials run on the driver's machine, so no cache of a network disk says that the file is not there.
"""
TASK = "task"
"""The key of a trial's task in its configuration for Ray Tune."""
PASSING = frozenset({"ClusterError", "EndpointError", "EngineDeathError", "StorageError"})
"""Errors of the machine and not of the point: a trial that ended with one is run again when the sweep is."""


@dataclasses.dataclass(frozen=True)
class TrialTask:
    """A trial as its process gets it. `text` is its plan as written, `home` the folder that paths in it start from.

    `objectives` are the metrics that the trial must have; `scheduled` is the one that a scheduler watches.
    """

    sweep: str
    name: str
    number: int
    point: Mapping[str, Any]
    point_id: str
    seed: int | None
    by: str
    plan: Plan
    text: str
    home: str
    objectives: tuple[str, ...]
    scheduled: str | None = None

    @property
    def folder(self) -> Path:
        """The trial's folder, which is its plan's run folder."""
        return self._layout.run(self.name)

    def folder_of(self, maker: str) -> Path:
        """Return the folder of what made a step: a trial, as `<sweep>/<trial>`, or a plan."""
        sweep, _, name = maker.rpartition("/")
        return self._layout.trials(sweep).run(name) if sweep else Layout(self._layout.root).run(name)

    def asked(self) -> str | None:
        """Return why the sweep was asked to stop, if it was."""
        told = read_json_or_none(self._layout.sweep(self.sweep) / PAUSE)
        return None if told is None else str(told["what"])

    @property
    def lease(self) -> Path:
        """The lease of the process that runs the trial."""
        return self._layout.lease(f"trial-{self.sweep}-{self.name}")

    @property
    def _layout(self) -> Layout:
        return Layout(root_of(self.plan.cluster.storage)).trials(self.sweep)


@dataclasses.dataclass(frozen=True)
class WrittenTrial:
    """A trial as its folder has it; `end` is None where it has not ended."""

    folder: Path
    point: TrialPoint
    end: TrialEnd | None


def written_trials(folder: Path) -> list[WrittenTrial]:
    """Return the trials in a folder in the order in which they were chosen; a trial has a point.json.

    Raises CorruptError where a file of one is not as it was written.
    """
    places = [path.parent for path in folder.glob(f"*/{POINT}")]
    points = {place: point for place in places if (point := read_point(place)) is not None}
    found = [WrittenTrial(place, point, read_end(place)) for place, point in points.items()]
    return sorted(found, key=lambda one: one.point.number)


def write_point(task: TrialTask) -> TrialPoint:
    """Write down that a trial was chosen, unless that is known, and return what stands there. Raises StorageError."""
    found = read_point(task.folder)
    if found is None:
        found = TrialPoint(task.name, task.number, task.point, task.point_id, task.seed, task.by, now())
        write_sealed(task.folder / POINT, to_values(found))
    return found


def read_point(folder: Path) -> TrialPoint | None:
    """Return a trial's point.json; None where it has none. Raises CorruptError where it is not as it was written."""
    fix = "put it back from a copy, or delete the trial's folder: it is chosen again"
    values = read_sealed(folder / POINT, fix)
    if values is None:
        return None
    return from_values(TrialPoint, values, where=str(folder / POINT), fix=fix, error=CorruptError)


def read_end(folder: Path) -> TrialEnd | None:
    """Return a trial's trial.json; None where it has not ended.

    One that is not as it was written is no end, and a warning says so: the trial runs again, and finds its steps.
    Raises CorruptError where it is as it was written, and yet says something else.
    """
    try:
        values = read_sealed(folder / TRIAL)
    except CorruptError as error:
        _log.warning("%s is damaged (%s): the trial counts as unfinished, and runs again", error.where, error.what)
        return None
    if values is None:
        return None
    fix = "the trial's folder can be deleted: the trial is run again"
    return from_values(TrialEnd, values, where=str(folder / TRIAL), fix=fix, error=CorruptError)


def end_trial(task: TrialTask, status: Status, **found: Any) -> TrialEnd:
    """Write down how a trial ended, once: the first end that is written stands. Raises StorageError.

    `found` are further fields of a TrialEnd.
    """
    made = {"steps": made_steps(task.folder), "started": now(), **found}
    end = TrialEnd(FORMAT, task.name, task.number, task.point, task.point_id, task.seed, status, **made)
    # The trial's process and a driver that takes it for lost may both end it: the first file stands.
    if write_sealed_once(task.folder / TRIAL, to_values(end)):
        return end
    if (before := read_end(task.folder)) is None:  # the file is damaged, and so no end
        write_sealed(task.folder / TRIAL, to_values(end))
    return before or end


def run_trial(task: TrialTask, run: Callable[[], Mapping[str, Value]], wandb: str | None = None) -> TrialEnd:
    """Run a trial by `run`, which returns its metrics; write down whether it finished, was stopped, or failed and why.

    `wandb` is its run there. An error that is not one of ours is raised: Ray runs the trial again, and it
    goes on where it was. So is StoppedError: it goes on when the sweep does.
    """
    before = read_end(task.folder)
    if before is not None and not passing(before):
        return before
    # Away before it runs: a kill from here on must leave the trial unfinished, not failed as it was before.
    (task.folder / TRIAL).unlink(missing_ok=True)
    started, clock = now(), time.monotonic()
    status: Status = "finished"
    reason: dict[str, str] | None = None
    metrics: dict[str, Value] = {}
    try:
        metrics = dict(run())
        absent = [name for name in task.objectives if metrics.get(name, Value(None)).value is None]
        if absent:
            raise RunError(f"the run has no value of {', '.join(absent)}", where=str(task.folder), fix="see its report")
    except StoppedError:
        raise
    except (RatchetError, TrialStop) as error:
        told = read_json_or_none(task.folder / STOP)
        # A trial that is ended by a scheduler ends with an error of training: the file says which of the two it was.
        if told is not None and type(error).__name__ not in PASSING:
            status, reason = "stopped", {"kind": "Stopped", "what": told["what"], "where": "", "fix": ""}
        else:
            assert isinstance(error, RatchetError)  # noqa: S101  a TrialStop comes from that file
            status, reason = "failed", error_values(error)
    seconds = round(time.monotonic() - clock, 3)
    return end_trial(task, status, reason=reason, metrics=metrics, started=started, seconds=seconds, wandb=wandb)


def passing(end: TrialEnd) -> bool:
    """Whether a trial failed of something that may be over when it is run again."""
    return end.status == "failed" and end.reason is not None and end.reason["kind"] in PASSING


def made_steps(folder: Path) -> tuple[TrialStep, ...]:
    """Return the finished steps of a trial, in the order in which they build on one another."""
    found = []
    for path in (folder / "steps").glob("[!.]*"):  # a link that is being made has a name with a dot before it
        record = read_record(path)
        if record is not None:
            found.append((path.name, path.resolve().name, record))
    ids = {name: fp for name, fp, _ in found}
    # A step begins after those that it builds on.
    found.sort(key=lambda one: (one[2].started, one[0]))
    return tuple(_step(name, fp, record, ids) for name, fp, record in found)


def _step(name: str, fp: str, record: Record, ids: Mapping[str, str]) -> TrialStep:
    facts = record.facts
    scored = facts.get("reference")
    return TrialStep(
        id=fp,
        name=name,
        kind=record.identity["kind"],
        chunk=facts["chunk"],
        start=ids.get(facts["start"]),
        made_by=facts["made_by"],
        started=record.started,
        pairs=record.counts.get("pairs_seen", 0),
        seconds=record.seconds,
        references=tuple(Path(one).name for one in scored["records"]) if scored else (),
        reference_pairs=scored["pairs"] if scored else 0,
        reference_seconds=scored["seconds"] if scored else 0.0,
    )


def describe_trial(task: TrialTask) -> str:
    """Return what a trial is, for people."""
    values = ", ".join(f"{key} {in_yaml(value)}" for key, value in task.point.items())
    return f"{task.name}: {values}" + ("" if task.seed is None else f", seed {task.seed}")


def describe_outcome(task: TrialTask, end: TrialEnd) -> str:
    """Return what a trial came to, for people."""
    if end.status != "finished":
        return f"{task.name:<20} {end.status}: {end.why}"
    found = []
    for name in task.objectives:
        one = end.metrics[name]
        sure = "" if one.standard_error is None else f" ± {one.standard_error:.2g}"
        found.append(f"{name} {one.value:.4g}" + (sure if one.low is None else f" ({one.low:.2g} to {one.high:.2g})"))
    return f"{task.name:<20} finished in {duration(end.seconds)}: {', '.join(found)}"
