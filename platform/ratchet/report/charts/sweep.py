"""The charts of a whole sweep: parallel coordinates, the Pareto front, importance.

Blue: the better a point, the more it stands out. Orange, and a diamond: the best, or the front.
"""

from __future__ import annotations

from typing import Any

from ratchet.documents.sweep import Point, SweepOutcome
from ratchet.report.figures import cut, many
from ratchet.report.parts import Chart
from ratchet.report.plots import (
    INK,
    LEVELS,
    MUTED,
    PAGE,
    RULE,
    across,
    axis_names,
    draw,
    labels_apart,
    level_colour,
    stage_colour,
)
from ratchet.report.sweep.values import (
    Axis,
    axis_of,
    document,
    goodness,
    leaders,
    leading,
    objective_axis,
    reach,
    records,
    result_of,
    short_names,
    shown,
    with_values,
)
from ratchet.report.sweep.words import NAMED

BEST = stage_colour(1)
DOT = stage_colour(2)

MOST_NAMES = 40
"""Categories that a chart has lines for."""


def value(point: Point, place: int) -> float:
    """Return a measured point's value."""
    found = result_of(point, place)
    return 0.0 if found is None or found.value is None else found.value


def bars(point: Point, place: int) -> tuple[float, float]:
    """Return how far a point's bar goes below and above it (`reach`)."""
    found = result_of(point, place)
    return (0.0, 0.0) if found is None else reach(found)


