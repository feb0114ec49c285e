"""Two drivers of one plan: the second is refused, and one that comes after a kill takes over."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

import whole_run
from ratchet.store.made import HELD

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PLAN = """\
name: tiny
model:
  scratch: {tokenizer_from: [sums], vocab_size: 320, hidden_size: 32, layers: 2, heads: 2, key_value_heads: 1,
            intermediate_size: 64, max_positions: 128}
data:
  sums: {generate: {kind: arithmetic, rows: 300, steps: 2, largest: 20}, held_out: 0.1}
stages:
  warm: {kind: sft, data: [sums], batch: 32, epochs: 30, max_length: 96, checkpoint: {every: 2}}
cluster: {token_budget: 512, storage: out}
"""


def begin(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        whole_run.command("run", "plan.yaml"), cwd=folder, env=whole_run.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_of_two_drivers_one_goes_on_and_after_its_death_the_next_takes_over(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    with begin(tmp_path) as first:
        whole_run.until(lambda: any((tmp_path / "out/runs/tiny").glob(f"{HELD}*/*")), first)
        refused = whole_run.ratchet(tmp_path, "run", "plan.yaml")
        assert refused.returncode == 6, refused.stderr
        assert str(first.pid) in refused.stderr and "wait for it, stop it" in refused.stderr
        saved = whole_run.steps(tmp_path) / "warm" / "checkpoints"
        whole_run.until(lambda: any(saved.glob("step-*/COMMITTED")), first)
        os.kill(first.pid, signal.SIGKILL)
    next_one = whole_run.ratchet(tmp_path, "run", "plan.yaml")
    assert next_one.returncode == 0, next_one.stderr
    facts = whole_run.record(tmp_path, "warm")["facts"]["training"]
    assert facts["resumed_from"] >= 2
    done = [line["step"] for line in whole_run.metrics(tmp_path, "warm")]
    assert done == list(range(1, len(done) + 1)), "one writer, and no step twice"
