"""Run a sweep, or go on with it: trials of one plan on one Ray, and the page of what came of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import Status, SweepOutcome
from ratchet.documents.trial import TrialEnd
from ratchet.errors import (
    PlanError,
    RatchetError,
    RunError,
    StoppedError,
    StorageError,
    TrainingError,
    error_from,
    error_values,
)
from ratchet.model.folder import digest_model
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.answered import Question
from ratchet.pipeline.session import native_noise_to, needs, ray_session, runs_at_once
from ratchet.pipeline.stop import Stop, stoppable
from ratchet.pipeline.summary import hardware
from ratchet.plan.schema import Plan
from ratchet.report.diagnoses import lines
from ratchet.report.sweep.page import write_sweep_page
from ratchet.store import warned
from ratchet.store.files import at_home, open_storage, storage_errors, write_json, write_text
from ratchet.store.fingerprint import changed_keys, fingerprint
from ratchet.store.layout import layout_at, root_of
from ratchet.store.lease import Lease, leased
from ratchet.store.made import hold
from ratchet.store.record import now, read_json_or_none
from ratchet.track.heard import Heard
from ratchet.track.progress import Console, line_by_line
from ratchet.track.trial import Ends
from ratchet.tune.background import Clock, Pages
from ratchet.tune.choose import Chooser, Chosen
from ratchet.tune.definition import TRIALS, Sweep, keep_answer_of_sweep
from ratchet.tune.gather import SweepRequest, gather, write_sweep
from ratchet.tune.order_marks import order_marks
from ratchet.tune.points import SeededPoint, trial_count
from ratchet.tune.process import LOG, end_from_outside, work
from ratchet.tune.promote import Origin, point_to_promote, promote
from ratchet.tune.trial import (
    PAUSE,
    POINT,
    TRIAL,
    TrialTask,
    describe_outcome,
    describe_trial,
    end_trial,
    write_point,
    written_trials,
)
from ratchet.tune.trial_plan import trial_document

IDENTITY, CALLS = "identity.json", "calls.json"
RUNS = (".", f"{TRIALS}/*")
"""Run folders of a sweep, as patterns: its own, and those of its trials."""
_MOST_REFUSED = 100
"""Points in a row that the plan does not allow, after which a sweep gives up."""


def run_sweep(sweep: Sweep, *, fresh: bool = False, asked: Question | None = None) -> tuple[Path, SweepOutcome]:
    """Run a sweep to the end of its budget; return its page, and what came of it. One that was cut short goes on.

    That is kept as the answer to `asked`. Raises RunError where another process is at it, or its folder holds trials of
    another plan or space and `fresh` is not given; ClusterError where Ray is too small for one trial; StoppedError
    where a signal asked for the end, once trials that train have saved.
    """
    folder, console = sweep.folder, Console()
    open_storage(root_of(sweep.plan.cluster.storage))
    heard = Heard(folder, console.say, RUNS)
    with hold(folder, console.say), heard.all():
        with _alone(sweep):
            _claim(sweep, console, fresh=fresh)
        with Clock(folder / CALLS) as clock:
            try:
                _go_on(sweep, clock, console, heard)
            except StoppedError:
                try:
                    write_page(sweep, clock.seconds)
                except RatchetError as error:  # the page is written again when the sweep goes on
                    console.say(str(error))
                raise
        page, outcome = write_page(sweep, clock.seconds)
        for line in lines(one for one in outcome.diagnoses if not one.grave):
            console.say(line)
        keep_answer_of_sweep(sweep, asked, page, outcome)
        return page, outcome


def refuse_nothing(outcome: SweepOutcome) -> None:
    """Raise TrainingError where no trial of a sweep that is at its end has finished, with the reason of most."""
    for one in (one for one in outcome.diagnoses if one.grave):
        raise TrainingError(f"{one.name}: {one.says}", where=one.of, fix=one.do)


def _go_on(sweep: Sweep, clock: Clock, console: Console, heard: Heard) -> None:
    """Run what is left of a sweep, if anything is."""
    chooser = Chooser(sweep.space, sweep.folder / TRIALS, clock.before / 3600)
    if chooser.ended_before:
        console.say(f"{sweep.name}: {len(chooser.ended_before)} trials are there already")
    first = chooser.next()
    if first is None:
        return
    cluster, stop, pause = sweep.plan.cluster, Stop(console.say), sweep.folder / PAUSE
    at_once = sweep.space.at_once or max(1, int((os.cpu_count() or 1) // needs(cluster)["CPU"]))
    pause.unlink(missing_ok=True)  # of a driver that was killed while it stopped
    try:
        with (
            native_noise_to(sweep.folder / "native.log"),
            heard.meanwhile(),
            ray_session(cluster, at_once, console.say),
            stoppable(stop),
        ):
            _run(sweep, chooser, first, clock, console, stop)
    finally:
        pause.unlink(missing_ok=True)


def run_one(sweep: Sweep, values: Mapping[str, Any], seed: int | None) -> Path:
    """Run one trial in this process, as an agent of wandb asks for it, and return its report.

    Several processes may do so in one sweep at a time. Raises what the trial failed of.
    """
    open_storage(root_of(sweep.plan.cluster.storage))
    with _alone(sweep):
        _claim(sweep, Console(), fresh=False)
        numbers = [one.point.number for one in written_trials(sweep.folder / TRIALS)]
        chosen = Chosen(SeededPoint(values, seed), 1 + max(numbers, default=0), "agent")
        try:
            task = sweep.task(chosen)
        except PlanError as error:
            reject(sweep.impossible(chosen), error)
            raise
        write_point(task)
    heard = Heard(task.folder, Console().say)
    with heard.meanwhile(), ray_session(task.plan.cluster, say=Console().say):
        end = work(task, lambda line: None)
    # An agent keeps no clock: the seconds are those that `ratchet sweep` spent.
    write_page(sweep, sum(call["seconds"] for call in read_json_or_none(sweep.folder / CALLS) or []))
    if end.reason is not None:
        raise error_from(end.reason)
    return task.folder / "report.html"


def _run(sweep: Sweep, chooser: Chooser, first: Chosen, clock: Clock, console: Console, stop: Stop) -> None:
    """Run the trials that are left, and say what becomes of each; once `stop` is asked, let them save and end."""
    from ratchet.tune.ray_trials import run_trials, scheduler_of

    of = trial_count(sweep.space)
    waiting = iter(itertools.chain([first], iter(chooser.next, None)))
    troubles: list[StorageError] = []
    running: dict[str, TrialTask] = {}
    console.say(f"{sweep.name:<20} each trial's lines are in {sweep.folder / TRIALS}/*/{LOG}")

    def choose() -> TrialTask | None:
        refused = 0
        if stop.why() is not None:
            return None
        for chosen in waiting:
            try:
                task = sweep.task(chosen)
            except PlanError as error:
                console.say(f"{chosen.trial.trial_id:<20} {error.what}")
                chooser.ended(chosen.trial.trial_id, reject(sweep.impossible(chosen), error))
                refused += 1  # in this call alone: a point that is allowed begins the count again
                if refused == _MOST_REFUSED:
                    raise
                continue
            write_point(task)
            console.step(f"{task.number}{f' of {of}' if of else ''}", describe_trial(task))
            running[task.name] = task
            return task
        return None

    def look() -> None:
        pause = sweep.folder / PAUSE
        if (why := stop.why()) is None or pause.exists():
            return
        try:
            write_json(pause, {"what": why})
        except StorageError as error:  # it is tried again at once: trials are not lost for it
            if not troubles:
                console.say(str(error))
            troubles.append(error)

    def take(task: TrialTask, status: Status, reason: Mapping[str, str]) -> None:
        running.pop(task.name, None)
        if stop.why() is not None and not (task.folder / TRIAL).exists():
            console.say(f"{task.name:<20} stopped: it goes on where it is when the sweep is run again")
            return
        end, run = end_from_outside(task, status, reason)
        chooser.ended(task.name, end)
        console.say(describe_outcome(task, end))
        pages.ask()
        if run is not None:
            ends.tell(run, end.status, end.why)

    with (
        contextlib.closing(Ends()) as ends,
        Pages(lambda: write_page(sweep, clock.seconds)) as pages,
        stop.patiently(),
        line_by_line(console.say, lambda: newest(list(running.values()))),
    ):
        run_trials(
            work,
            choose,
            take,
            look,
            at_once=sweep.space.at_once or runs_at_once(sweep.plan.cluster),
            scheduler=scheduler_of(
                sweep.space.scheduler, [sweep.folder / TRIALS / name for name in chooser.ended_before]
            ),
            folder=sweep.folder,
        )
    stop.check()


def newest(running: Sequence[TrialTask]) -> str:
    """Return what the trials under way said last, a line each; those that said nothing yet are left out."""
    said = [(task.name, last_line(task.folder / LOG)) for task in running]
    return "\n".join(f"{name:<20} {line}" for name, line in said if line)


def last_line(path: Path) -> str:
    """Return the last whole line of a file that grows; empty where no line is whole."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")[:-1]
    except OSError:
        return ""
    return " ".join(lines[-1].split()) if lines else ""


