"""What runs on the hosts of `nodes.py`: a tiny plan, jobs that must come to their end, what runs are compared by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodes import Job, Nodes

MADE = """\
model:
  scratch: {tokenizer_from: [slips], vocab_size: 320, hidden_size: 32, layers: 2, heads: 2, key_value_heads: 1,
            intermediate_size: 64, max_positions: 128}
data:
  slips:
    generate: {kind: arithmetic, rows: 48, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
"""
PLAN = f"""\
name: base
{MADE}stages:
  align: {{kind: dpop, data: [slips], batch: 8, learning_rate: 3e-4, max_length: 96, checkpoint: {{every: 2, keep: 2}}}}
evaluate: [suite.yaml]
cluster: {{workers: 2, token_budget: 512, score_actors: 2, deepspeed: {{zero: 2}}}}
"""
SUITE = """\
tasks:
  others:
    kind: preference
    data:
      generate: {kind: arithmetic, rows: 16, steps: 2, largest: 20, seed: 3}
      build: arithmetic_corruption
      held_out: 0
"""


COURSE = f"""\
name: calm
{MADE}stages:
  align: {{kind: dpo, data: [slips], batch: 8, epochs: 80, learning_rate: 1e-4, max_length: 96,
          checkpoint: {{every: 40, keep: 2}}}}
cluster: {{workers: 2, token_budget: 32, score_actors: 2, max_restarts: 0, deepspeed: {{zero: 2}}}}
"""
"""Hundreds of small steps, so that something can befall them; no evaluation."""
EVERY = 40


def write_plan(folder: Path, plan: str = PLAN) -> Path:
    """Write the plan and its suite into a folder that holds nothing else: it is sent to the cluster."""
    folder.mkdir()
    (folder / "plan.yaml").write_text(plan)
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "plan.yaml"


def settings(storage: Path, *changes: str) -> list[str]:
    """The arguments of `ratchet run` that set keys of the plan."""
    return [word for change in (f"cluster.storage={storage}", *changes) for word in ("--set", change)]


def done(nodes: Nodes, job: Job, seconds: float = 900) -> dict[str, Any]:
    """Wait for a job that must come to its end; return what Ray says of it."""
    until(nodes, lambda: job.submit.poll() is not None, f"the end of {job.name}", None, seconds)
    assert job.submit.returncode == 0, f"{job.log.read_text()}\n{nodes.evidence()}"
    return nodes.job_info(job)


def until(nodes: Nodes, condition: Callable[[], bool], what: str, job: Job | None = None, seconds: float = 300) -> None:
    """Wait for something. Fails where it does not come, or the job ends before."""
    end = time.monotonic() + seconds
    while not condition():
        ended = job is not None and job.submit.poll() is not None
        if ended or time.monotonic() > end:
            told = job.log.read_text() if job is not None else ""
            raise AssertionError(
                f"{what}: not before {'the job ended' if ended else 'the time was up'}\n{told}\n{nodes.evidence()}"
            )
        time.sleep(0.1)


def step_folder(storage: Path, name: str, step: str = "align") -> Path:
    """Where a run keeps a step."""
    return storage / "runs" / name / "steps" / step


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The lines of a step's metrics or ledger, as far as they are there; the last one may be half written."""
    path = folder / name
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [line["loss"] for line in lines(folder)]


def weights(folder: Path) -> bytes:
    """A step's model, to the bit."""
    return (folder / "model/model.safetensors").read_bytes()


def record(folder: Path) -> dict[str, Any]:
    """A step's record."""
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


def scores(storage: Path, name: str) -> list[list[dict[str, Any]]]:
    """The scores of a run's tasks, each with its name, value and error."""
    document = json.loads((storage / "runs" / name / "scores.json").read_text())
    return [one["scores"] for one in document["results"]]


def saved(folder: Path) -> dict[int, str]:
    """The attempt that committed each checkpoint which is there, by step."""
    found = {}
    for manifest in (folder / "checkpoints").glob("step-*/MANIFEST.json"):
        try:
            fields = json.loads(manifest.read_text())
        except FileNotFoundError:  # pruned meanwhile
            continue
        found[int(fields["step"])] = str(fields["attempt"])
    return found


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the rates: what two runs of the same step agree on."""
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in lines(folder)]
