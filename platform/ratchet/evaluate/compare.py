"""Models held against each other, task by task, on the questions that both were asked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.documents.scores import Comparison, Relation, Verdict
from ratchet.errors import DataError, some
from ratchet.evaluate.results import Item, TaskResult
from ratchet.evaluate.statistics import FLIPS, NORMAL_95, clustered, error_of_mean, holm, normal_p, paired
from ratchet.reference.store import Floats

LEVEL = 0.05
"""A difference is shown where its adjusted p-value is below this."""

# Sign flips for every comparison of a table: the least p-value of a flip, times their number, is well below 0.05.
_FLIPS_FOR_EACH = 100


@dataclasses.dataclass(frozen=True)
class ModelResults:
    """What was found of one model: results by `suite:task`. `before` is the model that it was made from."""

    model: str
    before: str | None
    results: Mapping[str, TaskResult]


def compare_models(
    models: Sequence[ModelResults], averages: Mapping[str, Sequence[str]] | None = None, *, seed: int = 0
) -> list[Comparison]:
    """Return each model against the base, which is the first, and against its `before` if that is another.

    In the order of `models`; for each of the two, its tasks and then its `averages`, whose values name tasks as
    `results` does. The `task` of a row is what `results` or `averages` calls it, and its `suite` is empty. Items are
    joined by their id. All p-values of the table are adjusted together (Holm). Where no model differs from any other,
    one table in 20 at most calls anything better or worse, however many models and tasks it has.

    `settings["headline_mean"]` says how items make the score: `groups` is the plain mean of the means over
    `Item.group`; `corpus` is no mean of items (BLEU), and the mean of the items' own values is compared instead;
    without it, the mean over all items. Items of the metric `nll` that have `tokens` are summed, and
    compared in nats for each token.

    Raises DataError where two models have one name, or `before` is not one of the models ahead of it.
    """
    ahead: dict[str, ModelResults] = {}
    pairs: list[tuple[ModelResults, ModelResults, Relation]] = []
    for mine in models:
        if mine.model in ahead:
            raise DataError(f"two models are named {mine.model}", code="data.not-comparable")
        if ahead and mine.before is not None and mine.before not in ahead:
            raise DataError(
                f"{mine.model} was made from {mine.before}, which is not one of the models before it: {some([*ahead])}",
                code="data.not-comparable",
            )
        if ahead:
            base = models[0]
            pairs.append((mine, base, "base"))
            if mine.before is not None and mine.before != base.model:
                pairs.append((mine, ahead[mine.before], "before"))
        ahead[mine.model] = mine
    tests = sum(len(mine.results) + len(averages or {}) for mine, _, _ in pairs)
    flips = max(FLIPS, _FLIPS_FOR_EACH * tests)
    return _judged([row for pair in pairs for row in _against(*pair, averages or {}, seed, flips)])


def _against(
    mine: ModelResults,
    theirs: ModelResults,
    relation: Relation,
    averages: Mapping[str, Sequence[str]],
    seed: int,
    flips: int,
) -> list[tuple[Comparison, bool]]:
    """Return all comparisons of one model against another, tasks and then averages, and whether less is better."""
    blank = Comparison(model=mine.model, against=theirs.model, relation=relation, suite="", task="", metric="")
    lower: dict[str, bool] = {}
    tasks: dict[str, Comparison] = {}
    for task in dict.fromkeys([*mine.results, *theirs.results]):
        row = dataclasses.replace(blank, task=task)
        a, b = mine.results.get(task), theirs.results.get(task)
        if a is None or b is None:
            tasks[task] = dataclasses.replace(row, note=f"{(mine if a is None else theirs).model} has no result")
        else:
            lower[task] = a.headline.lower_is_better
            tasks[task] = _compared(row, a, b, seed, flips)
    wholes = {
        name: _averaged(dataclasses.replace(blank, task=name, metric="average", average=True), of, tasks, lower)
        for name, of in averages.items()
    }
    of_tasks = [(row, lower.get(task, False)) for task, row in tasks.items()]
    return of_tasks + [(row, lower.get(averages[name][0], False)) for name, row in wholes.items()]


def _judged(rows: Sequence[tuple[Comparison, bool]]) -> list[Comparison]:
    """Return all rows of a table with p-values adjusted over those that have one, and what they show."""
    tested = {place: row.p for place, (row, _) in enumerate(rows) if row.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    judged = []
    for place, (row, lower) in enumerate(rows):
        verdict: Verdict = "not shown"
        if place in adjusted and adjusted[place] < LEVEL and row.difference:
            verdict = "better" if (row.difference > 0) != lower else "worse"
        judged.append(dataclasses.replace(row, p_holm=adjusted.get(place), verdict=verdict))
    return judged


def _compared(row: Comparison, a: TaskResult, b: TaskResult, seed: int, flips: int) -> Comparison:
    """Return `row` with the difference of two results of its task, or with the reason for none."""
    metric = a.headline.metric
    row = dataclasses.replace(row, metric=metric)
    reasons = "; ".join(_reasons_against(row, a, b))
    if reasons:
        return dataclasses.replace(row, note=reasons)
    mine, theirs = ({item.item: item for item in result.items} for result in (a, b))
    asked = len(mine.keys() | theirs.keys())
    judged = {name for name, item in theirs.items() if metric in item.values}
    # By name, so that not even the last bit of a sum depends on the order in which answers came.
    common = [item for name, item in sorted(mine.items()) if name in judged and metric in item.values]
    if not common:
        return dataclasses.replace(row, note=f"none of {asked} items has {metric} on both sides")
    sides = _Side.of(a, common), _Side.of(b, [theirs[item.item] for item in common])
    if not np.array_equal(sides[0].weights, sides[1].weights):
        return dataclasses.replace(row, note="the same items have other numbers of tokens")
    found = paired(
        sides[0].values,
        sides[1].values,
        [item.cluster for item in common],
        seed,
        weights=sides[0].weights,
        groups=_groups(a, common),
        flips=flips,
    )
    notes = [f"{len(common)} of {asked} items"] if len(common) < asked else []
    return dataclasses.replace(row, **dataclasses.asdict(found), note="; ".join([*notes, *_what_it_is_of(a, b)]))


@dataclasses.dataclass(frozen=True)
class _Side:
    """One model's values (N,) of items, and the items' weights (N,)."""

    values: Floats
    weights: Floats

    @classmethod
    def of(cls, result: TaskResult, items: Sequence[Item]) -> _Side:
        values = np.array([item.values[result.headline.metric] for item in items], dtype=np.float64)
        weights = np.ones(len(items))
        if _by_token(result):
            weights = np.array([item.values["tokens"] for item in items], dtype=np.float64)
        return cls(values / weights, weights)


def _by_token(result: TaskResult) -> bool:
    return result.headline.metric == "nll" and all(
        item.values.get("tokens", 0) > 0 for item in result.items if "nll" in item.values
    )


def _groups(result: TaskResult, items: Sequence[Item]) -> list[str] | None:
    return [item.group for item in items] if result.settings.get("headline_mean") == "groups" else None


def _reasons_against(row: Comparison, a: TaskResult, b: TaskResult) -> Iterator[str]:
    """Yield why the two results cannot be held against each other."""
    for name, result in ((row.model, a), (row.against, b)):
        if result.headline.value is None:
            yield f"no score of {name}: {result.headline.note or 'too much is missing'}"
        if len({item.item for item in result.items}) < len(result.items):
            yield f"{name} has two items of one name"
        if not np.isfinite([item.values.get(row.metric, 0.0) for item in result.items]).all():
            yield f"{name} has a value that is not finite"
    changed = _changed(a.settings, b.settings)
    if changed:
        yield f"made with other settings: {some(changed)}"
    if (a.kind, a.headline.metric) != (b.kind, b.headline.metric):
        yield f"{row.model} has {a.kind} {a.headline.metric}, {row.against} has {b.kind} {b.headline.metric}"
    elif _by_token(a) != _by_token(b):
        yield "one of the two does not say how many tokens its items have"


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys in which two settings differ, whether they are as made or as read back from JSON."""
    found: list[str] = []
    for key in dict.fromkeys([*a, *b]):
        mine, theirs = a.get(key), b.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += [f"{key}.{inner}" for inner in _changed(mine, theirs)]
        # As JSON, since a tuple as made is a list as read back.
        elif (key in a) != (key in b) or (mine != theirs and _plain(mine) != _plain(theirs)):
            found.append(key)
    return found