def reject(task: TrialTask, error: PlanError) -> TrialEnd:
    """Write down a trial whose values the plan does not allow, and return its end. Raises StorageError."""
    write_point(task)
    return end_trial(task, "failed", reason=error_values(error))


def _alone(sweep: Sweep) -> contextlib.AbstractContextManager[Lease]:
    """Hold what is all trials': the folder's claim, numbers, the page. Agents run trials of one sweep side by side."""
    layout = layout_at(sweep.plan.cluster.storage)
    return leased(layout.lease(f"sweep-{sweep.name}"), what=f"the folder of {sweep.name}")


def _claim(sweep: Sweep, console: Console, *, fresh: bool) -> None:
    """Refuse a folder that holds trials of something else, or put it aside where `fresh`."""
    folder, identity = sweep.folder, sweep.identity | contents(sweep.plan)
    before = read_json_or_none(folder / IDENTITY)
    if fresh and any(path.name != "lock" for path in folder.iterdir()):
        aside = folder.with_name(f"{folder.name}.{now().replace(':', '')}-{uuid.uuid4().hex[:4]}")
        with storage_errors(aside):
            aside.mkdir()
            # identity.json goes last: after a kill in between, what is left still says what it was made from.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == IDENTITY):
                if path.name != "lock":
                    path.rename(aside / path.name)
        console.say(f"{sweep.name:<20} put aside as {aside}")
    elif before is not None and (changes := changed_keys(before, identity)):
        raise RunError(
            f"the sweep {sweep.name} was begun with something else: {'; '.join(changes)}",
            where=str(folder),
            fix="run with --fresh to put it aside and begin again (what its trials trained is found again), "
            "or give the space another name",
            code="run.other-plan",
        )
    if before is None and not fresh and any(folder.glob(f"{TRIALS}/*/{POINT}")):
        raise RunError(
            f"there are trials of the sweep {sweep.name}, and nothing says what they were made from",
            where=str(folder),
            fix="run with --fresh to put them aside and begin again",
            code="run.unowned",
        )
    write_json(folder / IDENTITY, identity)
    write_text(folder / "plan.yaml", sweep.plan_text)
    write_text(folder / "space.yaml", sweep.space_text)


