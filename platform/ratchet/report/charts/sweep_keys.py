"""The charts of an objective against each key of a sweep: one dot a point.

Numbers lie along an axis, values that are names side by side or one below another. Colours as in `charts.sweep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratchet.documents.sweep import Key, Point, SweepOutcome
from ratchet.report.charts.sweep import BEST, DOT, MOST_NAMES, bars, value
from ratchet.report.figures import cut
from ratchet.report.parts import Chart
from ratchet.report.plots import INK, RULE, across, axis_names, draw
from ratchet.report.sweep.values import Axis, axis_of, leaders, leading, objective_axis, records, with_values
from ratchet.report.sweep.words import plan_point

Dot = tuple[Point, float, float, tuple[float, float]]
"""A point, its place along and up, and how far its bar goes to each side."""


def draw_against_keys(sweep: SweepOutcome, place: int) -> list[Chart]:
    """Draw an objective against each key; the wide charts have a line a category."""
    points = with_values(sweep, place)
    made = []
    for number, key in enumerate(sweep.keys if points else ()):
        axis = axis_of(sweep, key, [one.values.get(key.key) for one in points], 46)
        # Names that do not fit below a small chart side by side have a line each.
        long = axis.scale == "names" and (len(axis.names) > 6 or max(map(len, axis.names)) > 7)
        made.append((_lines if long else _upright_dots)(sweep, place, number, key, axis))
    return made


def _caption(sweep: SweepOutcome, place: int, axis: Axis) -> str:
    return f"{cut(sweep.objectives[place].metric, 60)} against {cut(axis.name, 60)}"


def _upright_dots(sweep: SweepOutcome, place: int, number: int, key: Key, axis: Axis) -> Chart:
    points, goal = with_values(sweep, place), objective_axis(sweep, place, errors=True)
    found = _spread(points, key, axis)

    def paint(axes: Any) -> None:
        _draw_dots(axes, sweep, [(one, x, value(one, place), bars(one, place)) for one, x in found])
        ticks = axis.ticks()
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(goal.low, goal.high)
        axis_names(axes, cut(axis.name + (", log scale" if axis.scale == "log" else ""), 44), cut(goal.name, 44))

    says = _caption(sweep, place, axis)
    svg = draw(f"against-{place}-{number}", says, paint, margins=(56, 16, 26, 38))
    return Chart(svg, says, records(sweep, points))


def _lines(sweep: SweepOutcome, place: int, number: int, key: Key, axis: Axis) -> Chart:
    """Draw a line a category, those of the best points where they are many."""
    points, goal = with_values(sweep, place), objective_axis(sweep, place, errors=True)
    where = {one.id: axis.place(one.values.get(key.key)) for one in points}
    best = list(dict.fromkeys(at for one in points if (at := where[one.id]) is not None))
    # Points come best first, so these are the categories of the best.
    kept = sorted(best[:MOST_NAMES])
    row_of = {at: row for row, at in enumerate(kept)}
    labels = dict(axis.ticks())
    drawn = [one for one in points if where[one.id] in row_of]

    def paint(axes: Any) -> None:
        dots: list[Dot] = []
        for at, row in row_of.items():
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.3, linewidth=0)
            mine = [one for one in drawn if where[one.id] == at]
            ys = [row + 0.7 * ((index + 0.5) / len(mine) - 0.5) for index in range(len(mine))]
            dots += [(one, value(one, place), y, bars(one, place)) for one, y in zip(mine, ys, strict=True)]
        _draw_dots(axes, sweep, dots, across=True)
        across(axes, [labels[at] for at in kept], 0.5)
        axes.set_xlim(goal.low, goal.high)
        axis_names(axes, cut(goal.name, 60), "")

    says = _caption(sweep, place, axis)
    if len(best) > len(kept):
        says += f": the {len(kept)} of {len(best)} with the best points"
    side = min(330, 24 + 7 * max(len(labels[at]) for at in kept)) if kept else 60
    each = max(20, min(60, 7 * max((sum(where[one.id] == at for one in drawn) for at in kept), default=1)))
    size = (900, 56 + each * max(1, len(kept)))
    svg = draw(f"against-{place}-{number}", says, paint, size=size, margins=(side, 20, 12, 40))
    return Chart(svg, says, records(sweep, drawn), wide=True)


def _spread(points: Sequence[Point], key: Key, axis: Axis) -> list[tuple[Point, float]]:
    """Return each point's place; those of one category stand side by side in the order of their ranks."""
    places = [(one, axis.place(one.values.get(key.key))) for one in points]
    found = []
    for one, at in places:
        if at is not None:
            mine = [other for other, there in places if there == at] if axis.scale == "names" else [one]
            aside = 0.7 / len(mine) * (mine.index(one) - (len(mine) - 1) / 2)
            found.append((one, at + aside / max(1, len(axis.names))))
    return found


def _draw_dots(axes: Any, sweep: SweepOutcome, placed: Sequence[Dot], *, across: bool = False) -> None:
    """Draw dots with their bars: the ordinary ones, then the best or the front over them, then the plan's own."""
    first, own = leaders(sweep), plan_point(sweep)
    for top in (False, True):
        mine = [(x, y, off) for one, x, y, off in placed if (one.id in first) is top]
        look = {"color": BEST if top else DOT, "zorder": 4 if top else 3, "alpha": 1.0 if top else 0.85}
        if barred := [one for one in mine if any(one[2])]:
            xs, ys, offs = zip(*barred, strict=True)
            sides = list(zip(*offs, strict=True))
            axes.errorbar(xs, ys, **{"xerr" if across else "yerr": sides}, fmt="none", elinewidth=1.1, **look)
        marker = {
            "marker": "D" if top else "o",
            "markersize": 6.5 if top else 5,
            "markeredgewidth": 0,
            "clip_on": False,
        }
        axes.plot([x for x, _, _ in mine], [y for _, y, _ in mine], linestyle="", **marker, **look)
    for one, x, y, _ in placed:
        if one is own:
            around = {"marker": "s", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": INK}
            axes.plot(x, y, linestyle="", zorder=5, **around)


def how_to_read(sweep: SweepOutcome) -> str:
    """Say what marks and bars of the scatter charts are."""
    own = " Square around: the plan's own values." if plan_point(sweep) else ""
    bar = "Bars: one standard error to each side, where there is one; of a share its exact 95 % interval."
    return f"One dot a point; orange diamond: {leading(sweep)}. {bar}{own}"
