"""What models scored on suites: `scores.json`, which also stands in report.json under `scores`.

docs/scores.md says what every key means. Shares go from 0 to 1, log-probabilities are in nats, times
in seconds; a number that does not exist is None. `record` and `items` are paths relative to the
storage root and to the document.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A model by its weights: `weights` is a digest of them, `before` the model that it was made from."""

    name: str
    weights: str
    dtype: str
    before: str | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of a task. `value` is None where there is none, and `note` says why.

    `group` is the part of the task that it is of (a category, a subject), empty for the whole.
    """

    name: str
    metric: str
    value: float | None
    standard_error: float | None
    count: int
    unit: str = "share"
    group: str = ""
    note: str = ""
    lower_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """A task's scores for one model; `scores[0]` stands for the task.

    `settings` is all that decides the numbers beside the model, `problems` counts items without a
    verdict by reason, `items` is the Parquet file of the single items. `reused`: answered before.
    """

    model: str
    suite: str
    task: str
    kind: str
    seconds: float
    reused: bool
    scores: tuple[Score, ...]
    problems: Mapping[str, int] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    items: str = ""
    record: str = ""

    @property
    def headline(self) -> Score | None:
        """The score that stands for the task."""
        return self.scores[0] if self.scores else None

    def score(self, name: str, group: str) -> Score | None:
        """Return the score of that name and part."""
        return next((one for one in self.scores if (one.name, one.group) == (name, group)), None)


@dataclasses.dataclass(frozen=True)
class Average:
    """A mean of tasks' headline scores, such as H6."""

    model: str
    suite: str
    name: str
    of: tuple[str, ...]
    value: float | None
    standard_error: float | None
    unit: str = "share"
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same items: `difference` is `model` minus `against`, in the score's unit.

    `task` is a task's name, or an average's where `average` is true. `low` and `high` bound the
    difference with 95 % confidence, `p_holm` is `p` after Holm's correction over all.
    """

    model: str
    against: str
    relation: typing.Literal["base", "before"]
    suite: str
    task: str
    metric: str
    difference: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    verdict: typing.Literal["better", "worse", "not shown"]
    items: int
    clusters: int
    note: str = ""
    average: bool = False


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one model answered; `problem` says why there is no verdict."""

    answer: str
    values: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Question:
    """An item of a task with the answers `by` each model."""

    suite: str
    task: str
    item: str
    question: str
    by: Mapping[str, Answer]
    group: str = ""
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Scores:
    """All of scores.json. The first of `models` is the base; what follows is in the order made."""

    format: typing.Literal[1]
    created: str
    ratchet: str
    suites: tuple[str, ...]
    models: tuple[Model, ...]
    results: tuple[Result, ...] = ()
    averages: tuple[Average, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    answers: tuple[Question, ...] = ()

    @property
    def names(self) -> list[str]:
        """The models' names, in order; one that only a result names comes last."""
        return list(dict.fromkeys([*(one.name for one in self.models), *(one.model for one in self.results)]))

    @property
    def tasks(self) -> list[tuple[str, str]]:
        """(suite, task), suites in the document's order, tasks as they first appear."""
        suites = list(dict.fromkeys([*self.suites, *(one.suite for one in self.results)]))
        found = dict.fromkeys((one.suite, one.task) for one in self.results)
        return sorted(found, key=lambda pair: suites.index(pair[0]))

    def of(self, suite: str, task: str) -> dict[str, Result]:
        """Return a task's results by model, in the models' order."""
        found = {one.model: one for one in self.results if (one.suite, one.task) == (suite, task)}
        return {name: found[name] for name in self.names if name in found}

    def average(self, model: str, suite: str, name: str) -> Average | None:
        """Return an average of one model."""
        wanted = (model, suite, name)
        return next((one for one in self.averages if (one.model, one.suite, one.name) == wanted), None)

    def suite_name(self, suite: str) -> str:
        """Return a suite's file name without its ending, or the whole path where two suites share that."""
        stems = [PurePosixPath(one).stem for one in dict.fromkeys([*self.suites, suite])]
        stem = PurePosixPath(suite).stem
        return stem if stems.count(stem) == 1 else suite

    def label(self, suite: str, task: str) -> str:
        """Return a task's or average's name, with its suite's before it where two suites have one of that name."""
        known = {*self.tasks, *((one.suite, one.name) for one in self.averages)}
        return task if sum(name == task for _, name in known) < 2 else f"{self.suite_name(suite)}: {task}"
