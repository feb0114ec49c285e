"""The report's charts of data and scores: γ, difficulty, edit distance."""

from __future__ import annotations

from typing import Any

from ratchet.documents.data_report import SourceData, SourceLengths
from ratchet.documents.heldout import Gamma
from ratchet.documents.report import Report
from ratchet.documents.sources import LOW_EDIT_DISTANCE, EditDistance
from ratchet.pairs.estimate import CHARACTERS_A_TOKEN
from ratchet.reference.share import interval_of
from ratchet.report.charts.stages import colour_of
from ratchet.report.figures import NO_ERROR, cut
from ratchet.report.parts import Chart
from ratchet.report.plots import INK, MUTED, PAGE, RULE, WARN, across, axis_names, draw


def draw_gamma(report: Report) -> list[Chart]:
    """Mean γ of every model, one chart a source, all with the same x axis."""
    known = [one for one in report.gamma if one.mean is not None]
    if not known:
        return []
    models = list(dict.fromkeys(one.model for one in known))
    stages = {step.name: step.stage for step in report.steps}
    # Of all sources: charts that lie beside each other are compared by eye.
    reach = [side for one in known for side in ((one.mean or 0.0) - _error(one), (one.mean or 0.0) + _error(one))]
    room = 0.05 * ((max(reach) - min(reach)) or 1.0)

    def chart(number: int, source: str) -> Chart:
        mine = [one for one in known if one.source == source]

        def paint(axes: Any) -> None:
            axes.axvline(0, color=INK, linewidth=0.9)
            for one in mine:
                colour = colour_of(report, stages.get(one.model, ""))
                train = one.split == "train"
                # Apart, or the bars of a model's two dots would lie on one line.
                place = models.index(one.model) + (0.17 if train else -0.13)
                axes.errorbar(
                    one.mean,
                    place,
                    xerr=one.standard_error,
                    color=colour,
                    marker="s" if train else "o",
                    markersize=6.5,
                    # Hollow where memorised, as the section's legend says.
                    markerfacecolor=PAGE if one.seen else colour,
                    elinewidth=1.3,
                )
                if one.standard_error is None:
                    axes.annotate(NO_ERROR, (one.mean, place), (8, -3), textcoords="offset points", color=MUTED)
            across(axes, list(map(cut, models)))
            axes.set_xlim(min([*reach, 0.0]) - room, max([*reach, 0.0]) + room)
            axis_names(axes, "mean γ (nats)", "")

        size = (350, 62 + 27 * len(models))
        svg = draw(f"gamma-{number}", f"Mean γ of every model on {source}", paint, size=size, margins=(104, 14, 12, 40))
        return Chart(svg, source, tuple(dict.fromkeys(one.record for one in mine)))

    return [chart(number, source) for number, source in enumerate(dict.fromkeys(one.source for one in known))]


def _error(one: Gamma) -> float:
    return one.standard_error or 0.0


