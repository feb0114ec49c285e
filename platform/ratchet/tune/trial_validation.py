"""Try a space on a plan, at its values and the ends of its ranges; say which of them cause what is wrong.

A key with a few values is tried at each; a range at its ends; an order at the first and the last. Few combinations are
all tried; of many, those in which at most two keys differ from a point that is right.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.plan.document import Document, Problem, shorten
from ratchet.plan.load import own_problems, plan_problems, suite_problems
from ratchet.plan.reading import in_yaml
from ratchet.plan.space import Space
from ratchet.tune.trial_plan import place_of, trial_document, value_in

MOST_POINTS = 200
"""More combinations than this are tried in pairs of keys."""

FEW_VALUES = 4
"""In pairs, a key with more values than this has its first and its last."""

_METRICS_OF = re.compile(
    r"stages(\.[^.]+(\.(kind|data|after|start|reference|of))?)?|data(\.[^.]+(\.(held_out(\..+)?|build))?)?"
)
"""Keys whose values may decide which metrics a trial has: all others change what these come to."""

Point = Mapping[str, int]
"""The number of a value of each key, among those that are tried."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """What came of it: what is wrong, and documents of trials that are right, by their values as people write them.

    There is one for each set of values that may decide which metrics a trial has; none where no point is right.
    """

    problems: list[Problem]
    good: Mapping[str, Document]


@dataclasses.dataclass(frozen=True)
class _Look:
    """A point that was looked at, and what is wrong there."""

    point: Point
    document: Document
    problems: tuple[Problem, ...]


class _Trier:
    """The plan, the space, and each key's values."""

    def __init__(self, plan: Document, written: Document, space: Space, keys: Sequence[str]) -> None:
        self.plan, self.written, self.space = plan, written, space
        self.values = {key: list(space.keys[key].row.tried(space.keys[key].given)) for key in keys}
        self.seen: dict[tuple[int, ...], _Look] = {}
        self.suites: dict[str, tuple[Problem, ...]] = {}

    def look(self, point: Point) -> _Look:
        """Return what is wrong with the plan at a point."""
        name = tuple(point.values())
        if name not in self.seen:
            values = {key: self.values[key][n] for key, n in point.items()}
            seed = self.space.seeds[0] if self.space.seeds else None
            document = trial_document(self.plan, self.space, values, seed, self.written)
            found = [*own_problems(document), *self._suites(document), *self._without_effect(document, values)]
            self.seen[name] = _Look(point, document, tuple(dict.fromkeys(found)))
        return self.seen[name]

    def _suites(self, document: Document) -> tuple[Problem, ...]:
        """Return what is wrong with a trial's suites, whose files are read once for all trials that ask the same."""
        asked = json.dumps([document.data.get("evaluate"), document.data.get("data")])
        if asked not in self.suites:
            self.suites[asked] = tuple(suite_problems(document))
        return self.suites[asked]

    def brings(self, problem: Problem, values: Mapping[str, Any], **common: Any) -> bool:
        """Whether these values of keys, or these of `set` or `unset`, bring a problem by themselves."""
        bare = self.space.model_copy(update={"set": {}, "unset": (), **common})
        return problem in plan_problems(trial_document(self.plan, bare, values, None, self.written))

    def said(self, key: str, number: int) -> str:
        """Return a value as people write it."""
        value = self.values[key][number]
        return shorten(in_yaml(list(value) if isinstance(value, tuple) else value))

    def problem(self, key: str, number: int, what: str) -> Problem:
        """Return a problem at the place of a value."""
        place = place_of(self.written, self.space, key, self.values[key][number])
        return Problem(place, key, what)

    def _without_effect(self, document: Document, values: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield why a value decides nothing in a trial, as another key of the stage decides in its place."""
        for key in values:
            place = dataclasses.replace(self.written.place(("keys", key)), under="keys")
            if key.endswith(".checkpoint.every") and value_in(document, f"{key[:-5]}publish") != "best":
                yield Problem(place, key, f"changes no model, as {key[:-5]}publish is not best")
            if not self.space.keys[key].row.orders:
                continue
            stage = key.removesuffix(".data")
            steps = value_in(document, f"{stage}.steps")
            if not isinstance(steps, dict):
                what = f"orders sources that {stage} trains on together: it has no `steps`"
            elif steps.get("by", "source") != "source":
                what = f"orders sources that {stage} trains on together: {stage}.steps.by is {steps.get('by')}"
            elif (order := steps.get("order", "listed")) != "listed":
                what = f"has no say, as {stage}.steps.order is {order}: put {stage}.steps.order: listed under `set`"
            else:
                continue
            yield Problem(place, key, what)


def try_points(plan: Document, written: Document, space: Space, keys: Sequence[str]) -> Tried:
    """Try the plan at the points of a space. `keys` are those that are right by themselves.

    Where some key is not, no point can be right: only faults of single values of `keys` are reported.
    """
    trier = _Trier(plan, written, space, keys)
    looks = [trier.look(point) for point in _points(trier)]
    good = _good(trier, looks) if len(keys) == len(space.keys) else {}
    found: dict[Problem, None] = {}
    for problem in dict.fromkeys(one for look in looks for one in look.problems):
        own = _own(trier, problem)
        if len(keys) == len(space.keys) or own is not None:
            found |= dict.fromkeys(_blamed(trier, looks, problem, own))
    return Tried(list(found), good)


def _good(trier: _Trier, looks: Sequence[_Look]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for look in looks:
        told = [f"{key} = {trier.said(key, n)}" for key, n in look.point.items() if _METRICS_OF.fullmatch(key)]
        if not look.problems:
            found.setdefault(", ".join(told), look.document)
    return found


def _points(trier: _Trier) -> list[Point]:
    sizes = {key: len(values) for key, values in trier.values.items()}
    if math.prod(sizes.values()) <= MOST_POINTS:
        return [dict(zip(sizes, numbers, strict=True)) for numbers in itertools.product(*map(range, sizes.values()))]
    base = _base(trier, sizes)
    points = [base, *(base | {key: n} for key, size in sizes.items() for n in range(size))]
    for one, other in itertools.combinations(sizes, 2):
        few = {key: range(sizes[key]) if sizes[key] <= FEW_VALUES else (0, sizes[key] - 1) for key in (one, other)}
        points += [base | {one: n, other: m} for n in few[one] for m in few[other]]
    return [dict(numbers) for numbers in dict.fromkeys(tuple(point.items()) for point in points)]


def _base(trier: _Trier, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return a point that is right, looked for from the first values on; where there is none near, these."""
    first = dict.fromkeys(sizes, 0)
    near = [first, *(first | {key: n} for key, size in sizes.items() for n in range(size))]
    spread = [{key: n % size for key, size in sizes.items()} for n in range(max(sizes.values()))]
    return next((point for point in [*near, *spread] if not trier.look(point).problems), first)


def _own(trier: _Trier, problem: Problem) -> str | None:
    """Return the key whose value a problem stands at."""
    if problem.place.under != "keys":
        return None
    # With a dot behind both, or stages.align would stand for stages.align2 too.
    mine = (key for key in trier.values if f"{problem.key}.".replace("[", ".").startswith(f"{key}."))
    return next(mine, None)


def _blamed(trier: _Trier, looks: Sequence[_Look], problem: Problem, own: str | None) -> Iterator[Problem]:
    """Yield a problem once for each smallest set of values that always brings it."""
    failing = [look.point for look in looks if problem in look.problems]
    right = [look.point for look in looks if problem not in look.problems]
    if not right:
        yield from [problem] if problem.place.under else _everywhere(trier, problem)
        return
    while failing:
        cause = _cause(failing[0], right, own)
        failing = [point for point in failing if any(point[key] != n for key, n in cause.items())]
        yield _told(trier, problem, cause)


def _cause(point: Point, right: Sequence[Point], own: str | None) -> dict[str, int]:
    """Return the fewest values of a point that no right point has, with that of `own` where there is a choice."""
    keys = sorted(point, key=lambda key: key != own)
    for count in range(1, len(keys)):
        for some in itertools.combinations(keys, count):
            if not any(all(one[key] == point[key] for key in some) for one in right):
                return {key: point[key] for key in some}
    return {key: point[key] for key in keys}


def _everywhere(trier: _Trier, problem: Problem) -> Iterator[Problem]:
    """Yield a problem that every point has in the plan's own file: from each line of the space that brings it alone."""
    what, found = f"{problem.key}: {problem.what}{_advice(problem)}", False
    for key, values in trier.values.items():
        for n, value in enumerate(values):
            if trier.brings(problem, {key: value}):
                found = True
                yield _told(trier, problem, {key: n})
    for key, value in trier.space.set.items():
        if trier.brings(problem, {}, set={key: value}):
            found = True
            yield trier.written.problem(("set", key), what)
    for n, key in enumerate(trier.space.unset):
        if trier.brings(problem, {}, unset=(key,)):
            found = True
            yield trier.written.problem(("unset", n), what)
    if not found:  # it takes several of them
        yield trier.written.problem(("keys",), f"with these, and with what every trial has: {what}")


def _told(trier: _Trier, problem: Problem, cause: Mapping[str, int]) -> Problem:
    (key, number), *others = cause.items()
    value = trier.said(key, number)
    there = problem.place.under == "keys" and problem.key.startswith(key)
    if not others and there and (problem.place.written or value) in problem.what:
        return problem
    beside = ", ".join(f"{other} = {trier.said(other, n)}" for other, n in others)
    at = f"at {value}, with {beside}: " if beside else f"at {value}: "
    inner = "" if problem.key == key else f"{problem.key}: "
    return trier.problem(key, number, f"{at}{inner}{problem.what}{_advice(problem)}")


def _advice(problem: Problem) -> str:
    """Return how to get rid of a key of the plan's file that a kind does not have."""
    if problem.what.startswith("no such key for kind") and not problem.place.under:
        return f"; put {problem.key} under `unset` where no trial needs it"
    return ""
