"""Commands that look after what is there: `ratchet report`, `doctor` and `fsck`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet import redact
from ratchet.commands.arguments import add_overrides
from ratchet.errors import ClusterError
from ratchet.plan.load import load_plan
from ratchet.store.codec import to_values

if TYPE_CHECKING:
    from ratchet.fsck.examine import Outcome


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=Path, help="<storage>/runs/<plan>, or <storage>/sweeps/<sweep>")


def report_command(arguments: argparse.Namespace) -> int:
    """Write the page and its Markdown; name both on standard output. Raises DataError, StorageError."""
    from ratchet.documents.sweep import NAME
    from ratchet.report.page import rewrite_report
    from ratchet.report.sweep.page import rewrite_sweep_page

    folder: Path = arguments.folder
    rewrite = rewrite_sweep_page if (folder / NAME).exists() else rewrite_report
    for path in rewrite(folder):
        sys.stdout.write(f"{path}\n")
    return 0


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("plan", type=Path, nargs="?", help="plan whose cluster, storage and needs are looked at")
    add_overrides(parser, "the plan")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="a cluster (host:6379), or only its dashboard (http://host:8265)"
    )
    parser.add_argument("--json", action="store_true", help="write findings as JSON")


def doctor_command(arguments: argparse.Namespace) -> int:
    """Write every finding to standard output; return 69 where one is a problem, 0 with warnings alone."""
    plan = load_plan(arguments.plan, arguments.overrides) if arguments.plan else None

    from ratchet.doctor.examine import examine
    from ratchet.doctor.facts import Findings, findings_text, worst

    findings = examine(plan, arguments.address)
    level = worst(findings)
    if arguments.json:
        told = to_values(Findings(level, tuple(findings)))
        sys.stdout.write(json.dumps(redact.tree(told), indent=2) + "\n")
    else:
        sys.stdout.write(redact.words(findings_text(findings)))
    return ClusterError.exit_code if level == "problem" else 0


def fsck_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "Exit status: 0 nothing was wrong, 1 what was wrong is mended, 74 something is wrong still."
    parser.add_argument("where", type=Path, help="a storage folder (cluster.storage), or a plan, whose storage it is")
    add_overrides(parser, "the plan")
    parser.add_argument("--dry-run", action="store_true", help="say what is wrong, and change nothing")


def fsck_command(arguments: argparse.Namespace) -> int:
    """Write a line for each part of the store, and a last one that counts; return 0, 1 or 74."""
    root = arguments.where
    if not root.is_dir():
        root = Path(load_plan(root, arguments.overrides).cluster.storage)

    from ratchet.fsck.examine import fsck

    root, counts = root.resolve(), Counter[str]()

    def say(outcome: Outcome) -> None:
        counts[outcome.part.state] += 1
        sys.stdout.write(outcome_line(outcome, root) + "\n")
        # Into a pipe the lines of a large store would otherwise come all at once.
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
