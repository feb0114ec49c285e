"""A plan and a suite that are right, for tests to spoil."""

from __future__ import annotations

from pathlib import Path

PLAN = """\
# A head comment.
name: careful
model: {name: Qwen/Qwen3-0.6B, revision: c1899de}
data:
  helpful: {path: data/helpful.jsonl}
  math:
    path: [data/a.jsonl, data/b.jsonl]
    build: arithmetic_corruption
stages:
  warm:
    kind: sft
    data: [helpful]
    learning_rate: 2e-5
  align:
    kind: dpop
    after: warm
    data: {helpful: 0.5, math: 1.0}
    steps: {by: source, order: easy_to_hard}
    beta: 0.3
    lora: {rank: 8, targets: all-linear}
  other:
    kind: dpo
    after: warm
    data: [math]
    reference: base
  blend: {kind: merge, of: [warm, align], weights: [0.5, 0.5]}
evaluate: [eval/quick.yaml]
cluster:
  workers: 8
  deepspeed: {zero: 2}
"""

SUITE = """\
tasks:
  sums: {kind: exact_match, source: math, pattern: 'is (-?\\d+)'}
"""


def write(folder: Path, plan: str = PLAN, suite: str = SUITE) -> Path:
    """Write a plan and its suite below `folder`; return the plan's path, relative to it."""
    (folder / "eval").mkdir(exist_ok=True)
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "eval/quick.yaml").write_text(suite)
    (folder / "jobs/x.yaml").write_text(plan)
    return Path("jobs/x.yaml")
