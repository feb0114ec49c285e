"""A whole run in bfloat16: masters pass from step to step, and are gone at its end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from whole_run import ratchet, record, steps

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PLAN = """\
name: tiny
model:
  dtype: bfloat16
  scratch: {tokenizer_from: [sums], vocab_size: 320, hidden_size: 32, layers: 2, heads: 2, key_value_heads: 1,
            intermediate_size: 64, max_positions: 128}
data:
  sums: {generate: {kind: arithmetic, rows: 120, steps: 2, largest: 20}, held_out: 0.1}
  slips:
    generate: {kind: arithmetic, rows: 120, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
  quiz: {generate: {kind: arithmetic_quiz, rows: 50, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [sums], batch: 32, learning_rate: 1e-3, max_length: 96}
  align:
    kind: dpo
    after: warm
    data: [slips, quiz]
    steps: {by: source}
    batch: 16
    learning_rate: 1e-4
    max_length: 96
cluster: {workers: 2, token_budget: 400, storage: out, deepspeed: {zero: 2}}
"""
MORE = (
    "  more: {kind: dpo, after: align, data: [quiz], batch: 16, learning_rate: 1e-4, max_length: 96, lora: {rank: 4}}\n"
)


def left(folder: Path, step: str) -> str:
    return str(record(folder, step)["facts"]["training"]["published"]["masters"]["sha256"])


def test_masters_pass_from_step_to_step_and_go_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    found = ratchet(tmp_path, "run", "plan.yaml", seconds=1500)
    assert found.returncode == 0, found.stderr
    for step, start in (("align.1", "warm"), ("align.2", "align.1")):
        made = record(tmp_path, step)
        assert made["identity"]["masters"] == made["inputs"]["masters"] == left(tmp_path, start)
        first = made["facts"]["training"]["first"]
        assert first["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert "masters" not in record(tmp_path, "align.2")["facts"]["training"]["published"]
    assert not list(steps(tmp_path).glob("*/masters"))
    assert "rounded weights" not in found.stderr
    before = {path: path.read_text() for path in steps(tmp_path).glob("*/record.json")}
    (tmp_path / "plan.yaml").write_text(PLAN.replace("cluster:", f"{MORE}cluster:"))
    again = ratchet(tmp_path, "run", "plan.yaml", seconds=1500)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is there already") == 3
    assert "more starts from the rounded weights of align.2" in again.stderr
    assert {path: path.read_text() for path in before} == before
    effect = json.loads((steps(tmp_path) / "more/record.json").read_text())["facts"]["training"]["published"]["effect"]
    assert effect["of"] == "held-out pairs" and effect["pairs"] >= 4
