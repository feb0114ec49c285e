"""`ratchet check`: say what is wrong with YAML files, without torch and without Ray."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ratchet.errors import PlanError
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import check_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ratchet check`."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a plan, an evaluation suite or a sweep space"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of every file by its dotted key, such as stages.align.beta=0.3",
    )


def main(arguments: argparse.Namespace) -> int:
    """Write a line for each good file to stdout and each problem to stderr; return 2 where there is one."""
    status = 0
    for path in arguments.files:
        try:
            kind = check_file(path, arguments.overrides, path_problems)
        except PlanError as error:
            sys.stderr.write(f"{error}\n")
            status = error.exit_code
        else:
            sys.stdout.write(f"{path}: {kind}\n")
    return status
