"""How sure it is that a sweep's first point is better than each other one: over pairs or seeds that they share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ratchet.documents.sweep import Objective, ObjectiveResult, Point, PointComparison, TrialOutcome
from ratchet.evaluate.preference import by_pair
from ratchet.evaluate.statistics import FLIPS, NORMAL_95, normal_p, paired, t_p, t_reach
from ratchet.losses.preference import log_ratio_reward, loss_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs
from ratchet.reference.store import Floats, ids_in, read_logps
from ratchet.store.layout import Layout
from ratchet.store.record import sound_record
from ratchet.tune.metrics import HELD_OUT, RunFiles
from ratchet.tune.rank import best_of

_FLIPS_FOR_EACH, _MOST_FLIPS = 100, 100_000
"""Sign flips for each pair of points, so that the least p-value times their number can be below 0.05; and at most."""


def compare(
    layout: Layout, plan: Plan, points: Sequence[Point], trials: Sequence[TrialOutcome], objective: Objective
) -> tuple[PointComparison, ...]:
    """Return the first of the ranked points minus each other one. `layout` is of the storage root.

    Points with two or more seeds in common are set side by side seed by seed; points of one trial each, whose objective
    is over held-out pairs, pair by pair, where the store has the scores of both. Only what shares nothing is taken to
    be independent.

    The first point is the first because of the same values, so its differences are the largest that chance gave. p is
    therefore adjusted for all pairs of points, not for those of the first alone (Bonferroni). Where no point differs
    from any other, one sweep of 20 at most calls one worse than the first.
    """
    ranked = best_of(points)
    if len(ranked) < 2:
        return ()
    first, others = ranked[0], ranked[1:]
    ended = [trial for trial in trials if trial.status == "finished"]
    own = {point.id: [trial for trial in ended if trial.point == point.id] for point in ranked}
    values = {
        trial.id: heldout_values(layout.root / trial.run, plan, objective.metric)
        for point in ranked
        if len(own[point.id]) == 1
        for trial in own[point.id]
    }
    pairs = len(ranked) * len(others) // 2  # of points, not those with the first alone
    flips = min(_MOST_FLIPS, max(FLIPS, _FLIPS_FOR_EACH * pairs))
    found = [_compared(first, other, own, values, objective.metric, flips) for other in others]
    return tuple(dataclasses.replace(one, p_all=None if one.p is None else min(1.0, pairs * one.p)) for one in found)


def _compared(
    first: Point,
    other: Point,
    own: Mapping[str, Sequence[TrialOutcome]],
    values: Mapping[str, Mapping[str, float] | None],
    metric: str,
    flips: int,
) -> PointComparison:
    mine, theirs = own[first.id], own[other.id]
    seeds = [_by_seed(some, metric) for some in (mine, theirs)]
    shared = [seed for seed in seeds[0] if seed in seeds[1]]
    if len(shared) > 1:
        return _over_seeds(first, other, np.array([seeds[0][seed] - seeds[1][seed] for seed in shared]))
    if len(mine) == len(theirs) == 1:
        left, right = values[mine[0].id], values[theirs[0].id]
        # Only the same pairs can be set side by side.
        if left is not None and right is not None and left.keys() == right.keys():
            return _over_pairs(first, other, left, right, flips)
    return _independent(first, other, first.results[0], other.results[0])


def _by_seed(trials: Sequence[TrialOutcome], metric: str) -> dict[int | None, float]:
    found = {trial.seed: trial.metrics[metric].value for trial in trials if metric in trial.metrics}
    return {seed: value for seed, value in found.items() if value is not None}


def _over_seeds(first: Point, other: Point, differences: Floats) -> PointComparison:
    """Student's t over seeds; seeds that all differ by the same tell no error."""
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    reach = error * t_reach(count - 1)
    if not error:
        return PointComparison(first.id, other.id, mean, None, None, None, None, "seeds", count)
    p = t_p(mean / error, count - 1)
    return PointComparison(first.id, other.id, mean, error, mean - reach, mean + reach, p, "seeds", count)


