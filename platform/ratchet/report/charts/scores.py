"""The report's charts of suites: dots with intervals, because a difference is worth what its error leaves of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import Average, Score, SuiteScores, TaskScores
from ratchet.reference.share import interval_of
from ratchet.report.figures import cut
from ratchet.report.parts import Chart, colour_key, coloured
from ratchet.report.plots import MUTED, PAGE, RULE, across, axis_names, draw, legend, stage_colour
from ratchet.report.tables.scores import direction, identity, unit_name

_MARKERS = "osD^vP*X"
_SHARES = {"share", "percent"}


@dataclasses.dataclass(frozen=True)
class Dot:
    """A model's place on a line of a chart, in the chart's unit.

    `reach` is how far its 95 % interval goes below and above it, None where it has no error.
    """

    model: str
    value: float
    reach: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a chart shows: lines of dots, each with its label; `name` is the chart's own on the page."""

    name: str
    caption: str
    unit: str
    lines: list[tuple[str, list[Dot]]]
    records: tuple[str, ...]


def draw_tasks(report: Report, scores: SuiteScores) -> Chart | None:
    """All tasks and averages that are shares, on one axis in per cent."""
    lines = []
    for suite in scores.suites:
        for task in (task for of, task in scores.tasks if of == suite):
            heads = {name: one.headline for name, one in scores.of(suite, task).items()}
            lines.append((scores.label(suite, task), _dots(heads, _SHARES)))
        for average in dict.fromkeys(one.name for one in scores.averages if one.suite == suite):
            means = {name: scores.average(name, suite, average) for name in scores.names}
            lines.append((scores.label(suite, average), _dots(means, _SHARES)))
    records = tuple(dict.fromkeys(one.record for one in scores.results))
    says = dict.fromkeys(
        identity(one.settings) for one in scores.results if one.headline and one.headline.unit in _SHARES
    )
    caption = ", ".join(filter(None, ("Tasks and averages, by model", *says)))
    return _grouped(report, Picture("scores", caption, "%", lines, records))


def draw_others(report: Report, scores: SuiteScores) -> list[Chart]:
    """Each task that is no share, on an axis of its own: points, nats, perplexity."""
    made = []
    for number, (suite, task) in enumerate(scores.tasks):
        results = scores.of(suite, task)
        heads = {name: one.headline for name, one in results.items()}
        known = [one for one in heads.values() if one and one.unit not in _SHARES]
        if known:
            lines = [(name, _dots({name: head}, {known[0].unit})) for name, head in heads.items()]
            says = _caption(scores.label(suite, task), results, direction(known[0]))
            made.append(_small(report, Picture(f"score-{number}", says, known[0].unit, lines, _records(results))))
    return [one for one in made if one is not None]


def draw_parts(report: Report, scores: SuiteScores) -> list[Chart]:
    """The parts of each task that is no share, such as MT-Bench's categories: one chart a task."""
    made = []
    for number, (suite, task) in enumerate(scores.tasks):
        results = scores.of(suite, task)
        head = next((one.headline for one in results.values() if one.headline), None)
        if head is None or head.unit in _SHARES:  # the parts of a share, such as MMLU's 57 subjects, are a table
            continue
        parts = [one for found in results.values() for one in found.scores if one.metric == head.metric and one.group]
        lines = [("whole task", _dots({name: one.headline for name, one in results.items()}, {head.unit}))]
        for part in {(one.name, one.group): one for one in parts}.values():
            mine = {name: one.score(part.name, part.group) for name, one in results.items()}
            lines.append((part.group, _dots(mine, {head.unit})))
        says = _caption(f"{scores.label(suite, task)}, part by part", results)
        if parts:
            made.append(_grouped(report, Picture(f"parts-{number}", says, head.unit, lines, _records(results))))
    return [one for one in made if one is not None]


def _dots(scores: Mapping[str, Score | Average | None], units: set[str]) -> list[Dot]:
    """Return the dots of the scores that there are in one of `units`; shares become per cent."""
    made = []
    for name, one in scores.items():
        if one is not None and one.value is not None and one.unit in units:
            factor = 100.0 if one.unit == "share" else 1.0
            made.append(Dot(name, factor * one.value, _reach(one, factor)))
    return made


def _reach(one: Score | Average, factor: float) -> tuple[float, float] | None:
    """Return how far an interval goes: an exact one where the items of a share all agree."""
    if one.value is None or one.standard_error is None:
        return None
    # The formula says 0 where all items agree, which is more than they tell.
    if one.unit == "share" and one.standard_error == 0 and isinstance(one, Score):
        low, high = interval_of(one.value, one.count) or (one.value, one.value)
        return factor * (one.value - low), factor * (high - one.value)
    if not one.standard_error:
        return None
    return (1.96 * factor * one.standard_error,) * 2