def _plain(setting: Any) -> str:
    return json.dumps(setting, sort_keys=True)


def _what_it_is_of(a: TaskResult, b: TaskResult) -> Iterator[str]:
    """Yield what the difference is of, where that is not the score as it is shown."""
    metric = a.headline.metric
    if _by_token(a):
        yield "in nats for each token"
    elif a.settings.get("headline_mean") == "corpus":
        yield f"of the items' mean {metric}; the score is of all texts together"
    elif not all(_is_mean_of_items(result) for result in (a, b)):
        yield f"of the items' mean {metric}, which is not the score as it is shown"


def _is_mean_of_items(result: TaskResult) -> bool:
    items = [item for item in result.items if result.headline.metric in item.values]
    mean = clustered(_Side.of(result, items).values, [item.item for item in items], groups=_groups(result, items)).mean
    return math.isclose(mean, result.headline.value or 0.0, rel_tol=1e-6, abs_tol=1e-9)


def _averaged(
    row: Comparison, of: Sequence[str], tasks: Mapping[str, Comparison], lower: Mapping[str, bool]
) -> Comparison:
    """Return `row` with the mean of the tasks' differences; its interval and p-value are those of the normal law.

    Tasks ask different questions, so their errors add up as those of independent numbers do. Where the items of a task
    all agree, its error is 0 and its interval is no point. Then the ends of the tasks' intervals add up in the same way
    (Zou and Donner 2008).
    """
    rows = [tasks[task] for task in of if task in tasks]
    differences = [part.difference for part in rows if part.difference is not None]
    errors = [part.standard_error for part in rows if part.standard_error is not None]
    if len(errors) < len(of):
        none = [task for task in of if task not in tasks or tasks[task].standard_error is None]
        return dataclasses.replace(row, note=f"no comparison, or none with an error, of {', '.join(none)}")
    if len({lower[task] for task in of}) > 1:
        return dataclasses.replace(row, note="more is better in one task and less in another")
    mean, error = float(np.mean(differences)), error_of_mean(errors)
    # An error of 0 with a difference comes from a handful of items that all agree: no z can be had from it.
    certain = error <= 1e-12 * abs(mean)
    reach = [NORMAL_95 * error] * 2
    if any(not part.standard_error and part.low != part.high for part in rows):
        apart = [[(part.difference or 0.0) - (part.low or 0.0), (part.high or 0.0) - (part.difference or 0.0)]
                 for part in rows]  # fmt: skip
        reach = [error_of_mean(side) for side in zip(*apart, strict=True)]
    return dataclasses.replace(
        row,
        difference=mean,
        standard_error=error,
        low=mean - reach[0],
        high=mean + reach[1],
        p=(None if mean else 1.0) if certain else normal_p(mean / error),
        items=sum(part.items for part in rows),
        clusters=sum(part.clusters for part in rows),
        note="; ".join(
            ["too few items to tell"] * (certain and mean != 0)
            + [f"{part.task}: {part.note}" for part in rows if part.note]
        ),
    )
