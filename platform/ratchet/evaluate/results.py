"""What a task says of a model: scores, and the items they are made of.

Items carry ids that are the same for every model, so that two models are compared item by item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ratchet.errors import RatchetError

NOT_ASKED = "not asked"
"""The problem of a task that failed before it had an answer."""
Unit = str
"""What a score counts: `share` (0 to 1), `points` (of 10 or 100), `nats`, `perplexity`, `percent`."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One number. `value` is None where too much is missing for a number; `note` says why.

    `metric` names the entry of the items' `values` that it is made of. `group` is the part of the task
    that it is of (a category, a subject), empty for the whole. `lower_is_better` is for comparisons.
    """

    name: str
    metric: str
    value: float | None
    standard_error: float | None
    count: int
    unit: Unit = "share"
    group: str = ""
    note: str = ""
    lower_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that was asked.

    `cluster` holds together items that are not independent of each other (the turns of one
    conversation); it is the item's own id where there are none. `values` has a number for each metric,
    and none where the item has no verdict: then `problem` says why, in a few words that are the
    same for all items with that trouble. `question`, `answer` and `reference` are for people.
    """

    item: str
    cluster: str
    values: Mapping[str, float]
    group: str = ""
    question: str = ""
    answer: str = ""
    reference: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """A task's scores for one model; `scores[0]` is the one that stands for the task.

    `settings` is all that decides the numbers beside the model: versions, profile, digests of data,
    judge, reference set. `problems` counts items by `problem`; `warnings` are sentences for people.
    """

    task: str
    kind: str
    scores: tuple[Score, ...]
    items: tuple[Item, ...]
    settings: Mapping[str, Any]
    problems: Mapping[str, int] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> Score:
        """The score that stands for the task."""
        return self.scores[0]


def not_asked(task: str, kind: str, metric: str, error: RatchetError) -> TaskResult:
    """Return the result of a task that could not be asked: no score, with the reason and the remedy."""
    why = f"{NOT_ASKED}: {why_of(error)}" + (f"; {error.fix}" if error.fix else "")
    score = Score(metric, metric, None, None, 0, note=why)
    return TaskResult(task, kind, (score,), (), {"not_asked": error.what}, {NOT_ASKED: 1}, (f"{task}: {why}.",))


def why_of(error: RatchetError) -> str:
    """Return what went wrong, and where, on one line."""
    return " / ".join(f"{error.where}: {error.what}".removeprefix(": ").splitlines())


def count_problems(items: tuple[Item, ...]) -> dict[str, int]:
    """Return how many items have each problem, the most frequent first."""
    found: dict[str, int] = {}
    for item in items:
        if item.problem:
            found[item.problem] = found.get(item.problem, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
