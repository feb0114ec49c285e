"""`ratchet score`: score the references of a plan whose models are there, and train nothing."""

from __future__ import annotations

import argparse
import sys

from ratchet.commands.arguments import add_here, add_plan, begin
from ratchet.errors import some
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import load_plan, refuse_plan_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    add_here(parser)


def main(arguments: argparse.Namespace) -> int:
    """Score; the last line on standard output says how many pairs have scores, and what waits for a model."""
    plan = load_plan(arguments.plan, arguments.overrides, path_problems)
    if arguments.here:
        refuse_plan_here(plan)
    begin(plan.name, "scoring references")

    from ratchet.pipeline.runner import score_plan

    pairs, waiting = score_plan(plan, here=arguments.here)
    later = f"; {some(waiting)} can be scored once the model before is trained" if waiting else ""
    sys.stdout.write(f"scored: {pairs:,} pairs{later}\n")
    return 0
