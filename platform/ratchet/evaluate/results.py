"""What a task says of a model: scores, and the items they are made of.

Items carry ids that are the same for every model, so that two models are compared item by item. On disk a result is a
folder with `result.json` and `items.parquet`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.documents.scores import Score
from ratchet.errors import CorruptError, DataError, RatchetError
from ratchet.evaluate.statistics import error_of_mean
from ratchet.reference.store import Floats
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import write_json
from ratchet.store.record import checked

NOT_ASKED = "not asked"
"""The problem of a task that failed before it had an answer."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that was asked.

    `cluster` holds together items that are not independent of each other (the turns of one conversation); it is the
    item's own id where there are none. `values` has a number for each metric, and none where the item has no verdict.
    Then `problem` says why, in a few words, the same for all items with that trouble. `question`, `answer` and
    `reference` are for people.
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
    `whole` says that asking again could not give more: it was asked, and no request to a judge failed.
    """

    task: str
    kind: str
    scores: tuple[Score, ...]
    items: tuple[Item, ...]
    settings: Mapping[str, Any]
    problems: Mapping[str, int] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    whole: bool = True

    @property
    def headline(self) -> Score:
        """The score that stands for the task."""
        return self.scores[0]


def not_asked(task: str, kind: str, metric: str, error: RatchetError) -> TaskResult:
    """Return the result of a task that could not be asked: no score, with the reason and the remedy."""
    why = f"{NOT_ASKED}: {why_of(error)}" + (f"; {error.fix}" if error.fix else "")
    score = Score(metric, metric, None, None, 0, note=why)
    said, warning = {"not_asked": error.what}, f"{task}: {why}."
    return TaskResult(task, kind, (score,), (), said, {NOT_ASKED: 1}, (warning,), whole=False)


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


RESULT, ITEMS = "result.json", "items.parquet"
# Not in result.json: items are a file of their own, and only a whole result is found again.
_APART = {"items", "whole"}
_TEXTS = ("item", "cluster", "group", "question", "answer", "reference", "problem")
_SCHEMA = pa.schema([*((name, pa.string()) for name in _TEXTS), ("values", pa.map_(pa.string(), pa.float64()))])


def write_result(folder: Path, result: TaskResult) -> None:
    """Write a result into `folder`. Raises StorageError."""
    columns: dict[str, list[Any]] = {name: [getattr(item, name) for item in result.items] for name in _TEXTS}
    # Sorted, so that the same values are the same bytes.
    columns["values"] = [sorted(item.values.items()) for item in result.items]
    pq.write_table(pa.table(columns, _SCHEMA), folder / ITEMS, compression="zstd")
    values = to_values(dataclasses.replace(result, items=()))
    write_json(folder / RESULT, {key: value for key, value in values.items() if key not in _APART})


def read_result(folder: Path) -> TaskResult:
    """Return the result that `write_result` wrote. Raises CorruptError."""
    fix = "delete the folder; it is made again"
    try:
        fields = json.loads(checked(folder / RESULT).read_text(encoding="utf-8"))
        rows = pq.read_table(checked(folder / ITEMS)).to_pylist()
        # Not by the codec: a value of an added task may be NaN, which it writes as null and does not read as a number.
        # Arrow gives a map as a list of pairs.
        items = tuple(Item(**{**row, "values": dict(row["values"])}) for row in rows)
        found = from_values(TaskResult, {**fields, "items": []}, where=str(folder), fix=fix, error=CorruptError)
        return dataclasses.replace(found, items=items)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise CorruptError(f"not a result: {error}", where=str(folder), fix=fix) from error


_MISSED = 0.05


def join_notes(*parts: str) -> str:
    """Return the parts of a note that say something, in their order."""
    return "; ".join(part for part in parts if part)


def without_error(error: float | None, what: str) -> str:
    """Return that one `what` tells no error, where there is no error."""
    return f"one {what}: no error" if error is None else ""


def unanimous(values: Floats, draws: int | None = None) -> str:
    """Return what N items, (N,), that are all 0 or all 1 leave open of a share; nothing where they differ.

    The formula gives such a share a standard error of 0, and a few items still tell little. The other answer is rarer
    than 1 − 0.05^(1/n) with 95 % confidence (Clopper and Pearson 1934, one-sided). It is given in per cent, rounded
    away from certainty. n is `draws` where that is given, else N.
    """
    if not len(values) or not (np.all(values == 0) or np.all(values == 1)):
        return ""
    # expm1 and not 1 − x: of many thousand items the share is small, and a difference from 1 loses its digits.
    rare = 100 * -math.expm1(math.log(_MISSED) / (draws or len(values)))
    decimals = max(1, 1 - math.floor(math.log10(rare)))
    rare = math.ceil(rare * 10**decimals - 1e-6) / 10**decimals
    if values[0] == 0:
        return f"0 of {len(values)}: below {rare:.{decimals}f} %"
    return f"all of {len(values)}: above {100 - rare:.{decimals}f} %"


def average_of(scores: Mapping[str, Score], name: str) -> Score:
    """Return the mean of tasks' scores, such as H6, as the score `name`; the tasks ask different questions.

    Its error is √(Σ se²)/k, and None where a task has none, which the note names; it also names shares whose items all
    agree, and whose error of 0 is none. Where a task has no value there is no average.
    Nor is there one of different units. Raises DataError where there are no tasks.
    """
    if not scores:
        raise DataError(f"the average {name} is of no task")
    units = {score.unit for score in scores.values()}
    if len(units) != 1 or len({score.lower_is_better for score in scores.values()}) != 1:
        said = ", ".join(f"{task} in {score.unit}" for task, score in scores.items())
        return Score(name, "average", None, None, 0, note=f"these cannot be averaged: {said}")
    values = [score.value for score in scores.values() if score.value is not None]
    errors = [score.standard_error for score in scores.values() if score.standard_error is not None]
    none = [task for task, score in scores.items() if score.value is None]
    unsure = [task for task, score in scores.items() if score.standard_error is None]
    alike = [task for task, score in scores.items() if score.unit == "share" and score.standard_error == 0]
    note = f"no error of {', '.join([*unsure, *alike])}" if unsure or alike else ""
    return Score(
        name=name,
        metric="average",
        value=None if none else float(np.mean(values)),
        standard_error=None if none or unsure else error_of_mean(errors),
        count=sum(score.count for score in scores.values()),
        unit=units.pop(),
        note=f"no score of {', '.join(none)}" if none else note,
    )
