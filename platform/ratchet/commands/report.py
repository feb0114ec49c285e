"""`ratchet report`: make a run's or a sweep's page and Markdown again from its report.json or sweep.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, help="<storage>/runs/<plan>, or <storage>/sweeps/<sweep>")


def main(arguments: argparse.Namespace) -> int:
    """Write the page and its Markdown; name both on standard output. Raises DataError, StorageError."""
    from ratchet.documents.sweep import NAME
    from ratchet.report.page import rewrite_report
    from ratchet.report.sweep.page import rewrite_sweep_page

    folder: Path = arguments.folder
    rewrite = rewrite_sweep_page if (folder / NAME).exists() else rewrite_report
    for path in rewrite(folder):
        sys.stdout.write(f"{path}\n")
    return 0