def _over_pairs(
    first: Point, other: Point, left: Mapping[str, float], right: Mapping[str, float], flips: int
) -> PointComparison:
    ids = sorted(left)
    a, b = (np.array([side[one] for one in ids]) for side in (left, right))
    found = paired(a, b, ids, 0, flips=flips)
    error = found.standard_error or None  # 0 where all pairs differ by the same: that tells no error
    return PointComparison(
        first.id, other.id, found.difference, error, found.low, found.high, found.p, "pairs", found.items
    )


def _independent(first: Point, other: Point, one: ObjectiveResult, two: ObjectiveResult) -> PointComparison:
    difference = (one.value or 0.0) - (two.value or 0.0)
    errors = [error for error in (one.standard_error, two.standard_error) if error is not None]
    ends: tuple[float | None, float | None] = (None, None)
    error = math.hypot(*errors) if len(errors) == 2 else None
    if error is not None:
        ends = (difference - NORMAL_95 * error, difference + NORMAL_95 * error)
    # Shares whose pairs or items all agree have no error, and yet the ends of an interval.
    elif None not in {one.low, one.high, two.low, two.high}:
        ends = newcombe(_ends(one), _ends(two))
    return PointComparison(first.id, other.id, difference, error, *ends, _p_of(difference, ends), "independent", 0)


def _p_of(difference: float, ends: tuple[float | None, float | None]) -> float | None:
    """Return p of a difference by its 95 % interval: how far 0 is, in the error that the end on that side tells."""
    near = ends[0] if difference > 0 else ends[1]
    if near is None:
        return None
    reach = abs(difference - near)
    return normal_p(NORMAL_95 * difference / reach) if reach else float(not difference)


def _ends(one: ObjectiveResult) -> tuple[float, float, float]:
    return one.value or 0.0, one.low or 0.0, one.high or 0.0


def newcombe(one: tuple[float, float, float], two: tuple[float, float, float]) -> tuple[float, float]:
    """Return the interval of the difference of two independent shares, each given with the ends of its own.

    (value, low, high) each; the ends are put together as method 10 of Newcombe (1998, Statistics in Medicine 17:873).
    """
    (a, a_low, a_high), (b, b_low, b_high) = one, two
    return a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)


def tied(points: Sequence[Point]) -> tuple[str, ...]:
    """Return the ids of the points that share the best value, where two or more do, best first."""
    ranked = best_of(points)
    if not ranked:
        return ()
    best = ranked[0].results[0].value
    assert best is not None  # noqa: S101  a point has its rank by it
    same = [point.id for point in ranked if _equal(point.results[0].value, best)]
    return tuple(same) if len(same) > 1 else ()


def _equal(value: float | None, best: float) -> bool:
    return value is not None and math.isclose(value, best, rel_tol=1e-9, abs_tol=1e-12)


def shares_of(trials: Sequence[TrialOutcome], metric: str) -> Iterator[bool]:
    """Yield of each trial with a value of a metric whether it is a share, which has the ends of an interval."""
    for trial in trials:
        if metric in trial.metrics and trial.metrics[metric].value is not None:
            yield trial.metrics[metric].high is not None


def heldout_values(folder: Path, plan: Plan, name: str) -> dict[str, float] | None:
    """Return a held-out metric of every pair, by pair id, of a finished run of `plan` in its run folder.

    None where the metric is of another group, or the store has not all of the scores any more.
    """
    stage, _, inner = name.partition("/")
    group, _, rest = inner.partition("/")
    key, _, source = rest.partition("/")
    if group != "heldout" or stage not in plan.stages or key not in HELD_OUT:
        return None
    settings = plan.stages[stage]
    reward = loss_of(settings.kind).reward if reads_pairs(settings) else log_ratio_reward
    found: dict[str, float] = {}
    for of, row in RunFiles(folder, plan).opposed(stage).items():
        if source and of != source:
            continue
        folders = [Path(record) for record in (row.record, row.against_record) if record]
        if len(folders) < 2 or any(sound_record(one) is None for one in folders):
            return None
        ids = ids_in(folders[0])
        mine, theirs = (read_logps([one], ids) for one in folders)
        values = by_pair(mine, theirs, reward)[key]
        found |= zip(ids, values.tolist(), strict=True)
    return found or None
