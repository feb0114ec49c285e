"""The report's charts of training: what each shows of a Report, drawn with report/plots.py.

Colour means the stage, in every chart and table of the page. The steps of a stepwise stage follow
one another on the x axis.
"""

from __future__ import annotations

import math
from typing import Any

from ratchet.documents.report import Report
from ratchet.report.charts.stages import Part, colour_of, end_of_line, parts_of, stage_lines
from ratchet.report.figures import cut
from ratchet.report.parts import Chart
from ratchet.report.plots import (
    FALL,
    INK,
    MUTED,
    Series,
    across,
    axis_names,
    draw,
    labels_at_end,
    line,
    thin,
)
from ratchet.track.progress import duration


def preference_stages(report: Report) -> list[str]:
    """Stages that train on preferences and have history."""
    return [
        name for name in report.stages if any(step.does.reads_pairs and step.history for step in report.steps_of(name))
    ]


def referring_stages(report: Report) -> list[str]:
    """Preference stages whose history says how far answers are from a reference."""
    key = "logps/chosen_delta"
    return [one for one in preference_stages(report) if any(part.series(key) for part in parts_of(report, one))]


def stage_label(report: Report, stage: str) -> str:
    """Return a stage's name and kind, short enough for a chart's margin."""
    return f"{cut(stage, 14)} ({report.steps_of(stage)[0].kind})"


def draw_chosen_overlay(report: Report) -> Chart | None:
    """The chosen answers' log-ratio of every stage with a reference, on one pair of axes."""
    stages = referring_stages(report)
    if not stages:
        return None

    def paint(axes: Any) -> None:
        ends = stage_lines(
            axes, report, stages, lambda part: part.series("logps/chosen_delta"), lambda one: stage_label(report, one)
        )
        low, high = axes.get_ylim()
        # So that 0 has room on both sides, whatever the values are.
        axes.set_ylim(min(low, -0.15 * max(high, 0.1)), max(high, 0.15 * -low))
        axes.axhspan(axes.get_ylim()[0], 0, color=FALL, alpha=0.09, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.margins(x=0)
        axis_names(axes, "optimiser steps of the stage", "chosen answer against reference (nats)")
        labels_at_end(axes, ends)

    label = "Log-probability of the chosen answer against the reference, over training steps, by stage"

    # The narrow chart has no room for these words.
    def paint_wide(axes: Any) -> None:
        paint(axes)
        axes.text(0.012, 0.03, "below: less likely than under the reference", transform=axes.transAxes, color=MUTED)

    wide = draw("chosen", label, paint_wide, size=(900, 340), margins=(46, 140, 28, 40))
    narrow = draw("chosen-narrow", label, paint, size=(360, 300), margins=(38, 104, 28, 40))
    caption = (
        "Mean log-probability of the chosen answers minus that under the stage's reference (0: as likely as there). "
        "A stepwise stage starts again from 0 at each step, whose reference is the model before it. "
        + smoothing_note(report)
    )
    return Chart(wide, caption, _records(report, stages), narrow, wide=True)


def _records(report: Report, stages: list[str]) -> tuple[str, ...]:
    paths = (f"{part.step.record}/metrics.jsonl" for stage in stages for part in parts_of(report, stage))
    return tuple(dict.fromkeys(paths))


def draw_chosen_and_rejected(report: Report) -> list[Chart]:
    """Both sides' log-ratios, one chart a stage with a reference, all with the same axes."""
    stages = referring_stages(report)
    keys = ("logps/chosen_delta", "logps/rejected_delta")
    values = [
        y for stage in stages for part in parts_of(report, stage) for key in keys for _, y in thin(part.series(key))
    ]
    if not values:
        return []
    room = 0.06 * ((max(values) - min(values)) or 1.0)
    limits = (min(values) - room, max(values) + room)
    longest = max(
        line["step"] + part.offset for one in stages for part in parts_of(report, one) for line in part.step.history
    )

    def chart(stage: str) -> Chart:
        parts, colour = parts_of(report, stage), colour_of(report, stage)

        def paint(axes: Any) -> None:
            axes.set_ylim(*limits)
            axes.axhspan(limits[0], 0, color=FALL, alpha=0.09, linewidth=0)
            for part in parts:
                for key, dashed in zip(keys, (False, True), strict=True):
                    line(axes, part.series(key), colour, dashed=dashed)
            axes.axhline(0, color=INK, linewidth=0.9)
            # Of one step alone an axis would have no length.
            axes.set_xlim(1, max(longest, 2))
            divide(axes, parts)
            names = zip(keys, ("chosen", "rejected"), strict=True)
            ends = [(end_of_line(series), name, colour) for key, name in names if (series := parts[-1].series(key))]
            labels_at_end(axes, ends)
            axis_names(axes, "optimiser steps", "nats against reference", up=20 if len(parts) > 1 else 9)

        label = f"Chosen and rejected log-probability against the reference, stage {stage}"
        svg = draw(f"sides-{stages.index(stage)}", label, paint, margins=(42, 62, 40, 38))
        return Chart(svg, f"{stage} ({parts[0].step.kind})", _records(report, [stage]))

    return [chart(stage) for stage in stages]


def divide(axes: Any, parts: list[Part]) -> None:
    """Mark where the steps of a stepwise stage meet, and name each one's data above the axes."""
    if len(parts) < 2:
        return
    end, width = parts[-1].offset + parts[-1].step.history[-1]["step"], axes.get_xlim()[1]
    for number, part in enumerate(parts):
        after = parts[number + 1].offset if number + 1 < len(parts) else end
        if part.offset:
            axes.axvline(part.offset + 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (1, 2)))
        name = part.step.chunk[0] if len(part.step.chunk) == 1 else part.step.name
        # Fewer letters than four tell no name.
        if (room := int((after - part.offset) / width * 42)) >= 4:
            axes.annotate(
                cut(name, room),
                ((part.offset + after) / 2, 1),
                (0, 4),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                color=MUTED,
                ha="center",
                size=9,
            )


