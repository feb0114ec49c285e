"""`ratchet run`: run a plan to its end, or go on with it."""

from __future__ import annotations

import argparse
import sys

from ratchet.commands.arguments import add_here, add_plan, begin
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import load_plan, refuse_plan_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    add_here(parser)
    parser.add_argument("--fresh", action="store_true", help="put aside what the run folder holds and start over")


def main(arguments: argparse.Namespace) -> int:
    """Run the plan; the last line on standard output names the report."""
    plan = load_plan(arguments.plan, arguments.overrides, path_problems)
    if arguments.here:
        refuse_plan_here(plan)
    begin(plan.name, "running the plan")

    from ratchet.pipeline.runner import run_plan

    report = run_plan(plan, arguments.plan.read_text(encoding="utf-8"), fresh=arguments.fresh, here=arguments.here)
    sys.stdout.write(f"report: {report}\n")
    return 0
