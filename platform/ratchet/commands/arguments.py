"""Arguments that several sub-commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ratchet.track.progress import Console


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the plan file, and keys of it that the command line sets."""
    parser.add_argument("plan", type=Path, help="plan file, such as jobs/quickstart.yaml")
    add_overrides(parser, "the plan")


def add_overrides(parser: argparse.ArgumentParser, of: str) -> None:
    """Add keys that the command line sets; `of` says of what."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=f"set a dotted key of {of}"
    )


def add_here(parser: argparse.ArgumentParser) -> None:
    """Add the choice to do without a Ray."""
    parser.add_argument(
        "--here", action="store_true", help="do all of it in this process, without a Ray: to try, to debug"
    )


def begin(name: str, what: str) -> None:
    """Say that a command begins, before the libraries that it needs are loaded, which takes seconds."""
    Console().step(name, f"{what}: loading libraries")
