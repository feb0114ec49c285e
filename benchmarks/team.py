"""The sides of a comparison, each in its own process: they take turns, and one that cannot run leaves the others.

A ratio of two sides is only as good as what they had in common: the batches, the weights, the moment
and what their processes do with freed memory. All of that is decided here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import torch

from benchmarks.models import Device
from benchmarks.side import Task
from benchmarks.worker import OURS, SideError, Worker
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster

Malloc = Literal["keep", "shipped", "return"]
"""What the sides' processes do with freed memory. `keep`: all keep it, by the settings that Ratchet gives its own CPU
workers. `shipped`: Ratchet alone keeps it, as those who run each side get it. `return`: none keeps it, glibc's default.

By default glibc hands large blocks back, and the kernel clears every page of the next one: up to half of
a step's CPU seconds, most of all where large tensors come and go."""
MALLOCS: tuple[Malloc, ...] = ("keep", "shipped", "return")

Batch = tuple[int, int]
"""First row, and the row after the last."""


def allocator(side: str, malloc: Malloc) -> Mapping[str, str]:
    """Return the settings of glibc's allocator that a side's process gets: those of the product, or none."""
    keeps = malloc == "keep" or (malloc == "shipped" and side in OURS)
    shipped = worker_environment(Cluster()).items()
    return {key: value for key, value in shipped if keeps and key.startswith("MALLOC_")}


class Team(contextlib.ExitStack):
    """Processes of sides; `lost` says why a side is not among them any more, by its name."""

    def __init__(
        self, sides: Iterable[str], errors: IO[str] | None, malloc: Malloc, *, threads: int, device: Device
    ) -> None:
        super().__init__()
        self.malloc = malloc
        self.lost: dict[str, str] = {}
        self.members = {
            side: self.enter_context(Worker(side, errors, allocator(side, malloc), threads=threads, device=device))
            for side in sides
        }

    def begin(self, task: Task) -> None:
        """Let every side build what it needs for a task."""
        self.ask("task", task=task.to_dict())

    def ask(self, do: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        """Return the answer of each side that has one; a side that fails leaves."""
        return {side: answer for side in list(self.members) if (answer := self.ask_one(side, do, **arguments))}

    def ask_one(self, side: str, do: str, **arguments: Any) -> dict[str, Any] | None:
        """Return a side's answer; None where it has failed, now or before."""
        if side not in self.members:
            return None
        try:
            return self.members[side].ask(do, **arguments)
        except SideError as error:
            self.lost[side] = str(error)
            del self.members[side]
            return None

    def take_turns(self, do: str, batches: Sequence[Batch]) -> dict[str, list[dict[str, Any]]]:
        """Return each side's answers, one for each batch; who begins changes from round to round."""
        names = list(self.members)
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn, rows in enumerate(batches):
            for place in range(len(names)):
                who = names[(place + turn) % len(names)]
                if (answer := self.ask_one(who, do, rows=rows)) is not None:
                    answers[who].append(answer)
        return {name: answers[name] for name in self.members}


def gradient_difference(found: Path, truth: Path) -> dict[str, Any]:
    """Return how far the gradient in one file is from the one in another.

    `relative` is the norm of the difference over the norm of the truth, over all weights at once;
    `largest` is the largest difference of an entry over its parameter's largest, and `parameter` where
    that is. Raises RuntimeError where the two have different parameters.
    """
    mine, right = (torch.load(path, map_location="cpu", weights_only=True) for path in (found, truth))
    ours, theirs = mine["gradients"], right["gradients"]
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"the sides have different parameters: {ours.keys() ^ theirs.keys()}")
    off = {name: (ours[name] - gradient).double() for name, gradient in theirs.items()}
    squares = sum(float(gradient.double().square().sum()) for gradient in theirs.values())
    of = {name: float(part.abs().max() / theirs[name].abs().max()) for name, part in off.items()}
    worst = max(of, key=lambda name: of[name] if math.isfinite(of[name]) else math.inf)
    return {
        "relative": math.sqrt(sum(float(part.square().sum()) for part in off.values()) / squares),
        "largest": of[worst],
        "parameter": worst,
        "loss": mine["loss"],
        "loss_difference": mine["loss"] - right["loss"],
    }
