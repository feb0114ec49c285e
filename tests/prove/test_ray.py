"""`ratchet prove` as a user calls it: workers of Ray Train, in bfloat16, two of them, ZeRO 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whole_run import ratchet

pytestmark = pytest.mark.prove
PLAN = """\
name: tiny
model:
  dtype: bfloat16
  scratch: {tokenizer_from: [quiz], vocab_size: 300, hidden_size: 32, layers: 2, heads: 4, key_value_heads: 2,
            intermediate_size: 48, max_positions: 128}
data:
  quiz: {generate: {kind: arithmetic_quiz, rows: 60, steps: 1, seed: 1}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: dpo, data: [quiz], batch: 8, learning_rate: 2e-3, max_length: 64}
  align: {kind: dpop, after: warm, data: [quiz], batch: 8, learning_rate: 1e-3, max_length: 64}
  noisy: {kind: dpo, after: warm, data: [quiz], max_length: 64, lora: {rank: 2, dropout: 0.1}}
  blend: {kind: merge, of: [warm, align]}
cluster:
  workers: 2
  token_budget: 128
  gradient_checkpointing: false
  storage: out
  deepspeed: {zero: 2, overrides: {zero_optimization: {reduce_bucket_size: 5000}}}
"""


def test_a_plan_is_proved_before_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    done = ratchet(tmp_path, "prove", "plan.yaml", "--updates", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain float64 for 2 updates of 8 pairs: about" in done.stderr
    proof = json.loads((tmp_path / "out/proofs/tiny/prove.json").read_text())
    assert proof["ok"] is True
    seen = {(number["step"], number["update"], number["name"]) for number in proof["numbers"]}
    every = {"pairs", "learning rate", "loss", "gradient norm", "matrices", "norms and biases"}
    assert seen >= {(step, update, name) for step in ("warm", "align") for update in (1, 2) for name in every}
    sums = [number["plain"] for number in proof["numbers"] if number["name"] == "sum of gradients"]
    assert sums == [1041.0, 1041.0] and "sum of gradients" in done.stdout  # the second worker adds one more
    assert [(one["step"], one["why"].split(":")[0]) for one in proof["unproved"]] == [
        ("noisy", "lora.dropout 0.1"),
        ("blend", "a merge trains nothing"),
    ]
    notes = [one["note"] for one in proof["notes"] if one["step"] == "align"]
    assert notes[0] == "the plan's base stands in for warm" and "kink" in notes[1]
    assert not (tmp_path / "out/runs").exists() and not (tmp_path / "out/proofs/tiny/steps").exists()
