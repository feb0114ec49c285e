"""Trackers: where rank 0 of a training step sends its metrics.

`open_tracker` always gives JSON lines, and wandb beside them where the plan asks for it. Only JSON
lines can stop training (a full disk); wandb never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ratchet.track.jsonl import NAME, JsonLines


class Tracker(Protocol):
    """What the training loop knows of tracking."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one optimiser step (from 1, rising)."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Take the figures that a finished step is known by."""

    def close(self) -> None:
        """Let go of files and connections. Nothing is logged after it."""


class _Several:
    def __init__(self, trackers: tuple[Tracker, ...]) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def summary(self, values: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.summary(values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def open_tracker(folder: Path, settings: Mapping[str, Any] | None, resume_step: int) -> Tracker:
    """Open the trackers of one training step in `folder`; `resume_step` is 0 on a new start.

    `metrics.jsonl` is cut back to lines with step ≤ `resume_step`. `settings` may have one key,
    `wandb`: the fields of `track.wandb.WandbRun`. Raises StorageError for JSON lines; for wandb nothing.
    """
    lines = JsonLines(folder / NAME, resume_step)
    if not (settings and settings.get("wandb")):
        return lines
    from ratchet.track.wandb import WandbRun, WandbTracker

    return _Several((lines, WandbTracker(WandbRun(**{"folder": str(folder), **settings["wandb"]}))))
