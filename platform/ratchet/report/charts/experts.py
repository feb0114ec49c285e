"""The report's charts of experts: how even their load is over training."""

from __future__ import annotations

from typing import Any

from ratchet.documents.report import Report
from ratchet.report.charts.stages import parts_of, stage_lines
from ratchet.report.figures import cut
from ratchet.report.parts import Chart
from ratchet.report.plots import INK, axis_names, draw, labels_at_end

_CHARTS = (
    ("experts/peak", 1.0, "even shares", "Load of the busiest expert: 1 is an even share of its layer"),
    ("experts/entropy", 100.0, "% of an even load", "Entropy of the load, mean over layers"),
    ("experts/dead", 1.0, "experts", "Experts that no token of a step went to, of all layers"),
)
"""Metrics with their factors, units and captions."""


def draw_experts(report: Report) -> list[Chart]:
    """How even the load of experts is, of all stages whose models have them."""
    stages = [one for one in report.stages if any(part.series("experts/peak") for part in parts_of(report, one))]

    def chart(key: str, factor: float, unit: str, caption: str) -> Chart:
        def paint(axes: Any) -> None:
            ends = stage_lines(axes, report, stages, lambda part: part.series(key, factor), lambda one: cut(one, 11))
            if key == "experts/peak":
                axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.margins(x=0)
            labels_at_end(axes, ends)
            axis_names(axes, "optimiser steps of the stage", unit)

        records = (f"{part.step.record}/metrics.jsonl" for stage in stages for part in parts_of(report, stage))
        svg = draw(key.replace("/", "-"), caption, paint, margins=(40, 74, 28, 38))
        return Chart(svg, caption, tuple(dict.fromkeys(records)))

    return [chart(*one) for one in _CHARTS] if stages else []
