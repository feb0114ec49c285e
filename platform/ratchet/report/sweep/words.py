"""What came of a sweep, in sentences: what ran, what was saved, what is best and how sure that is."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from typing import Any

from ratchet.documents.sweep import Objective, ObjectiveResult, Point, PointComparison, SweepOutcome, Value
from ratchet.errors import PlanError
from ratchet.plan.override import apply
from ratchet.plan.reading import parse
from ratchet.report import figures as fig
from ratchet.report.figures import cut, many
from ratchet.report.sweep.values import (
    decimals,
    ordered,
    result_of,
    same,
    short_names,
    shown,
    with_values,
)
from ratchet.track.progress import duration

SET_LINE = "# --set "
"""Begins a line at the head of a sweep's plan.yaml: a `KEY=VALUE` that the plan was changed by."""

NAMED = 12
"""Points of a front that are named in words and in its chart."""


@dataclasses.dataclass(frozen=True)
class IndependentDifference:
    """One point's result minus another's. `error` is None where either has none; `basis` says what errors are over."""

    value: float
    error: float | None
    basis: str

    @property
    def verdict(self) -> str:
        """Whether the difference is more than two of its standard errors."""
        if self.error is None:
            return "without an error for both, nothing tells it from chance"
        if abs(self.value) <= 2 * self.error:
            return "not distinguishable at two standard errors"
        return "distinguishable at two standard errors"


def apart(one: ObjectiveResult, other: ObjectiveResult) -> IndependentDifference | None:
    """Return `one` minus `other`, both errors taken as independent: √(a² + b²)."""
    if one.value is None or other.value is None:
        return None
    errors = (one.standard_error, other.standard_error)
    error = None if None in errors else math.hypot(*(found or 0.0 for found in errors))
    kinds = {one.of_seeds, other.of_seeds}
    basis = "one error over seeds, the other over items" if len(kinds) > 1 else f"errors {over(one)}"
    return IndependentDifference(one.value - other.value, error, basis)


def over(result: ObjectiveResult) -> str:
    """Say what a result's standard error is over."""
    return "over seeds" if result.of_seeds else "over items, not over seeds"


def lead(sweep: SweepOutcome) -> str:
    """Say in one sentence what ran."""
    return f"{many(len(sweep.points), 'point')}, {statuses(sweep)}: {duration(sweep.seconds)}."


def statuses(sweep: SweepOutcome) -> str:
    """Count the trials by status."""
    counts = Counter(trial.status for trial in sweep.trials)
    parts = [f"{counts[one]:,} {one}" for one in ("finished", "stopped", "failed", "unfinished") if counts[one]]
    planned = f" of {sweep.planned:,} planned" if sweep.planned and sweep.planned != len(sweep.trials) else ""
    return f"{many(len(sweep.trials), 'trial')}{planned}" + (f" ({', '.join(parts)})" if parts else "")


def wanted(objective: Objective) -> str:
    """Name an objective with the way that is better."""
    return f"{cut(objective.metric, 80)} ({'higher' if objective.mode == 'max' else 'lower'} is better)"


def saved(sweep: SweepOutcome) -> str:
    """Say in one line what was not computed twice."""
    work = sweep.work
    found = f", {work.stages_found:,} found from before," if work.stages_found else ""
    parts = [
        f"{many(work.stages, 'stage')} trained{found} in place of {work.stages_unshared:,}",
        f"{work.pairs:,} pairs in place of {work.pairs_unshared:,}",
    ]
    if work.reference_pairs_unshared:
        passes = f"{work.reference_passes:,} reference pass{'' if work.reference_passes == 1 else 'es'}"
        said = f"{passes} over {work.reference_pairs:,} pairs in place of {work.reference_passes_unshared:,}"
        parts.append(f"{said} over {work.reference_pairs_unshared:,}")
    parts.append(f"{duration(work.seconds)} of work in place of {duration(work.seconds_unshared)}")
    return ", ".join(parts) + "."


def where(sweep: SweepOutcome, point: Point) -> str:
    """Name a point by its values, and its marks."""
    names = short_names([key.key for key in sweep.keys])
    said = [f"{names[key.key]} = {shown(point.values.get(key.key), key.kind)}" for key in sweep.keys]
    marks = f" ({', '.join(cut(mark, 40) for mark in point.marks)})" if point.marks else ""
    return f"{point.id} with {', '.join(said)}{marks}"


