"""A run rehearses its stages before it scores or trains anything: what a later stage fails at ends it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest

from ratchet import cli

pytestmark = pytest.mark.heavy

PLAN = """
name: large
model:
  scratch: {tokenizer_from: [slips], vocab_size: 300, hidden_size: 256, layers: 6, heads: 4, key_value_heads: 2,
            intermediate_size: 768, max_positions: 128}
data:
  slips: {generate: {kind: arithmetic, rows: 24, steps: 1, largest: 9}, build: arithmetic_corruption, held_out: 0.1}
stages:
  align: {kind: dpo, data: [slips], batch: 8, max_steps: 1, max_length: 64}
  adapt: {kind: dpo, data: [slips], after: align, batch: 8, max_steps: 1, max_length: 64, lora: {rank: 2}}
cluster: {workers: 1, token_budget: 1024, storage: out}
"""


def run(folder: Path, patch: pytest.MonkeyPatch) -> int:
    patch.chdir(folder)
    (folder / "plan.yaml").write_text(PLAN)
    return cli.main(["run", "plan.yaml", "--here"])


def test_adapters_of_a_later_stage_that_cannot_be_merged_end_a_run_before_it_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(layer: Any, *_: Any, **__: Any) -> None:
        raise NotImplementedError("no merge of this layer")

    monkeypatch.setattr(peft.tuners.lora.layer.Linear, "merge", fail)
    assert run(tmp_path, monkeypatch) == 4
    told = capfd.readouterr().err
    assert "a rehearsal before the first step failed" in told and "no merge of this layer" in told
    assert not (tmp_path / "out/store/logps").exists() and not (tmp_path / "out/runs/large/steps/align").exists()
    assert not (tmp_path / "out/runs/large/rehearsal").exists()


def test_what_was_rehearsed_at_the_beginning_is_not_rehearsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch) == 0
    lines = capfd.readouterr().err.splitlines()
    at = {
        name: next(i for i, line in enumerate(lines) if line.startswith(name)) for name in ("rehearsal", "score base")
    }
    assert at["rehearsal"] < at["score base"] and sum(line.startswith("rehearsal") for line in lines) == 2
    for step in ("align", "adapt"):
        facts = json.loads((tmp_path / f"out/runs/large/steps/{step}/record.json").read_text())["facts"]["training"]
        assert facts["rehearsal"]["reused"] and facts["rehearsal"]["of"] == "a clone with 2 of 6 layers"
        assert facts["rehearsal"]["seconds"] > 0 and facts["seconds"]["rehearsal"] == 0.0