def draw_losses(report: Report) -> list[Chart]:
    """Training and held-out loss, one chart a stage, each with its own y axis."""

    def chart(stage: str) -> Chart:
        parts, colour = parts_of(report, stage), colour_of(report, stage)
        steps = [part.step for part in parts]
        at_ln2 = all(step.first_loss_expected == math.log(2) for step in steps)

        def paint(axes: Any) -> None:
            if at_ln2:
                axes.axhline(math.log(2), color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            ends = [(math.log(2), "ln 2", INK)] if at_ln2 else []
            for part in parts:
                line(axes, part.series("loss"), colour)
                if held := part.series("heldout/loss"):
                    axes.plot(*zip(*held, strict=True), linestyle="", marker="o", markersize=4, color=INK)
            axes.margins(x=0)
            divide(axes, parts)
            if series := parts[-1].series("loss"):
                ends.append((end_of_line(series), "training", colour))
            if held := parts[-1].series("heldout/loss"):
                ends.append((held[-1][1], "held out", INK))
            labels_at_end(axes, ends)
            unit = steps[0].does.loss_axis
            axis_names(axes, "optimiser steps", unit, up=20 if len(parts) > 1 else 9)

        svg = draw(f"loss-{report.stages.index(stage)}", f"Loss of stage {stage}", paint, margins=(42, 62, 40, 38))
        return Chart(svg, f"{stage} ({steps[0].kind})", _records(report, [stage]))

    return [chart(stage) for stage in report.stages if parts_of(report, stage)]


def draw_margins(report: Report) -> list[Chart]:
    """Reward margins and reward accuracies of all preference stages."""
    stages = preference_stages(report)
    if not stages:
        return []

    def chart(key: str, factor: float, unit: str, caption: str) -> Chart:
        def paint(axes: Any) -> None:
            ends = stage_lines(axes, report, stages, lambda part: _moved(part, key, factor), lambda one: cut(one, 11))
            if factor == 1.0:
                axes.axhline(0, color=INK, linewidth=0.9)
            else:
                # matplotlib leaves room above, and no accuracy is above 100 %.
                axes.set_ylim(top=min(100.0, axes.get_ylim()[1]))
                axes.axhline(50, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.margins(x=0)
            labels_at_end(axes, ends)
            axis_names(axes, "optimiser steps of the stage", unit)

        svg = draw(key.replace("/", "-"), caption, paint, margins=(40, 74, 28, 38))
        return Chart(svg, caption, _records(report, stages))

    return [
        chart("rewards/margins", 1.0, "β (h_w − h_l), nats", "Reward margin (scales with β)"),
        chart("rewards/accuracies", 100.0, "% of the batch", "Reward accuracy: margin above 0"),
    ]


def _moved(part: Part, key: str, factor: float) -> Series:
    """Return a metric without a first step that starts at its reference: there every margin is 0."""
    series = part.series(key, factor)
    # A line from 0 to the second step would be the steepest of the chart, and say nothing.
    return series[1:] if part.step.start == part.step.reference else series


def draw_times(report: Report) -> Chart | None:
    """Seconds of each step: its reference pass, its training, the rest of it, and starting processes."""
    steps = [step for step in report.steps if step.seconds]
    if not steps:
        return None
    unit, seconds = ("minutes", 60.0) if max(step.seconds or 0 for step in steps) > 300 else ("seconds", 1.0)

    def paint(axes: Any) -> None:
        for place, step in enumerate(steps):
            colour, whole = colour_of(report, step.stage), step.seconds or 0.0
            # Scores that were found in the store took this step no time, whatever they took once.
            scored = 0.0 if step.reference_reused else step.reference_seconds or 0.0
            trained = step.train_seconds or 0.0
            begun = step.start_seconds or 0.0
            begun += 0.0 if step.reference_reused else step.reference_start_seconds or 0.0
            rest = max(0.0, whole - scored - trained - begun)
            left = 0.0
            for part, alpha in ((scored, 0.4), (trained, 1.0), (rest, 0.25), (begun, 0.1)):
                axes.barh(
                    place, part / seconds, left=left / seconds, height=0.62, color=colour, alpha=alpha, linewidth=0
                )
                left += part
            axes.text(left / seconds, place, f" {duration(whole)}", va="center", color=MUTED, fontsize=10)
        across(axes, [cut(step.name) for step in steps])
        axis_names(axes, unit, "")

    size = (760, 66 + 26 * len(steps))
    svg = draw("times", "Time of each step", paint, size=size, margins=(118, 84, 14, 40))
    caption = "Pale: scoring the reference, where the step did it. Full: training. "
    caption += "Fainter: making ready, publishing. Faintest: processes that begin and end, groups that ended before."
    return Chart(svg, caption, tuple(step.record for step in steps), wide=True)


def smoothing_note(report: Report) -> str:
    """Say what the bold and faint lines of the charts are."""
    longest = max((len(step.history) for step in report.steps), default=0)
    if longest <= 8:
        return ""
    binned = -(-longest // 400)
    faint = "as logged, one point a step" if binned == 1 else f"means of up to {binned} steps, so that none is left out"
    return f"Faint lines: {faint}. Bold, in all plots: running mean over a thirtieth of the points."
