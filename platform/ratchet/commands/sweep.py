"""`ratchet sweep`: run a plan at many points of a space, and compare what comes of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ratchet.commands.arguments import add_plan
from ratchet.tune.definition import read_sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    parser.add_argument("space", type=Path, help="space file, such as tune_spaces/beta.yaml")
    parser.add_argument("--fresh", action="store_true", help="put aside what the sweep's folder holds and start over")


def main(arguments: argparse.Namespace) -> int:
    """Run the sweep; the last line on standard output names the page."""
    sweep = read_sweep(arguments.plan, arguments.space, arguments.overrides)

    from ratchet.tune.sweep import run_sweep

    page = run_sweep(sweep, fresh=arguments.fresh)
    sys.stdout.write(f"report: {page}\n")
    return 0
