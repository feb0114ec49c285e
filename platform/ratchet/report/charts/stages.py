"""What the charts of stages share: a stage's colour, its steps end to end, and a line of each stage with its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ratchet.documents.report import Report, StepSummary
from ratchet.report.plots import Series, line, stage_colour


@dataclasses.dataclass(frozen=True)
class Part:
    """One step's stretch of a stage's x axis, which starts after `offset` optimiser steps."""

    step: StepSummary
    offset: int

    def series(self, key: str, factor: float = 1.0) -> Series:
        return [(self.offset + number, factor * value) for number, value in self.step.series(key)]


def colour_of(report: Report, stage: str) -> str:
    """Return a stage's colour; grey for the base model."""
    return stage_colour(report.stages.index(stage) if stage in report.stages else None)


def parts_of(report: Report, stage: str) -> list[Part]:
    """Lay a stage's steps end to end; steps without history have no length."""
    parts, offset = [], 0
    for step in report.steps_of(stage):
        if step.history:
            parts.append(Part(step, offset))
            offset += max(line["step"] for line in step.history)
    return parts


def end_of_line(series: Series) -> float:
    """Return where the bold line of a series ends."""
    # Not the last value alone: a batch may lie far from the bold line that the label is for.
    last = series[-max(1, len(series) // 10) :]
    return sum(y for _, y in last) / len(last)


def stage_lines(
    axes: Any,
    report: Report,
    stages: Sequence[str],
    series_of: Callable[[Part], Series],
    label: Callable[[str], str],
) -> list[tuple[float, str, str]]:
    """Draw a line for each part of the stages; return where those of the last parts end, with label and colour."""
    ends = []
    for stage in stages:
        colour, parts = colour_of(report, stage), parts_of(report, stage)
        for part in parts:
            line(axes, series_of(part), colour)
        if series := series_of(parts[-1]):
            ends.append((end_of_line(series), label(stage), colour))
    return ends
