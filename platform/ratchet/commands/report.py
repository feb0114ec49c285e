"""`ratchet report`: make a run's page and Markdown again from its report.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", type=Path, help="run folder: <storage>/runs/<plan>")


def main(arguments: argparse.Namespace) -> int:
    """Write report.html and report.md; name both on standard output. Raises DataError, StorageError."""
    from ratchet.report.page import rewrite_report

    for path in rewrite_report(arguments.run_folder):
        sys.stdout.write(f"{path}\n")
    return 0
