"""What points came to: means over seeds with their errors, ranks, and which points no other one beats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ratchet.documents.sweep import Objective, ObjectiveResult, Point, TrialOutcome, Value


def points_of(
    trials: Sequence[TrialOutcome],
    values: Mapping[str, Mapping[str, Any]],
    objectives: Sequence[Objective],
    marks: Mapping[str, Sequence[str]],
    seeds: Sequence[int] = (),
) -> tuple[Point, ...]:
    """Return the points of `trials` in the order in which they were chosen; `values` are theirs by their id.

    `seeds` are those that each point is to be run with. A point is whole once they have all finished, and no trial of
    it came to another end. Seeds that fail are often those that would have done badly: a mean over the others flatters.
    Points that are not whole have their ranks after those that are, and are on no front beside them.
    """
    numbers: dict[str, int] = {}
    for trial in trials:
        numbers[trial.point] = min(trial.number, numbers.get(trial.point, trial.number))
    own = {point: _own(trials, point) for point in sorted(numbers, key=numbers.__getitem__)}
    results = {point: tuple(_result(mine, wanted.metric) for wanted in objectives) for point, mine in own.items()}
    whole = {point for point, mine in own.items() if _whole(mine, objectives, seeds)}
    ranks = _ranks(results, numbers, whole, objectives[0].mode) if len(objectives) == 1 else {}
    # Where no point is whole, those that there are stand against one another.
    compared = {point: found for point, found in results.items() if point in whole or not whole}
    front = pareto(compared, objectives) if len(objectives) > 1 else set()
    return tuple(
        Point(point, dict(values[point]), found, ranks.get(point), point in front, tuple(marks.get(point, ())))
        for point, found in results.items()
    )


def _own(trials: Sequence[TrialOutcome], point: str) -> list[TrialOutcome]:
    """Return the trials that stand for a point: those with a seed, where there are some, as the plan's own seed may be
    one of theirs.
    """
    mine = [trial for trial in trials if trial.point == point]
    return [trial for trial in mine if trial.seed is not None] or mine


def _whole(trials: Sequence[TrialOutcome], objectives: Sequence[Objective], seeds: Sequence[int]) -> bool:
    ended = all(
        trial.status == "finished" and trial.metrics.get(wanted.metric, Value(None)).value is not None
        for trial in trials
        for wanted in objectives
    )
    return ended and {*seeds} <= {trial.seed for trial in trials}


def _result(trials: Sequence[TrialOutcome], metric: str) -> ObjectiveResult:
    """Return an objective at a point, over the seeds that finished and have a value.

    The error is the sample standard deviation of two or more seeds over √n; of a single one it is its own. Seeds of a
    share that all came to the same tell no error, and have the widest of their intervals.
    """
    found = [trial.metrics.get(metric, Value(None)) for trial in trials if trial.status == "finished"]
    known = [(one.value, one.standard_error) for one in found if one.value is not None]
    if not known:
        return ObjectiveResult(metric, None, None, 0, of_seeds=False)
    if len(known) == 1:
        return ObjectiveResult(metric, *known[0], 1, of_seeds=False, **_widest(found))
    numbers = [value for value, _ in known]
    error = statistics.stdev(numbers) / math.sqrt(len(numbers))
    if not error and (ends := _widest(found)):
        return ObjectiveResult(metric, numbers[0], None, len(numbers), of_seeds=True, **ends)
    return ObjectiveResult(metric, statistics.fmean(numbers), error, len(numbers), of_seeds=True)


def _widest(found: Sequence[Value]) -> dict[str, float]:
    """Return the widest ends of shares' intervals; nothing where some value has none."""
    known = [(one.low, one.high) for one in found if one.value is not None]
    lows, highs = [low for low, _ in known if low is not None], [high for _, high in known if high is not None]
    return {"low": min(lows), "high": max(highs)} if len(lows) == len(highs) == len(known) else {}


def _ranks(
    results: Mapping[str, Sequence[ObjectiveResult]], numbers: Mapping[str, int], whole: Container[str], mode: str
) -> dict[str, int]:
    """Return ranks from 1, whole points first; of equal values the surer one comes first, then the one chosen first."""

    def place(point: str) -> tuple[bool, float, float, int]:
        (found,) = results[point]
        value = found.value or 0.0
        error = math.inf if found.standard_error is None else found.standard_error
        return (point not in whole, -value if mode == "max" else value, error, numbers[point])

    # The order only: points with the best value are a tie, whatever their ranks (`compare.tied`).
    known = [point for point, (found,) in results.items() if found.value is not None]
    return {point: rank for rank, point in enumerate(sorted(known, key=place), 1)}


def pareto(results: Mapping[str, Sequence[ObjectiveResult]], objectives: Sequence[Objective]) -> set[str]:
    """Return the points that no other is as good as in all objectives and better than in one.

    Points without a value in some objective are neither on the front nor beat another.
    """
    signs = [1.0 if wanted.mode == "max" else -1.0 for wanted in objectives]
    gains = {
        point: tuple(sign * one.value for sign, one in zip(signs, found, strict=True) if one.value is not None)
        for point, found in results.items()
    }
    known = {point: gain for point, gain in gains.items() if len(gain) == len(objectives)}
    return {point for point, mine in known.items() if not any(_beats(other, mine) for other in known.values())}


def _beats(other: Sequence[float], mine: Sequence[float]) -> bool:
    return other != mine and all(theirs >= own for theirs, own in zip(other, mine, strict=True))


def best_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that have a rank, best first."""
    return [point for _, point in sorted((point.rank, point) for point in points if point.rank is not None)]
