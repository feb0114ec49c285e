"""`ratchet show`: the stage graph of a plan, what is done of it, and what the rest will take."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ratchet.commands.arguments import add_plan
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import load_plan
from ratchet.plan.stage_kinds import trains

if TYPE_CHECKING:
    from ratchet.pipeline.state import Size, SourceState, StepState

_MARKS = {"done": "●", "begun": "◐", "ready": "○", "waiting": "·", "changed": "!"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)


def main(arguments: argparse.Namespace) -> int:
    """Draw the plan; nothing is run and nothing written."""
    plan = load_plan(arguments.plan, arguments.overrides, path_problems)

    from ratchet.pipeline.state import survey

    sources, steps = survey(plan)
    sys.stdout.write("\n".join(draw_plan(plan.name, sources, steps)) + "\n")
    return 0


def draw_plan(name: str, sources: list[SourceState], steps: list[StepState]) -> list[str]:
    """Return the lines of the drawing: sources, then steps below the model that they start from."""
    lines = [f"plan {name}", "", "sources"]
    for source in sources:
        mark, about = ("●", "") if source.read else ("○", "≈ ")
        lines.append(
            f"  {mark} {source.name:<22} {about}{source.pairs:,} pairs{'' if source.read else ', not read yet'}"
        )
    lines += ["", "models", "  base"]
    lines += _branch(steps, "base", "  ")
    shown = [mark for mark in _MARKS if any(state.status == mark for state in steps)]
    return [*lines, "", "  ".join(f"{_MARKS[status]} {status}" for status in shown)]


def _branch(steps: list[StepState], start: str, indent: str) -> list[str]:
    children = [state for state in steps if state.step.start == start]
    lines = []
    for number, state in enumerate(children, 1):
        last = number == len(children)
        lines.append(f"{indent}{'└─' if last else '├─'} {_line(state)}")
        lines += _branch(steps, state.step.name, indent + ("   " if last else "│  "))
    return lines


def _line(state: StepState) -> str:
    step = state.step
    what = f"{_MARKS[state.status]} {step.name}  {step.kind}"
    if not trains(step.settings):
        what += f" of {', '.join(step.settings.of)}"
    if step.chunk.shares:
        what += f" on {step.chunk.label}"
    if isinstance(step.reference, str) and step.reference != step.start:
        what += f", against {step.reference}"
    parts = [what, _sized(state.size), f"{state.status} {state.why}".strip()]
    return "  │  ".join(part for part in parts if part)


def _sized(size: Size | None) -> str:
    if size is None:
        return ""
    if not size.steps:
        return f"{size.bytes / 1e6:,.1f} MB" if size.bytes else ""
    about = "≈ " if size.estimated else ""
    tokens = f", {size.tokens:,} tokens" if size.tokens else ""
    written = f", {size.bytes / 1e6:,.1f} MB" if size.bytes else ""
    return f"{about}{size.pairs:,} pairs{tokens}, {size.steps:,} steps{written}"
