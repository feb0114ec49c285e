"""Trials on Ray Tune: which come next, what becomes of them, the process that each runs in, and what ends them early.

Schedulers are Ray Tune's own, given again what an earlier call had seen. ASHA: Li et al. 2020, "A System for Massively
Parallel Hyperparameter Tuning". Median rule: Golovin et al. 2017, "Google Vizier", section 3.2.1.

A trial's process holds no slot of the cluster. Its training workers come as one placement group, its scoring processes
one by one. So no two trials can hold what the other waits for. Ray's own snapshot of an experiment is not used: the
trials' folders are what a killed driver goes on from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from ratchet.documents.sweep import Status
from ratchet.errors import ClusterError, StoppedError, error_values
from ratchet.pipeline.session import plain_error
from ratchet.pipeline.training import SLOTS
from ratchet.plan.space import Scheduler
from ratchet.store.files import write_text
from ratchet.track.jsonl import read_metrics
from ratchet.train.group import free_slots
from ratchet.tune.process import PROGRESS, tell
from ratchet.tune.trial import TASK, TrialTask

ERROR = "error.txt"
STEP = "step"
_FAR = 10**9  # ASHA ends no trial for having come to a last rung
_RETRIES = 2
"""Times that a trial whose process was lost is run again; it goes on from what is in the store."""

Ended = Callable[[TrialTask, Status, Mapping[str, str]], None]


class NotInSnapshots:
    """Keeps Ray Tune's snapshot of the experiment empty: nothing is restored from it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSource(NotInSnapshots, Searcher):  # type: ignore[misc]
    """Hands Ray Tune the trials that `choose` gives, as they come."""

    def __init__(self, choose: Callable[[], TrialTask | None]) -> None:
        super().__init__()
        self.choose = choose

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial as a configuration, or that there is none."""
        task = self.choose()
        return Searcher.FINISHED if task is None else {TASK: task}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what is known of trials stands in their folders."""

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: `Endings` reports how a trial ended, before the next one is asked for."""


class Endings(NotInSnapshots, TrialProgressCallback):  # type: ignore[misc]
    """Tells `ended(task, status, reason)` that a trial has ended, as far as Ray knows: failed, and why.

    A trial that came to an end by itself has written down its own status. `look` is called again and again
    while there are trials. This stands in the place of Tune's own callback, which would print every end.
    """

    def __init__(self, ended: Ended, look: Callable[[], None]) -> None:
        self.ended, self.look = ended, look

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look, whatever trials report."""
        # A trial may have to be stopped while no trial reports anything.
        self.look()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Print nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take a trial that ended by itself, and has written down how."""
        self.ended(trial.config[TASK], "failed", {"kind": "ClusterError", "what": "its process left without a word"})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take a trial whose process was lost, or met an error that is not one of ours, once too often."""
        task: TrialTask = trial.config[TASK]
        cause = trial.get_error()  # an exception, or its text
        text = str(cause or "the trial's process was lost").strip()
        write_text(task.folder / ERROR, f"{text}\n")
        # Ray does not do so where a process is lost.
        free_slots(task.folder / SLOTS)
        error = plain_error(cause) if isinstance(cause, BaseException) else ClusterError(text.splitlines()[-1])
        self.ended(task, "failed", error_values(error) | {"where": error.where or str(task.folder / ERROR)})


def run_trials(
    work: Callable[[TrialTask, Callable[[Mapping[str, Any]], None], Callable[[], str | None]], Any],
    choose: Callable[[], TrialTask | None],
    ended: Ended,
    look: Callable[[], None],
    *,
    at_once: int,
    scheduler: Any,
    folder: Path,
) -> None:
    """Run trials until `choose` has no more, `at_once` at a time, each by `work` in a process of its own.

    `look` is called again and again meanwhile; `folder` is for Ray's own files, which go at the end. Raises what
    Ray and these functions raise; what a trial raises is its own failure.
    """
    name = f".ray-{uuid.uuid4().hex[:8]}"
    for left in folder.glob(".ray-*"):  # of a driver that was killed
        shutil.rmtree(left, ignore_errors=True)
    os.environ |= {  # read by Ray Tune in this process
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may end before its stage reports the metric
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the first Ctrl-C lets trials save: the driver hears it itself
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of the plan are relative to the driver's folder
        "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints a banner at every verbosity
    }

    def trial(config: dict[str, Any]) -> None:
        task: TrialTask = config[TASK]
        with contextlib.suppress(StoppedError):  # it goes on when the sweep does, and Ray has no part in that
            work(task, tune.report, task.asked)

    try:
        tune.Tuner(
            tune.with_resources(trial, _beside_the_driver()),
            tune_config=tune.TuneConfig(
                search_alg=TrialSource(choose), scheduler=scheduler, num_samples=-1, max_concurrent_trials=at_once
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(folder.absolute()),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                callbacks=[Endings(ended, look)],
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


def _beside_the_driver() -> Any:
    """Return what a trial's process takes: a place on the driver's machine, where the plan's files are, and no slot."""
    here = f"node:{ray.util.get_node_ip_address()}"
    if here not in ray.cluster_resources():
        raise ClusterError(
            "this process is on no machine of the Ray cluster, and trials run beside it",
            fix="start the sweep on a node of the cluster, such as by ray job submit",
        )
    # More than 0, or Ray ties it to no machine; so little that any number of trials finds room.
    return tune.PlacementGroupFactory([{here: 0.001}])


@dataclasses.dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier call, as far as schedulers ask of one."""

    trial_id: str


class Gently:
    """Tells a trial to end itself, where Ray Tune's scheduler would have its process killed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.told: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return always that the trial goes on."""
        # What the scheduler says of a trial after it has ended it is not asked for.
        if trial.trial_id not in self.told:
            decision = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
            if decision == TrialScheduler.STOP:
                self.told.add(trial.trial_id)
                if not isinstance(trial, _Earlier):
                    # Not killed: Ray would keep the slots of its training workers until the end of the job.
                    tell(trial.config[TASK], f"did worse than others at step {result[STEP]}")
        return str(TrialScheduler.CONTINUE)


class Asha(Gently, AsyncHyperBandScheduler):  # type: ignore[misc]
    """Ray Tune's asynchronous successive halving."""


class MedianRule(Gently, MedianStoppingRule):  # type: ignore[misc]
    """Ray Tune's median rule without its pauses."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        # A paused trial would lose the steps since its checkpoint.
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Add nothing: the last result of a trial was passed on as it came, and one that never came has no metric."""


def scheduler_of(settings: Scheduler | None, earlier: Sequence[Path]) -> Any:
    """Return the scheduler of a sweep, which has seen the progress of `earlier` trials (their folders)."""
    if settings is None:
        return FIFOScheduler()
    common = {
        "time_attr": STEP,
        "metric": settings.metric,
        "mode": settings.mode,
        "grace_period": settings.grace,
    }
    made: Any
    match settings.kind:
        case "asha":
            made = Asha(**common, max_t=_FAR, reduction_factor=settings.reduction)
        case "median":
            made = MedianRule(**common, min_samples_required=settings.among)
        case _:
            assert_never(settings.kind)
    for folder in earlier:
        trial = _Earlier(folder.name)
        made.on_trial_add(None, trial)
        for line in read_metrics(folder / PROGRESS):
            made.on_trial_result(None, trial, line)
    return made
