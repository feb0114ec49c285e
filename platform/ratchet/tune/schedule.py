"""Schedulers that end trials early: Ray Tune's own, told again what an earlier call had seen.

ASHA: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning". Median rule: Golovin et
al. 2017, "Google Vizier", section 3.2.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ratchet.plan.space import Scheduler
from ratchet.track.jsonl import read_metrics
from ratchet.tune.process import PROGRESS

STEP = "step"
_FAR = 10**9


@dataclasses.dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier call, as far as schedulers ask of one."""

    trial_id: str


class MedianRule(MedianStoppingRule):  # type: ignore[misc]
    """The median rule without its pauses (a paused trial would lose the steps since its checkpoint)."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Add nothing: the last result of a trial was told as it came, and one that never came has no metric."""


def scheduler_of(settings: Scheduler | None, earlier: Sequence[Path]) -> Any:
    """Return the scheduler of a sweep, which has seen the progress of `earlier` trials (their folders)."""
    if settings is None:
        return FIFOScheduler()
    if settings.kind == "asha":
        made: Any = AsyncHyperBandScheduler(
            time_attr=STEP,
            metric=settings.metric,
            mode=settings.mode,
            max_t=_FAR,
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
        )
    else:
        made = MedianRule(
            time_attr=STEP,
            metric=settings.metric,
            mode=settings.mode,
            grace_period=settings.grace,
            min_samples_required=settings.among,
        )
    for folder in earlier:
        trial = _Earlier(folder.name)
        made.on_trial_add(None, trial)
        for line in read_metrics(folder / PROGRESS):
            if made.on_trial_result(None, trial, line) == TrialScheduler.STOP:
                break  # what it wrote down before it was gone was not told then either
    return made
