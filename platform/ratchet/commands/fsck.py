"""`ratchet fsck`: look through a store, and mend what is damaged or left over."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.plan.load import load_plan

if TYPE_CHECKING:
    from ratchet.fsck.examine import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "Exit status: 0 nothing was wrong, 1 what was wrong is mended, 74 something is wrong still."
    parser.add_argument("where", type=Path, help="a storage folder (cluster.storage), or a plan, whose storage it is")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="set a dotted key of the plan"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what is wrong, and change nothing")


def main(arguments: argparse.Namespace) -> int:
    """Write a line for each part of the store, and a last one that counts; return 0, 1 or 74."""
    root = arguments.where
    if not root.is_dir():
        root = Path(load_plan(root, arguments.overrides).cluster.storage)

    from ratchet.fsck.examine import fsck

    root, counts = root.resolve(), Counter[str]()

    def say(outcome: Outcome) -> None:
        counts[outcome.part.state] += 1
        sys.stdout.write(outcome_line(outcome, root) + "\n")
        sys.stdout.flush()

    status = fsck(root, dry_run=arguments.dry_run, say=say)
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "the store is empty"
    sys.stdout.write(f"{root}: {told}\n")
    return status


def outcome_line(outcome: Outcome, root: Path) -> str:
    """Return a part in words: its state, where it is, what is wrong, and what was done."""
    part = outcome.part
    said = [f"{part.state:<10} {part.path.relative_to(root)}", part.what, outcome.done]
    return ": ".join(text for text in said if text)
