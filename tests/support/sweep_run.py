"""A sweep in miniature, and what its records say was computed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from whole_run import MODEL

PLAN = (
    f"""\
name: tiny
{MODEL}"""
    + """\
data:
  sums: {generate: {kind: arithmetic, rows: 200, steps: 2, largest: 20}, held_out: 0.1}
  slips:
    generate: {kind: arithmetic, rows: 80, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
  quiz: {generate: {kind: arithmetic_quiz, rows: 30, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
  more: {generate: {kind: arithmetic_quiz, rows: 30, steps: 2, seed: 3}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [sums], batch: 32, learning_rate: 2e-3, max_length: 96}
  align:
    kind: dpop
    after: warm
    data: [slips, quiz, more]
    steps: {by: source}
    batch: 16
    learning_rate: 1e-3
    max_length: 96
    checkpoint: {every: 2, keep: 2}
cluster: {token_budget: 512, storage: out}
"""
)

BETAS = """\
name: betas
keys:
  stages.align.beta: {grid: [0.1, 0.3, 1.0]}
objectives: {align/heldout/accuracy: max}
"""

ORDERS = """\
name: orders
keys:
  stages.align.data: {permutation: [slips, quiz, more]}
objectives: {align/heldout/margin: max}
"""


def write_files(folder: Path, space: str, plan: str = PLAN) -> None:
    """Write plan and space into `folder`, which then is the current directory of a sweep."""
    (folder / "plan.yaml").write_text(plan)
    (folder / "space.yaml").write_text(space)


def trials(folder: Path, sweep: str) -> dict[str, dict[str, Any]]:
    """Return the trial.json of each trial that has one, by name."""
    paths = sorted((folder / "out" / "sweeps" / sweep / "trials").glob("*/trial.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def made_steps(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the record of every step in the store, by its id."""
    paths = sorted((folder / "out" / "store" / "steps").glob("*/record.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


SMALL = (
    f"""\
name: small
{MODEL.replace("layers: 2", "layers: 1")}"""
    + """\
data:
  sums: {generate: {kind: arithmetic, rows: 120, steps: 2, largest: 20}, held_out: 0.1}
  quiz: {generate: {kind: arithmetic_quiz, rows: 120, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [sums], batch: 32, learning_rate: 2e-3, max_length: 96}
  align:
    kind: dpo
    after: warm
    data: [quiz]
    batch: 32
    learning_rate: 1e-3
    max_length: 96
    checkpoint: {every: 1, keep: 2}
cluster: {token_budget: 512, storage: out}
"""
)
"""278 pairs in 9 steps: more than the 256 of the sample on which every model is compared."""


def trained(folder: Path, sweep: str) -> list[str]:
    """Return `trial: step` for every step that some trial's process says it has made, as often as it was made."""
    found = []
    for log in sorted((folder / "out" / "sweeps" / sweep / "trials").glob("*/log.txt")):
        lines = log.read_text().splitlines()
        found += [
            f"{log.parent.name}: {line.split()[0]}" for line in lines if re.match(r"(warm|align\S*) +done in", line)
        ]
    return found


def pairs_scored(folder: Path, sweep: str) -> int:
    """Return the pairs that the trials' processes say they have scored, each as often as it was."""
    logs = (folder / "out" / "sweeps" / sweep / "trials").glob("*/log.txt")
    return sum(int(n.replace(",", "")) for log in logs for n in re.findall(r"pairs scored ([\d,]+)", log.read_text()))
