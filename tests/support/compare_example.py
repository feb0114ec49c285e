"""Results of made-up answers for the tests of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.documents.scores import Comparison, Score
from ratchet.evaluate.compare import ModelResults, compare_models
from ratchet.evaluate.results import Item, TaskResult
from ratchet.reference.store import Floats

TASK = "h6:arc"


def result(
    items: Sequence[Item], metric: str = "acc", *, value: float | str | None = "mean",
    settings: Mapping[str, Any] | None = None,
    kind: str = "harness", lower: bool = False, unit: str = "share", note: str = "",
) -> TaskResult:  # fmt: skip
    """A task's result with the mean of its items as its score, unless `value` says another."""
    if value == "mean":
        value = float(np.mean([item.values[metric] for item in items if metric in item.values]))
    score = Score(metric, metric, value, None, len(items), unit, note=note, lower_is_better=lower)
    return TaskResult("arc", kind, (score,), tuple(items), settings or {})


def items_of(values: Sequence[float] | Floats, metric: str = "acc", **fields: Any) -> list[Item]:
    return [Item(f"q{index}", f"q{index}", {metric: float(value)}, **fields) for index, value in enumerate(values)]


def two(mine: TaskResult, base: TaskResult) -> Comparison:
    (row,) = compare_models([ModelResults("base", None, {TASK: base}), ModelResults("dpo", "base", {TASK: mine})])
    return row


def answers(share: float, seed: int, count: int = 200) -> Floats:
    return (np.random.default_rng(seed).random(count) < share).astype(float)