def draw_difficulty(report: Report) -> list[Chart]:
    """Reward accuracy of each chunk under the start model, in the order trained; one chart a stage."""

    def chart(number: int, stage: str) -> Chart:
        mine = [one for one in report.difficulty if one.stage == stage and one.accuracy is not None]
        mine.sort(key=lambda one: one.position or 0)

        def paint(axes: Any) -> None:
            # Half is what a model prefers that knows nothing of the pairs.
            axes.axvline(50, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            for place, one in enumerate(mine):
                value, ends = 100 * (one.accuracy or 0.0), interval_of(one.accuracy, one.pairs) or (0.0, 1.0)
                colour = colour_of(report, stage)
                reach = [[value - 100 * ends[0]], [100 * ends[1] - value]]
                look = {"color": colour, "marker": "o", "markersize": 7, "elinewidth": 1.5, "clip_on": False}
                axes.errorbar(value, place, xerr=reach, **look)
                axes.annotate(
                    f"{value:.1f} %", (value, place), (0, 8), textcoords="offset points", ha="center", color=MUTED
                )
            across(axes, [cut(f"{one.position}. {one.source}" if one.position else one.source) for one in mine])
            axes.set_xlim(0, 100)
            axis_names(axes, "% of pairs already the right way round", "")

        size = (350, 68 + 34 * len(mine))
        svg = draw(f"difficulty-{number}", f"Difficulty of stage {stage}", paint, size=size, margins=(104, 30, 12, 40))
        return Chart(svg, f"{stage}, in the order trained", tuple(dict.fromkeys(one.record for one in mine)))

    return [chart(number, stage) for number, stage in enumerate(dict.fromkeys(one.stage for one in report.difficulty))]


def draw_edit_distances(report: Report) -> list[Chart]:
    """Histogram of normalised edit distance between chosen and rejected, one chart a source."""
    flagged = {source.name for _, source in report.low_distance}
    shown = [(one, one.edit_distance) for one in report.sources if one.edit_distance and sum(one.edit_distance.counts)]
    return [
        draw_edit_distance(
            f"distance-{number}",
            source.name,
            found,
            "share of tokens that differ",
            low=source.name in flagged,
            records=(source.tokens[-1].record if source.tokens else source.record,),
        )
        for number, (source, found) in enumerate(shown)
    ]


def draw_edit_distance(
    name: str, source: str, found: EditDistance, along: str, *, low: bool, records: tuple[str, ...] = ()
) -> Chart:
    """Histogram of a source's edit distances; `along` names what was compared, and a `low` one is a warning's."""

    def paint(axes: Any) -> None:
        widths = [right - left for left, right in zip(found.edges[:-1], found.edges[1:], strict=True)]
        colour = WARN if low else MUTED
        axes.bar(
            found.edges[:-1], found.counts, width=widths, align="edge", color=colour, edgecolor=PAGE, linewidth=0.8
        )
        axes.set_xlim(0, 1)
        # Room above the highest bar, for the median's words.
        axes.set_ylim(0, 1.2 * max(found.counts))
        axes.axvline(LOW_EDIT_DISTANCE, color=RULE, linewidth=1.2)
        if found.median is not None:
            axes.axvline(found.median, color=INK, linewidth=1.2)
            # The words stand on the side that has room for them.
            right = found.median < 0.6
            axes.annotate(
                f"median {found.median:.3f}",
                (found.median, 0.985),
                (5 if right else -5, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="left" if right else "right",
                va="top",
            )
        axis_names(axes, along, "pairs")

    return Chart(draw(name, f"Edit distance of {source}", paint, size=(350, 205)), source, records)


def draw_lengths(name: str, source: SourceData, lengths: SourceLengths) -> Chart:
    """Histogram of a source's pairs by length, with the limits of its stages; the last bar holds all that is longer."""
    scale = 1 if source.unit == "tokens" else CHARACTERS_A_TOKEN

    def paint(axes: Any) -> None:
        widths = [right - left for left, right in zip(lengths.edges[:-1], lengths.edges[1:], strict=True)]
        axes.bar(
            lengths.edges[:-1], lengths.counts, width=widths, align="edge", color=MUTED, edgecolor=PAGE, linewidth=0.8
        )
        axes.set_ylim(0, 1.2 * max(lengths.counts))
        top = lengths.edges[-1]
        for limit in lengths.limits:
            at = limit.max_length * scale
            if at <= 1.25 * top:  # one that is far above all pairs would only press them together
                axes.axvline(at, color=WARN if limit.lost else INK, linewidth=1.2)
                axes.annotate(
                    f"{limit.max_length:,}",
                    (at, 0.985),
                    (-4, 0),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                )
                top = max(top, 1.02 * at)
        axes.set_xlim(0, top)
        axis_names(axes, f"{source.unit} of prompt and longer answer", "pairs")

    return Chart(draw(name, f"Lengths of {source.name}", paint, size=(350, 205)), "Lengths", ())