def measure(sweep: SweepOutcome, point: Point, place: int) -> str:
    """Say a point's result with its error, and what that is over."""
    found = result_of(point, place)
    if found is None:
        return fig.NONE
    text = result_text(found, decimals(sweep, place))
    if found.low is not None:
        return f"{text} (exact 95 % interval over items of {_seeds(sweep, found.seeds)}, not over seeds)"
    if found.standard_error is None:
        return f"{text}, {_seeds(sweep, found.seeds)}"
    count = _seeds(sweep, found.seeds) if found.of_seeds else f"items of {_seeds(sweep, found.seeds)}, not over seeds"
    return f"{text} (standard error over {count})"


def result_text(found: ObjectiveResult | Value, digits: int) -> str:
    """Return a result as a figure with its error, or with its interval where it is a share."""
    return fig.with_ends(found.value, found.standard_error, (found.low, found.high), digits)


def finished(sweep: SweepOutcome, seeds: int) -> str:
    """Return how many seeds of a point finished, and of how many where some planned ones did not."""
    seeds_planned = sweep.space.get("seeds")
    planned = len(seeds_planned) if isinstance(seeds_planned, list | tuple) else 0
    return f"{seeds} of {planned}" if seeds < planned else fig.count(seeds)


def _seeds(sweep: SweepOutcome, count: int) -> str:
    said = finished(sweep, count)
    return f"{said} seed{'' if said == '1' else 's'}"


def winner(sweep: SweepOutcome) -> list[str]:
    """Say what is best and how sure that is: sentences, each a paragraph."""
    if len(sweep.objectives) > 1:
        return _front(sweep)
    found = with_values(sweep, 0)
    if sweep.tied:
        return _tie(sweep, found)
    best = next((point for point in found if point.id == sweep.best), None)
    if best is None:
        return ["No trial finished with a value of the objective, so nothing is best."]
    said = [f"Best: {where(sweep, best)}: {cut(sweep.objectives[0].metric, 80)} {measure(sweep, best, 0)}."]
    others = [point for point in found if point is not best]
    if not others:
        return [*said, "It is the only point with a value, so there is nothing to compare it with."]
    said.append(_against(sweep, best, others[0], "The runner-up"))
    own = plan_point(sweep)
    if own is best:
        said.append("The best point is the plan's own.")
    elif own in others and own is not others[0]:
        said.append(_against(sweep, best, own, "The plan's own point"))
    elif own is others[0]:
        said.append("The runner-up is the plan's own point.")
    elif own is not None:
        said.append(f"The plan's own point {own.id} has no value.")
    return [*said, _caution(sweep, best, others)]


def _against(sweep: SweepOutcome, best: Point, other: Point, who: str) -> str:
    said = f"{who} is {where(sweep, other)}: {measure(sweep, other, 0)}"
    found = next((one for one in sweep.comparisons if (one.point, one.other) == (best.id, other.id)), None)
    if found is not None:
        return f"{said}. Best minus this: {compared(found, decimals(sweep, 0))}."
    a, b = result_of(best, 0), result_of(other, 0)
    alone = apart(a, b) if a and b else None
    if alone is None:
        return f"{said}."
    off = fig.difference(alone.value, alone.error, decimals(sweep, 0))
    return f"{said}. Best minus this: {off}; {alone.verdict} ({alone.basis}, taken as independent)."


def compared(found: PointComparison, digits: int) -> str:
    """Return a difference of two points with its interval, whether it differs from 0, and over what it is."""
    basis = {
        "pairs": f"over {found.count:,} pairs of both",
        "seeds": f"over {found.count} seeds of both",
        "independent": "taken as independent",
    }[found.basis]
    if found.low is None or found.high is None:
        return (
            f"{fig.difference(found.difference, found.standard_error, digits)}; nothing tells it from chance ({basis})"
        )
    digits = fig.decimals_of(found.high - found.low) if found.high > found.low else digits
    ends = f"{fig.signed(found.low, digits)} to {fig.signed(found.high, digits)}"
    verdict = "distinguishable" if found.shown else "not distinguishable"
    p = f", p {fig.probability(found.p_all)} for all pairs of points" if found.p_all is not None else ""
    return f"{fig.signed(found.difference, digits)} ({ends}, 95 %); {verdict} ({basis}{p})"


def _tie(sweep: SweepOutcome, found: list[Point]) -> list[str]:
    same = [point for point in found if point.id in sweep.tied]
    said = [f"A tie: {len(same)} points came to the same, so that none is best."]
    said += [f"{where(sweep, point)}: {measure(sweep, point, 0)}." for point in same[:NAMED]]
    own = plan_point(sweep)
    if own is not None:
        said.append(f"The plan's own point {own.id} is {'one of them' if own in same else 'none of them'}.")
    return [*said, "Name the one to promote, or aim at a metric that tells them apart, such as a margin."]


