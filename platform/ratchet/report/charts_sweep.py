"""The charts of a sweep: parallel coordinates, an objective against each key, the Pareto front, importance.

Blue: the better a point, the more it stands out. Orange, and a diamond: the best, or the front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ratchet.report.answers import cut
from ratchet.report.charts import Chart
from ratchet.report.plots import (
    INK,
    LEVELS,
    MUTED,
    PAGE,
    RULE,
    axis_names,
    draw,
    labels_apart,
    level_colour,
    short,
    stage_colour,
)
from ratchet.report.sweep_data import Key, Point, Sweep
from ratchet.report.sweep_values import (
    Axis,
    axis_of,
    document,
    goodness,
    measured,
    objective_axis,
    records,
    result_of,
    shown,
)
from ratchet.report.sweep_words import NAMED, plan_point

BEST = stage_colour(1)
DOT = stage_colour(2)

MOST_NAMES = 40
"""Categories that a chart has lines for."""


@dataclasses.dataclass(frozen=True)
class Marks:
    """Ids of what charts bring out: the best point, or those of the front; and the plan's own point."""

    first: frozenset[str]
    own: str | None

    @classmethod
    def of(cls, sweep: Sweep) -> Marks:
        own = plan_point(sweep)
        return cls(leaders(sweep), own.id if own else None)


def leaders(sweep: Sweep) -> frozenset[str]:
    """Return the ids of the best point, or of those of the front."""
    return frozenset([sweep.best] if sweep.best else [point.id for point in sweep.points if point.front])


def value(point: Point, place: int) -> float:
    """Return a measured point's value."""
    found = result_of(point, place)
    return 0.0 if found is None or found.value is None else found.value


def error(point: Point, place: int) -> float:
    """Return a point's standard error, 0 where it has none."""
    found = result_of(point, place)
    return (found.standard_error or 0.0) if found else 0.0