def contents(plan: Plan) -> dict[str, Any]:
    """Return the content of the files that a plan reads: sources, a model folder. Raises DataError, ModelError."""
    used = {name for stage in plan.stages.values() for name in stage.shares()}
    sources = {name: fingerprint(pairs_identity(plan.data[name], plan.model.system)) for name in sorted(used)}
    return {"sources": sources, "model": digest_model(at_home(plan.model.path)) if plan.model.path else None}


def write_page(sweep: Sweep, seconds: float) -> tuple[Path, SweepOutcome]:
    """Gather what all trials have come to, write `sweep.json` and the page, and return that. Raises StorageError."""
    layout = layout_at(sweep.plan.cluster.storage)
    asked = SweepRequest(sweep.plan, sweep.space, sweep.plan_text, sweep.space_text, trial_count(sweep.space))
    # Agents write the page side by side: one at a time, so that the last page knows of all trials.
    with _alone(sweep):
        found = [one.end for one in written_trials(sweep.folder / TRIALS) if one.end is not None]
        marks = order_marks(sweep.space, sweep.plan, found, layout)
        told = warned.on_page([], sweep.folder, runs=RUNS)
        document = gather(layout, asked, seconds=seconds, marks=marks, hardware=hardware(), warnings=told)
        write_sweep(sweep.folder, document)
        page, _ = write_sweep_page(sweep.folder, document)
    return page, document


def promote_point(sweep: Sweep, outcome: SweepOutcome, point: str | None, jobs: Path, command: str) -> Path:
    """Write the best point of a sweep, or the one whose id is `point`, as a plan into `jobs`, and return its path.

    Raises PlanError where there is no such point, RunError where another file has the name, StorageError.
    """
    best = point_to_promote(outcome, point)
    document = trial_document(sweep.document, sweep.space, best.values, None, sweep.written)
    return promote(document, outcome, best, Origin(sweep.plan, sweep.folder, command), jobs)
