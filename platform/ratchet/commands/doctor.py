"""`ratchet doctor`: say what a cluster lacks or leaves open, and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from ratchet import redact
from ratchet.errors import ClusterError
from ratchet.plan.load import load_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("plan", type=Path, nargs="?", help="plan whose cluster, storage and needs are looked at")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="set a dotted key of the plan"
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="a cluster (host:6379), or only its dashboard (http://host:8265)"
    )
    parser.add_argument("--json", action="store_true", help="write findings as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Write every finding to standard output; return 69 where one is a problem, 0 with warnings alone."""
    plan = load_plan(arguments.plan, arguments.overrides) if arguments.plan else None

    from ratchet.doctor.examine import examine
    from ratchet.doctor.facts import findings_text, worst

    findings = examine(plan, arguments.address)
    level = worst(findings)
    if arguments.json:
        told = {"level": level, "findings": [dataclasses.asdict(one) for one in findings]}
        sys.stdout.write(json.dumps(redact.tree(told), indent=2) + "\n")
    else:
        sys.stdout.write(redact.words(findings_text(findings)))
    return ClusterError.exit_code if level == "problem" else 0
