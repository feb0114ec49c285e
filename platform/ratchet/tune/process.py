"""What a trial's own process does: run the plan, and tell the scheduler and wandb how it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet import redact
from ratchet.documents.scores import NAME as SCORES
from ratchet.documents.scores import SuiteScores, read_scores
from ratchet.documents.sweep import Status, Value
from ratchet.documents.trial import TrialEnd
from ratchet.errors import StoppedError
from ratchet.pipeline.context import Trial
from ratchet.pipeline.graph import chunk_names
from ratchet.pipeline.runner import run_plan
from ratchet.pipeline.stop import Stop
from ratchet.pipeline.training import SLOTS
from ratchet.store import warned
from ratchet.store.files import storage_errors, write_json
from ratchet.store.lease import Wait, leased
from ratchet.store.record import read_json_or_none
from ratchet.track.jsonl import JsonLines
from ratchet.track.progress import Console
from ratchet.track.trial import StageLink, TrialRun, trial_run
from ratchet.track.wandb import WandbRun, wandb_summary, wandb_tables
from ratchet.train.group import free_slots
from ratchet.tune.metrics import ends_of, metric_names, read_metrics_of
from ratchet.tune.trial import STOP, TRIAL, TrialTask, end_trial, made_steps, passing, read_end, run_trial, write_point
from ratchet.tune.watch import Listener, TrialStop, Watch

LOG, PROGRESS = "log.txt", "progress.jsonl"

Report = Callable[[Mapping[str, Any]], None]
"""Takes `step` and the metric that a scheduler watches."""
Asked = Callable[[], str | None]
"""Says why a trial should save, end and go on later, if it should."""


def work(task: TrialTask, report: Report, asked: Asked = lambda: None) -> TrialEnd:
    """Run a trial in this process and return its trial.json. What is for people goes to the trial's log.

    A process of a killed driver that is still at the trial is waited for. Raises StoppedError where the trial was
    asked to stop: it has no trial.json then.
    """
    redact.guard_process()
    os.chdir(task.home)  # Ray starts it in a folder of its own, and paths of the plan are relative to the driver's
    chosen = write_point(task)
    task = dataclasses.replace(task, number=chosen.number)
    resolved = task.plan.model_dump(mode="json")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warned.sent(task.folder))
        with storage_errors(task.folder):
            log = stack.enter_context((task.folder / LOG).open("a", encoding="utf-8"))
        what = f"trial {task.name} of {task.sweep}"
        stop = Stop(elsewhere=asked)
        stack.enter_context(leased(task.lease, what=what, wait=Wait(Console(log).say, stop.check)))
        stop.check()
        # Looked for under the lease: a process of a killed driver may have ended the trial until now.
        before = read_end(task.folder)
        if before is not None and not passing(before):  # it ended while this process waited, or before
            return before
        wandb = TrialRun(trial_run(task.plan.track.wandb, task.sweep, chosen, resolved, task.folder))
        stack.callback(wandb.close)
        listeners: list[Listener] = [wandb.line]
        if task.scheduled is not None:
            progress = stack.enter_context(contextlib.closing(JsonLines(task.folder / PROGRESS, 0)))
            listeners.append(Progress(task, task.scheduled, progress, report).line)
        watch = Watch(listeners)
        # Of a process that was lost: Ray keeps the slots of its workers until the job ends.
        free_slots(task.folder / SLOTS)
        try:
            end = run_trial(task, lambda: _run(task, watch, wandb, Console(log), asked), wandb.path)
        except StoppedError as stopped:
            wandb.finish("unfinished", {}, stopped.what)
            raise
        named = {name: end.metrics[name] for name in task.objectives if name in end.metrics}
        wandb.finish(end.status, named, end.why)
        watch.close()  # raises what a listener failed of; by now the end is written, and wandb has it
    return end


def end_from_outside(task: TrialTask, status: Status, reason: Mapping[str, str]) -> tuple[TrialEnd, WandbRun | None]:
    """Write down the end of a trial whose process could not; return its trial.json and the wandb run to send it to.

    A trial that wrote down its own end keeps that, and its wandb run has it.
    """
    run = trial_run(
        task.plan.track.wandb, task.sweep, write_point(task), task.plan.model_dump(mode="json"), task.folder
    )
    if (task.folder / TRIAL).exists():
        return end_trial(task, status), None
    facts = {"where": "", "fix": "", **reason}
    return end_trial(task, status, reason=facts, wandb=run.path if run else None), run


def _run(task: TrialTask, watch: Watch, wandb: TrialRun, console: Console, asked: Asked) -> dict[str, Value]:
    @contextlib.contextmanager
    def follow(step: str, folder: Path) -> Iterator[None]:
        with watch(step, folder):
            yield
        for link in _links(task, step):
            wandb.stage(link)

    def check() -> None:
        watch.check()
        raise_if_told(task)

    # Told by an earlier call, too: its scheduler may have ended the trial just before the driver was killed.
    check()
    run_plan(task.plan, task.text, trial=Trial(task.sweep, follow, console, task.folder / STOP, check, asked))
    scores = read_json_or_none(task.folder / SCORES)
    if scores is not None:
        send_scores(wandb, read_scores(scores, where=str(task.folder / SCORES)))
    found = read_metrics_of(task.folder, task.plan, metric_names(task.plan))
    ends = ends_of(task.folder, task.plan, found)
    return {name: Value(value, error, *ends.get(name, (None, None))) for name, (value, error) in found.items()}


def _links(task: TrialTask, step: str) -> Iterator[StageLink]:
    """Yield what a finished step of the trial is, and where it comes from."""
    for made in made_steps(task.folder):
        if made.name == step:
            theirs = read_end(task.folder_of(made.made_by))
            yield StageLink(
                step=step,
                kind=made.kind,
                fingerprint=made.id,
                parent=made.start,
                made_by=made.made_by,
                run=theirs.wandb if theirs else None,
                reused=made.made_by != f"{task.sweep}/{task.name}",
            )


def tell(task: TrialTask, what: str) -> None:
    """Tell a trial to end itself, with the reason. Raises StorageError."""
    write_json(task.folder / STOP, {"what": what})


def raise_if_told(task: TrialTask) -> None:
    """Raise TrialStop where the scheduler has ended the trial."""
    told = read_json_or_none(task.folder / STOP)
    if told is not None:
        raise TrialStop(told["what"])


class Progress:
    """Reports one training metric of a stage, over all of its steps, under one rising count of optimiser steps."""

    def __init__(self, task: TrialTask, metric: str, lines: JsonLines, report: Report) -> None:
        self._task, self._metric, self._lines, self._report = task, metric, lines, report
        stage, _, inner = metric.partition("/")
        self._key = inner.partition("/")[2]
        chunks = len(chunk_names(task.plan.stages[stage]))
        self._steps = [f"{stage}.{n}" for n in range(1, chunks + 1)] or [stage]
        self._last: dict[str, int] = {}

    def line(self, step: str, line: Mapping[str, Any]) -> None:
        """Take a line of a step's metrics; one without the metric, or of another stage, says nothing here.

        Raises TrialStop where the scheduler, which has decided when `report` comes back, wants no more.
        """
        if step not in self._steps:
            return
        self._last[step] = line["step"]
        value = line.get(self._key)
        if value is not None:
            count = sum(self._last.values())
            self._lines.log(count, {self._metric: value})
            self._report({"step": count, self._metric: value})
            raise_if_told(self._task)


def send_scores(trial: TrialRun, scores: SuiteScores) -> None:
    """Send the figures and tables of every model in a scores.json, reused ones too: the run is the trial's.

    Names get the model's before them: `align/eval/<suite>/<task>`, `align/eval/scores`.
    """
    for model in scores.models:
        for name, (columns, rows) in wandb_tables(scores, model.name).items():
            trial.table(f"{model.name}/{name}", columns, rows)
        trial.summary({f"{model.name}/{key}": value for key, value in wandb_summary(scores, model.name).items()})