def draw_parallel(sweep: SweepOutcome) -> Chart | None:
    """One axis a key and one an objective, one line a point, coloured by the first objective."""
    places = range(len(sweep.objectives))
    points = with_values(sweep, *places)
    if not points or not sweep.keys:
        return None
    room = max(9, min(26, 118 // (len(sweep.keys) + len(places))))
    rooms = [max(room, 40 if len(sweep.keys) < 4 else 26), *[room] * (len(sweep.keys) - 1)]
    axes_of = [
        axis_of(sweep, key, [one.values.get(key.key) for one in points], letters)
        for key, letters in zip(sweep.keys, rooms, strict=True)
    ]
    goals = [objective_axis(sweep, place) for place in places]
    lines = [
        [_height(axis, one.values.get(key.key)) for key, axis in zip(sweep.keys, axes_of, strict=True)]
        + [goal.place(value(one, place)) for place, goal in enumerate(goals)]
        for one in points
    ]
    letters = max(6, int((720 - 6.4 * rooms[0]) / max(1, len(lines[0]) - 1) / 6.4))
    left = 30 + 6.4 * max(len(text) for _, text in axes_of[0].ticks())
    colours = [level_colour(goodness(goals[0], sweep.objectives[0], value(one, 0))) for one in points]
    first = leaders(sweep)

    def paint(axes: Any) -> None:
        # Worst first: what is drawn last lies on top, and that is the best.
        for one, ys, colour in reversed(list(zip(points, lines, colours, strict=True))):
            top = one.id in first
            known = [(x, y) for x, y in enumerate(ys) if y is not None]
            width, size = (1.3, 3.5) if len(points) < 100 else (0.6, 2)
            look = {"marker": "D" if top else "o", "markersize": 6 if top else size, "linewidth": 2.6 if top else width}
            axes.plot(
                *zip(*known, strict=True), color=BEST if top else colour, zorder=3 if top else 2, clip_on=False, **look
            )
        for x, axis in enumerate([*axes_of, *goals]):
            _upright(axes, x, axis, letters if x < len(lines[0]) - 1 else 29, leftwards=x == 0)
            if x == len(axes_of):
                _scale(axes, x, sweep.objectives[0].mode == "max")
        axes.set_xlim(-0.02, len(lines[0]) - 1 + 0.02)
        axes.set_ylim(0, 1)
        axes.axis("off")

    rows = max((len(axis.names) for axis in axes_of), default=0)
    size = (900, 60 + max(300, 17 * min(rows, MOST_NAMES)))
    svg = draw("parallel", "Parallel coordinates of all points", paint, size=size, margins=(int(left), 180, 40, 20))
    says = f"Each line is a point, from its values to what came of them. {_colours(sweep)}"
    if gone := len(sweep.points) - len(points):
        says += f" {many(gone, 'point')} without a value {'is' if gone == 1 else 'are'} not drawn."
    return Chart(svg, says, records(sweep, points), wide=True)


def _height(axis: Axis, found: Any) -> float | None:
    """Return a value's height on its axis; categories run downwards."""
    place = axis.place(found)
    return 1 - place if place is not None and axis.scale == "names" else place


def _colours(sweep: SweepOutcome) -> str:
    by = f" in {cut(sweep.objectives[0].metric, 60)}" if len(sweep.objectives) > 1 else ""
    return f"The better{by}, the stronger the blue; orange with diamonds: {leading(sweep)}."


def _upright(axes: Any, x: int, axis: Axis, letters: int, *, leftwards: bool) -> None:
    """Draw one axis of parallel coordinates, with its ticks beside it and its name above."""
    axes.axvline(x, color=MUTED, linewidth=0.9, zorder=1)
    ticks = axis.ticks()
    every = -(-len(ticks) // MOST_NAMES)
    box = {"boxstyle": "square,pad=0.1", "facecolor": PAGE, "edgecolor": "none", "alpha": 0.75}
    for at, text in ticks[::every]:
        place = 1 - at if axis.scale == "names" else at
        look = {"textcoords": "offset points", "va": "center", "size": 10, "color": MUTED, "bbox": box, "zorder": 4}
        side = (
            {"xytext": (-8, 0), "ha": "right"}
            if leftwards
            else {"xytext": (7, 7 if axis.scale == "names" else 0), "ha": "left"}
        )
        axes.annotate(text, (x, place), **side, **look)
    name = axis.name if len(axis.name) <= letters else f"…{axis.name[1 - letters :]}"  # its end tells it from others
    axes.annotate(name, (x, 1), (-6, 12), textcoords="offset points", ha="left", color=INK, size=11)


def _scale(axes: Any, x: int, rises: bool) -> None:
    """Colour an objective's axis as its values are."""
    for level in range(LEVELS):
        colour = level_colour((level + 0.5) / LEVELS if rises else 1 - (level + 0.5) / LEVELS)
        axes.plot([x, x], [level / LEVELS, (level + 1) / LEVELS], color=colour, linewidth=5, solid_capstyle="butt")


def draw_pareto(sweep: SweepOutcome) -> Chart | None:
    """The first two objectives against each other, the third as colour; points of the front named."""
    places = range(len(sweep.objectives))
    points = with_values(sweep, *places)
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
            sides = [[[end] for end in bars(one, axis)] for axis in (0, 1)]
            look = {"marker": "D" if one.front else "o", "markersize": 7.5 if one.front else 5, "color": colour(one)}
            edge = {"markeredgecolor": BEST, "markeredgewidth": 1.6 if one.front and third else 0}
            axes.errorbar(
                x,
                y,
                xerr=sides[0],
                yerr=sides[1],
                elinewidth=0.8,
                clip_on=False,
                **look,
                **edge,
                zorder=3 if one.front else 2,
            )
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        labels_apart(axes, [(value(one, 0), value(one, 1), _name(sweep, one)) for one in front[:NAMED]])
        axis_names(axes, cut(_better(sweep, 0), 70), cut(_better(sweep, 1), 70))

    says = "Orange diamonds: the Pareto front. Bars: one standard error to each side, where there is one."
    if third is not None:
        says = f"Diamonds with an orange edge: the front. The better {_better(sweep, 2)}, the stronger the blue."
    if len(front) > NAMED:
        says += f" {NAMED} of the {len(front)} points of the front are named."
    svg = draw("pareto", "The Pareto front", paint, size=(900, 420), margins=(60, 260, 30, 42))
    return Chart(svg, says, records(sweep, points), wide=True)


def _better(sweep: SweepOutcome, place: int) -> str:
    one = sweep.objectives[place]
    return f"{one.metric} ({'higher' if one.mode == 'max' else 'lower'} is better)"


def _name(sweep: SweepOutcome, point: Point) -> str:
    said = ", ".join(shown(point.values.get(key.key), key.kind, 20) for key in sweep.keys)
    return cut(f"{point.id}: {said}", 34)


def draw_importance(sweep: SweepOutcome) -> list[Chart]:
    """The share of each objective's variation that each key explains, one chart an objective."""
    made, known = [], short_names([key.key for key in sweep.keys])
    for place, objective in enumerate(sweep.objectives):
        found = sorted((one for one in sweep.importance if one.metric == objective.metric), key=lambda one: -one.share)
        if not found:
            continue
        names = [known.get(one.key, one.key) for one in found]
        shares = [100 * one.share for one in found]

        def paint(axes: Any, names: list[str] = names, shares: list[float] = shares) -> None:
            axes.barh(range(len(shares)), shares, height=0.6, color=DOT, linewidth=0)
            for row, share in enumerate(shares):
                axes.annotate(
                    f"{share:.1f}", (share, row), (5, 0), textcoords="offset points", va="center", color=MUTED, size=10
                )
            across(axes, [cut(name, 20) for name in names])
            axes.set_xlim(0, 100)
            axis_names(axes, "% of the variation", "")

        size = (400, 56 + 28 * len(found))
        svg = draw(f"importance-{place}", "Importance of keys", paint, size=size, margins=(150, 34, 10, 40))
        made.append(Chart(svg, cut(objective.metric, 60), (document(sweep),)))
    return made