def _caution(sweep: SweepOutcome, best: Point, others: list[Point]) -> str:
    """Say how many points are as good as the best, and why its value flatters it."""
    first = best.results[0]
    if sweep.comparisons:
        near, level = sum(not one.shown for one in sweep.comparisons), ", at 5 % for all pairs of points"
    else:
        pairs = [apart(first, one.results[0]) for one in others]
        near = sum(one is not None and one.error is not None and abs(one.value) <= 2 * one.error for one in pairs)
        level = " at two standard errors"
    said = f"{near} of {many(len(others), 'other point')} cannot be distinguished from it{level}. "
    said += f"As the pick of {len(others) + 1} points its value flatters it: run it again with other seeds to know it."
    if not first.of_seeds:
        return f"{said} An error over items says nothing of how training with another seed would have come out."
    # An error from n seeds is itself known to 1/√(2(n − 1)) of it: 41 % at four.
    return f"{said} An error from {first.seeds} seeds is itself rough." if first.seeds < 5 else said


def _front(sweep: SweepOutcome) -> list[str]:
    places = range(len(sweep.objectives))
    found = [point for point in ordered(sweep) if any(result_of(point, place) for place in places)]
    front = [point for point in found if point.front]
    if not front:
        return ["No trial finished with values of the objectives, so there is no front."]
    said = [
        f"{many(len(front), 'point')} of {len(found)} on the Pareto front: no other point, as measured, is as good in "
        f"all {len(sweep.objectives)} objectives and better in one."
    ]
    for point in front[:NAMED]:
        values = "; ".join(
            f"{cut(one.metric, 80)} {measure(sweep, point, place)}" for place, one in enumerate(sweep.objectives)
        )
        said.append(f"{where(sweep, point)}: {values}.")
    if len(front) > NAMED:
        said.append(f"{len(front) - NAMED} more are in the table.")
    close = sum(any(_alike(point, other) for other in front) for point in found if not point.front)
    said.append(
        f"The front takes no account of errors: {close} of {many(len(found) - len(front), 'point')} off it cannot be "
        "distinguished from a point on it at two standard errors in any objective."
    )
    own = plan_point(sweep)
    if own is not None:
        said.append(f"The plan's own point {own.id} is {'on' if own.front else 'off'} the front.")
    return said


def _alike(one: Point, other: Point) -> bool:
    pairs = [apart(a, b) for a, b in zip(one.results, other.results, strict=True)]
    return all(found and found.error is not None and abs(found.value) <= 2 * found.error for found in pairs)


def overrides(sweep: SweepOutcome) -> list[str]:
    """Return what the plan was changed by when the sweep was asked for: the `--set` lines at its head, each once.

    A plan that was a sweep's own copy has them twice when it was set again; of equal ones the last counts.
    """
    lines = itertools.takewhile(lambda line: line.startswith(SET_LINE), sweep.plan_text.split("\n"))
    found = [line.removeprefix(SET_LINE) for line in lines]
    return [one for n, one in enumerate(found, 1) if one not in found[n:]]


def plan_point(sweep: SweepOutcome) -> Point | None:
    """Return the point that has the values that the plan itself has; None where none has, or the plan does not say.

    Its values are those with what was set when the sweep was asked for. A value that it leaves to its default is not
    known here. The order of a stage that is not `listed` is that of the point with its mark.
    """
    try:
        written = parse(sweep.plan_text, "plan")
    except PlanError:  # a sweep whose plan is not at hand is shown all the same
        return None
    if not isinstance(written.data, dict):
        return None
    plan = apply(written, overrides(sweep)).data
    for point in sweep.points:
        if sweep.keys and all(_as_in(plan, key.key, key.kind, point) for key in sweep.keys):
            return point
    return None


def _as_in(plan: Any, key: str, kind: str, point: Point) -> bool:
    written, value = _at(plan, key), point.values.get(key)
    if kind != "permutation":
        return written is not None and same(written, value)
    order = _at(plan, f"{key.rpartition('.')[0]}.steps.order") or "listed"
    if order != "listed":
        return str(order).replace("_", " ") in point.marks
    names = list(written) if isinstance(written, dict | list) else None
    return names is not None and same(names, value)


def _at(plan: Any, key: str) -> Any:
    """Return what stands at a dotted key; None where nothing does."""
    for part in key.split("."):
        plan = plan.get(part) if isinstance(plan, dict) else None
    return plan