def parallel(sweep: Sweep) -> Chart | None:
    """One axis a key and one an objective, one line a point, coloured by the first objective."""
    places = range(len(sweep.objectives))
    points = measured(sweep, *places)
    if not points or not sweep.keys:
        return None
    room = max(9, min(26, 118 // (len(sweep.keys) + len(places))))
    axes_of = [axis_of(sweep, key, [one.values.get(key.key) for one in points], room) for key in sweep.keys]
    goals = [objective_axis(sweep, place) for place in places]
    lines = [
        [axis.place(one.values.get(key.key)) for key, axis in zip(sweep.keys, axes_of, strict=True)]
        + [goal.place(value(one, place)) for place, goal in enumerate(goals)]
        for one in points
    ]
    colours = [level_colour(goodness(goals[0], sweep.objectives[0], value(one, 0))) for one in points]
    first = leaders(sweep)

    def paint(axes: Any) -> None:
        for one, ys, colour in reversed(list(zip(points, lines, colours, strict=True))):
            top = one.id in first
            known = [(x, y) for x, y in enumerate(ys) if y is not None]
            width = 2.6 if top else (1.3 if len(points) < 100 else 0.8)
            look = {"marker": "D" if top else "o", "markersize": 6 if top else 3.5, "linewidth": width}
            axes.plot(*zip(*known, strict=True), color=BEST if top else colour, zorder=3 if top else 2, **look)
        for x, axis in enumerate([*axes_of, *goals]):
            _upright(axes, x, axis, 30 if x < len(axes_of) else 14)
            if x == len(axes_of):
                _scale(axes, x, sweep.objectives[0].mode == "max")
        axes.set_xlim(-0.02, len(lines[0]) - 1 + 0.02)
        axes.set_ylim(0, 1)
        axes.axis("off")

    rows = max((len(axis.names) for axis in axes_of), default=0)
    size = (900, 60 + max(300, 17 * min(rows, MOST_NAMES)))
    svg = draw("parallel", "Parallel coordinates of all points", paint, size=size, margins=(16, 150, 40, 20))
    says = f"Each line is a point, from its values to what came of them. {_colours(sweep)}"
    if left := len(sweep.points) - len(points):
        says += f" {left} without a value {'is' if left == 1 else 'are'} not drawn."
    return Chart(svg, says, records(sweep, points))


def _colours(sweep: Sweep) -> str:
    which = "best point" if sweep.best else "Pareto front"
    by = f" in {cut(sweep.objectives[0].metric, 60)}" if len(sweep.objectives) > 1 else ""
    return f"The better{by}, the stronger the blue; orange with diamonds: {which}."


def _upright(axes: Any, x: int, axis: Axis, longest: int) -> None:
    """Draw one axis of parallel coordinates, with its ticks to the right and its name above."""
    axes.axvline(x, color=MUTED, linewidth=0.9, zorder=1)
    ticks = axis.ticks()
    every = -(-len(ticks) // MOST_NAMES)
    box = {"boxstyle": "square,pad=0.1", "facecolor": PAGE, "edgecolor": "none", "alpha": 0.75}
    for place, text in ticks[::every]:
        look = {"textcoords": "offset points", "va": "center", "size": 10, "color": MUTED, "bbox": box, "zorder": 4}
        axes.annotate(short(text, longest), (x, place), (7, 0), **look)
    end = "left"
    axes.annotate(short(axis.name, 24), (x, 1), (-6, 12), textcoords="offset points", ha=end, color=INK, size=11)


def _scale(axes: Any, x: int, rises: bool) -> None:
    """Colour an objective's axis as its values are."""
    for level in range(LEVELS):
        colour = level_colour((level + 0.5) / LEVELS if rises else 1 - (level + 0.5) / LEVELS)
        axes.plot([x, x], [level / LEVELS, (level + 1) / LEVELS], color=colour, linewidth=5, solid_capstyle="butt")


def against_keys(sweep: Sweep, place: int) -> tuple[list[Chart], list[Chart]]:
    """Return an objective against each key, as (wide, small) charts; the wide ones have a line a category."""
    points = measured(sweep, place)
    wide, small = [], []
    for number, key in enumerate(sweep.keys if points else ()):
        axis = axis_of(sweep, key, [one.values.get(key.key) for one in points], 46)
        long = axis.scale == "names" and (len(axis.names) > 6 or max(map(len, axis.names)) > 7)
        made = _lines if long else _upright_dots
        (wide if long else small).append(made(sweep, place, number, key, axis))
    return wide, small


def _caption(sweep: Sweep, place: int, axis: Axis) -> str:
    return f"{cut(sweep.objectives[place].metric, 60)} against {cut(axis.name, 60)}"


def _upright_dots(sweep: Sweep, place: int, number: int, key: Key, axis: Axis) -> Chart:
    points, goal = measured(sweep, place), objective_axis(sweep, place, errors=True)
    found, marks = _spread(points, key, axis), Marks.of(sweep)

    def paint(axes: Any) -> None:
        for one, x in found:
            _dot(axes, marks, one, x, value(one, place), up=error(one, place))
        ticks = axis.ticks()
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(goal.low, goal.high)
        axis_names(axes, short(axis.name + (", log scale" if axis.scale == "log" else ""), 44), short(goal.name, 44))

    says = _caption(sweep, place, axis)
    svg = draw(f"against-{place}-{number}", says, paint, margins=(56, 16, 26, 38))
    return Chart(svg, says, records(sweep, points))


def _lines(sweep: Sweep, place: int, number: int, key: Key, axis: Axis) -> Chart:
    """Draw a line a category, those of the best points where they are many."""
    points, goal = measured(sweep, place), objective_axis(sweep, place, errors=True)
    where = {one.id: axis.place(one.values.get(key.key)) for one in points}
    best = list(dict.fromkeys(at for one in points if (at := where[one.id]) is not None))
    kept = sorted(best[:MOST_NAMES])
    row_of = {at: row for row, at in enumerate(kept)}
    labels = {at: text for at, text in axis.ticks()}
    drawn, marks = [one for one in points if where[one.id] in row_of], Marks.of(sweep)

    def paint(axes: Any) -> None:
        for at, row in row_of.items():
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.3, linewidth=0)
            mine = [one for one in drawn if where[one.id] == at]
            for index, one in enumerate(mine):
                y = row + 0.7 * ((index + 0.5) / len(mine) - 0.5)
                _dot(axes, marks, one, value(one, place), y, across=error(one, place))
        axes.set_yticks(range(len(kept)), [labels[at] for at in kept])
        axes.set_ylim(len(kept) - 0.5, -0.5)
        axes.set_xlim(goal.low, goal.high)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axis_names(axes, short(goal.name, 60), "")

    says = _caption(sweep, place, axis)
    if len(best) > len(kept):
        says += f": the {len(kept)} of {len(best)} with the best points"
    side = min(330, 24 + 7 * max(len(labels[at]) for at in kept)) if kept else 60
    each = max(20, min(60, 7 * max((sum(where[one.id] == at for one in drawn) for at in kept), default=1)))
    size = (900, 56 + each * max(1, len(kept)))
    svg = draw(f"against-{place}-{number}", says, paint, size=size, margins=(side, 20, 12, 40))
    return Chart(svg, says, records(sweep, drawn))


def _spread(points: Sequence[Point], key: Key, axis: Axis) -> list[tuple[Point, float]]:
    """Return each point's place; those of one category stand side by side in the order of their ranks."""
    places = [(one, axis.place(one.values.get(key.key))) for one in points]
    found = []
    for one, at in places:
        if at is None:
            continue
        if axis.scale == "names":
            mine = [other for other, there in places if there == at]
            at += 0.7 / len(axis.names) * ((mine.index(one) + 0.5) / len(mine) - 0.5)
        found.append((one, at))
    return found


def _dot(axes: Any, marks: Marks, one: Point, x: float, y: float, *, up: float = 0.0, across: float = 0.0) -> None:
    top = one.id in marks.first
    colour = BEST if top else DOT
    look = {"color": colour, "marker": "D" if top else "o", "markersize": 6.5 if top else 5, "zorder": 4 if top else 3}
    bars = {"xerr": across or None, "yerr": up or None, "elinewidth": 1.1, "alpha": 1.0 if top else 0.85}
    axes.errorbar(x, y, **look, **bars, markeredgewidth=0)
    if one.id == marks.own:
        axes.plot(x, y, linestyle="", marker="s", markersize=12, markerfacecolor="none", markeredgecolor=INK, zorder=5)


def how_to_read(sweep: Sweep) -> str:
    """Say what marks and bars of the scatter charts are."""
    own = " Square around: the plan's own values." if plan_point(sweep) else ""
    which = "the best point" if sweep.best else "the Pareto front"
    return f"One dot a point; orange diamond: {which}. Bars: one standard error to each side, where there is one.{own}"


def pareto(sweep: Sweep) -> Chart | None:
    """The first two objectives against each other, the third as colour; points of the front named."""
    places = range(len(sweep.objectives))
    points = measured(sweep, *places)
    if len(places) < 2 or not points:
        return None
    x_axis, y_axis = (objective_axis(sweep, place, errors=True) for place in (0, 1))
    front = [one for one in points if one.front]
    third = objective_axis(sweep, 2) if len(places) > 2 else None

    def colour(one: Point) -> str:
        if third is not None:
            return level_colour(goodness(third, sweep.objectives[2], value(one, 2)))
        return BEST if one.front else DOT

    def paint(axes: Any) -> None:
        axes.set_xlim(x_axis.low, x_axis.high)
        axes.set_ylim(y_axis.low, y_axis.high)
        if third is None:  # a line through a front of three objectives would join what is not next to each other
            steps = sorted((value(one, 0), value(one, 1)) for one in front)
            axes.plot(*zip(*steps, strict=True), color=BEST, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        for one in points:
            x, y = value(one, 0), value(one, 1)
            bars = {"xerr": error(one, 0) or None, "yerr": error(one, 1) or None, "elinewidth": 0.8}
            look = {"marker": "D" if one.front else "o", "markersize": 7.5 if one.front else 5, "color": colour(one)}
            edge = {"markeredgecolor": BEST, "markeredgewidth": 1.6 if one.front and third else 0}
            axes.errorbar(x, y, **bars, **look, **edge, zorder=3 if one.front else 2)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        labels_apart(axes, [(value(one, 0), value(one, 1), _name(sweep, one)) for one in front[:NAMED]])
        axis_names(axes, short(_better(sweep, 0), 70), short(_better(sweep, 1), 70))

    says = "Orange diamonds: the Pareto front. Bars: one standard error to each side, where there is one."
    if third is not None:
        says = f"Diamonds with an orange edge: the front. The better {_better(sweep, 2)}, the stronger the blue."
    if len(front) > NAMED:
        says += f" {NAMED} of the {len(front)} points of the front are named."
    svg = draw("pareto", "The Pareto front", paint, size=(900, 420), margins=(60, 260, 30, 42))
    return Chart(svg, says, records(sweep, points))


def _better(sweep: Sweep, place: int) -> str:
    one = sweep.objectives[place]
    return f"{one.metric} ({'higher' if one.mode == 'max' else 'lower'} is better)"


def _name(sweep: Sweep, point: Point) -> str:
    said = ", ".join(shown(point.values.get(key.key), key.kind, 20) for key in sweep.keys)
    return short(f"{point.id}: {said}", 34)


def importance(sweep: Sweep) -> list[Chart]:
    """The share of each objective's variation that each key explains, one chart an objective."""
    made = []
    for place, objective in enumerate(sweep.objectives):
        found = sorted((one for one in sweep.importance if one.metric == objective.metric), key=lambda one: -one.share)
        if not found:
            continue
        names = [axis_of(sweep, key, ()).name for one in found for key in sweep.keys if key.key == one.key]
        shares = [100 * one.share for one in found]

        def paint(axes: Any, names: list[str] = names, shares: list[float] = shares) -> None:
            axes.barh(range(len(shares)), shares, height=0.6, color=DOT, linewidth=0)
            for row, share in enumerate(shares):
                axes.text(share, row, f" {share:.1f}", va="center", color=MUTED, fontsize=10)
            axes.set_yticks(range(len(shares)), [short(name, 20) for name in names])
            axes.set_ylim(len(shares) - 0.4, -0.6)
            axes.set_xlim(0, 100)
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", color=RULE, linewidth=0.6)
            axes.tick_params(axis="y", length=0)
            axis_names(axes, "% of the variation", "")

        size = (400, 56 + 28 * len(found))
        svg = draw(f"importance-{place}", "Importance of keys", paint, size=size, margins=(150, 34, 10, 40))
        made.append(Chart(svg, cut(objective.metric, 60), (document(sweep),)))
    return made
