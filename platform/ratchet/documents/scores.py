"""What models scored on suites: `scores.json`, which also stands in report.json under `scores`.

Fields stand in the order of the keys in the file; docs/scores.md says what every key means.
Shares go from 0 to 1, log-probabilities are in nats, times in seconds; a number that does not exist is
None. `record` and `items` are paths relative to the storage root and to the document.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ratchet.store.codec import from_values

NAME = "scores.json"
FORMAT: typing.Literal[1] = 1
Relation = typing.Literal["base", "before"]
Verdict = typing.Literal["better", "worse", "not shown"]
Unit = str
"""What a score counts: `share` (0 to 1), `points` (of 10 or 100), `nats`, `perplexity`, `percent`."""


@dataclasses.dataclass(frozen=True)
class ScoredModel:
    """A model by its weights: `weights` is a digest of them, `before` the model that it was made from."""

    name: str
    weights: str
    dtype: str
    before: str | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of a task. `value` is None where too much is missing for a number; `note` says why.

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
class TaskScores:
    """A task's scores for one model; `scores[0]` stands for the task.

    `settings` is all that decides the numbers beside the model, `problems` counts items without a
    verdict by reason, `items` is the Parquet file of the single items. `reused`: answered before.
    Of `seconds`, `start_seconds` went by until a process was ready that computes answers.
    `tokens` has those `asked` and `computed`, and nothing where the engine does not count.
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
    start_seconds: float | None = None
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model's score minus another's on the same items, of one task or of an average of tasks.

    The difference is that of the items' `metric`, in its unit; `low` and `high` bound its 95 % interval. `p_holm`
    is `p` adjusted for all comparisons of the table: of all models, tasks and averages. Numbers are None where
    there is no comparison, and `note` says why; it also says what the difference leaves out. `items` and `clusters`
    count what is in it. `task` is an average's name where `average` is true, and `metric` is then `average`.
    """

    model: str
    against: str
    relation: Relation
    task: str
    metric: str
    difference: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: Verdict = "not shown"
    items: int = 0
    clusters: int = 0
    note: str = ""
    suite: str
    average: bool = False


@dataclasses.dataclass(frozen=True)
class ShownAnswer:
    """What one model answered; `problem` says why there is no verdict."""

    answer: str
    values: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownQuestion:
    """An item of a task with the answers `by` each model."""

    suite: str
    task: str
    item: str
    group: str = ""
    question: str
    reference: str = ""
    by: Mapping[str, ShownAnswer]


@dataclasses.dataclass(frozen=True)
class SuiteScores:
    """All of scores.json. The first of `models` is the base; what follows is in the order made."""

    format: typing.Literal[1]
    created: str
    ratchet: str
    suites: tuple[str, ...]
    models: tuple[ScoredModel, ...]
    results: tuple[TaskScores, ...] = ()
    averages: tuple[Average, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    answers: tuple[ShownQuestion, ...] = ()

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

    def of(self, suite: str, task: str) -> dict[str, TaskScores]:
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


def read_scores(values: Any, *, where: str = NAME) -> SuiteScores:
    """Return JSON values as SuiteScores. Raises DataError naming the dotted key that is wrong."""
    return from_values(SuiteScores, values, where=where, fix="docs/scores.md says what each key holds")