def _caption(label: str, results: Mapping[str, TaskScores], *more: str) -> str:
    says = [identity(one.settings) for one in results.values()]
    return ", ".join(dict.fromkeys(filter(None, (label, *says, *more))))


def _records(results: Mapping[str, TaskScores]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.record for one in results.values() if one.record))


def look(report: Report, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return each model's colour and marker: models of one stage share the colour, and markers tell them apart."""
    colours, found, taken = coloured(report), {}, dict[str, int]()
    for name in names:
        key = colour_key(report, name)
        colour = stage_colour(colours.index(key) if key in colours else None)
        seen = stage_colour(0) if colour == MUTED else colour  # both are greys
        found[name] = (colour, _MARKERS[taken.get(seen, 0) % len(_MARKERS)])
        taken[seen] = taken.get(seen, 0) + 1
    return found


def _grouped(report: Report, picture: Picture) -> Chart | None:
    """Draw a line for each task or category under a legend of the models: once wide, once for a phone."""
    lines = [(label, dots) for label, dots in picture.lines if dots]
    if not lines or report.scores is None:
        return None
    present = {dot.model for _, dots in lines for dot in dots}
    models = [one for one in report.scores.names if one in present]
    looks = look(report, models)

    def drawn(name: str, width: int, side: int, longest: int) -> str:
        entries = [(cut(model, longest), *looks[model]) for model in models]
        # 7 units a letter: how wide it is, only the reader's browser knows.
        wide = 26 + 7 * max(len(text) for text, *_ in entries)
        columns = max(1, min(len(entries), (width - 20) // wide))
        # The legend's rows stand above the axes, each 18 units high.
        top = 20 + 18 * -(-len(entries) // columns)

        def paint(axes: Any) -> None:
            # Less than the whole line, so that a gap divides the dots of one from those of the next.
            step = 0.74 / len(models)
            for place, (_, dots) in enumerate(lines):
                if place % 2:
                    axes.axhspan(place - 0.5, place + 0.5, color=RULE, alpha=0.3, linewidth=0)
                for dot in dots:
                    _dot(axes, dot, place + step * (models.index(dot.model) - (len(models) - 1) / 2), looks)
            across(axes, [cut(label, (side - 14) // 7) for label, _ in lines], 0.5)
            legend(axes, entries, columns, wide, 12 - side)
            _within_percent(axes, picture.unit)
            axis_names(axes, picture.unit, "")

        size = (width, top + max(24, 8 + 9 * len(models)) * len(lines) + 40)
        return draw(name, picture.caption, paint, size=size, margins=(side, 16, top, 40))

    wide, narrow = drawn(picture.name, 900, 180, 40), drawn(f"{picture.name}-narrow", 360, 110, 20)
    return Chart(wide, picture.caption, picture.records, narrow, wide=True)


def _small(report: Report, picture: Picture) -> Chart | None:
    """Draw one line a model."""
    lines = [(label, dots[0]) for label, dots in picture.lines if dots]
    if not lines:
        return None
    looks = look(report, [label for label, _ in lines])

    def paint(axes: Any) -> None:
        for place, (_, dot) in enumerate(lines):
            _dot(axes, dot, place, looks)
        across(axes, [cut(label, 15) for label, _ in lines], 0.5)
        _within_percent(axes, picture.unit)
        axis_names(axes, unit_name(picture.unit), "")

    size = (350, 56 + 27 * len(lines))
    svg = draw(picture.name, picture.caption, paint, size=size, margins=(118, 16, 10, 40))
    return Chart(svg, picture.caption, picture.records)


def _dot(axes: Any, dot: Dot, y: float, looks: Mapping[str, tuple[str, str]]) -> None:
    colour, marker = looks[dot.model]
    # Hollow, as the section's legend says of a mark without an error.
    face = PAGE if dot.reach is None else colour
    look = {"color": colour, "marker": marker, "markersize": 6, "markerfacecolor": face, "clip_on": False}
    reach = None if dot.reach is None else [[end] for end in dot.reach]
    axes.errorbar(dot.value, y, xerr=reach, elinewidth=1.4, **look)


def _within_percent(axes: Any, unit: str) -> None:
    """End an axis of shares where shares end."""
    if unit_name(unit) == "%":
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 0.0), min(high, 100.0))
