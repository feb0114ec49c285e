"""Schedulers that end trials early: Ray Tune's own, given again what an earlier call had seen.

ASHA: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning". Median rule: Golovin et
al. 2017, "Google Vizier", section 3.2.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ratchet.plan.space import Scheduler
from ratchet.track.jsonl import read_metrics
from ratchet.tune.process import PROGRESS, tell
from ratchet.tune.trial import TASK

STEP = "step"
_FAR = 10**9


@dataclasses.dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier call, as far as schedulers ask of one."""

    trial_id: str


class Gently:
    """Tells a trial to end itself, where Ray Tune's scheduler would have its process killed.

    Ray would keep the slots of a killed trial's training workers until the end of the job.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.told: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return always that the trial goes on; what the scheduler says after it has ended one is not asked for."""
        if trial.trial_id not in self.told:
            decision = super().on_trial_result(tune_controller, trial, result)  # type: ignore[misc]
            if decision == TrialScheduler.STOP:
                self.told.add(trial.trial_id)
                if not isinstance(trial, _Earlier):
                    tell(trial.config[TASK], f"did worse than others at step {result[STEP]}")
        return str(TrialScheduler.CONTINUE)


class Asha(Gently, AsyncHyperBandScheduler):  # type: ignore[misc]
    """Ray Tune's asynchronous successive halving."""


class MedianRule(Gently, MedianStoppingRule):  # type: ignore[misc]
    """Ray Tune's median rule without its pauses (a paused trial would lose the steps since its checkpoint)."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
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
