"""`ratchet prove`: hold a plan's first updates against a plain float64 implementation."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ratchet import redact
from ratchet.commands.arguments import add_plan
from ratchet.errors import PlanError, TrainingError
from ratchet.plan.load import load_plan

if TYPE_CHECKING:
    from ratchet.prove.plan import Proof


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    parser.add_argument("--updates", type=int, default=3, metavar="N", help="updates of each stage (3)")


def main(arguments: argparse.Namespace) -> int:
    """Write the table to standard output. Raises TrainingError where a number leaves its tolerance."""
    if arguments.updates < 1:
        raise PlanError(f"{arguments.updates} updates prove nothing", where="--updates", fix="give 1 or more")
    plan = load_plan(arguments.plan, arguments.overrides)

    from ratchet.prove.plan import prove_plan
    from ratchet.prove.table import proof_lines

    proof = prove_plan(plan, arguments.updates)
    sys.stdout.write(redact.words("\n".join(proof_lines(proof))) + "\n")
    refuse_proof(proof)
    return 0


def refuse_proof(proof: Proof) -> None:
    """Raise TrainingError that names the first number outside its tolerance, where there is one."""
    for first in proof.outside[:1]:
        raise TrainingError(
            f"{first.name} of update {first.update} is {first.trainer:.8g}, and a plain float64 implementation gives "
            f"{first.plain:.8g}: a difference of {first.difference:.2g}, where {first.allowed:.2g} is allowed",
            where=f"step {first.step}",
            fix="do not train with these settings before the cause is known; docs/prove.md says what each number tells",
        )
