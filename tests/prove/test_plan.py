"""What of a plan is proved and what is not, what that takes, and how it is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plan_example import PLAN, write
from prove_bench import PRECISIONS, STAGES, outside, scores_of, small_model, train_alone, write_inputs
from raised import raises
from ratchet import cli
from ratchet.commands.plans import refuse_proof
from ratchet.pipeline.graph import steps_of
from ratchet.plan.load import load_plan
from ratchet.prove.case import ProvedStep, recipe_of
from ratchet.prove.compare import Number
from ratchet.prove.models import bytes_needed, check_memory
from ratchet.prove.plan import Proof, move_reference, proof_lines, to_dict, unproved_steps, why_not
from ratchet.train.data import open_rows
from train_bench import write_logps

pytestmark = pytest.mark.heavy


def case_of(model: Path, reference: Path | None, dtype: str = "float32", name: str = "dpo") -> ProvedStep:
    return ProvedStep("align", recipe_of("dpo", STAGES[name], 8), model, dtype, reference, dtype, 10, 5)


@pytest.mark.parametrize(
    ("model", "lora", "why"),
    [
        ("{path: m, dtype: float16}", "{rank: 8}", "model.dtype float16"),
        (f"{{name: a/b, revision: {'a' * 40}, trust_remote_code: true}}", "{rank: 8}", "model.trust_remote_code"),
        ("{path: m}", "{rank: 8, dropout: 0.1}", "lora.dropout 0.1"),
        ("{path: m}", "{rank: 8, quantise: 4bit}", "lora.quantise 4bit"),
        ("{path: m}", "{rank: 8}", None),
    ],
)
def test_what_cannot_be_proved_is_named(
    tmp_path: Path, monkeypatch: Any, model: str, lora: str, why: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    text = PLAN.replace("{name: Qwen/Qwen3-0.6B, revision: c1899de}", model)
    text = text.replace("{rank: 8, targets: all-linear}", lora).replace(
        "workers: 8", "workers: 8\n  gpus_per_worker: 1"
    )
    plan = load_plan(write(tmp_path, text))
    stage = plan.stages["align"]
    assert stage.kind == "dpop"
    found = why_not(plan, stage)
    assert found is None if why is None else found is not None and found.startswith(why)


def test_later_steps_of_a_stepwise_stage_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    plan = load_plan(write(tmp_path, PLAN))
    assert unproved_steps(steps_of(plan, "align", ("helpful", "math"))[1:]) == [
        ("align.2", "the first step of align is proved; this one begins with what it trains")
    ]
    assert unproved_steps(steps_of(plan, "other", ())[1:]) == []


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A header that speaks of 10¹² weights; nothing is loaded."""
    header = json.dumps({"huge": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with raises("model.no-memory"):
        check_memory(case_of(tmp_path, tmp_path))


def test_what_it_takes(tmp_path: Path) -> None:
    """Bytes a weight, by hand: models of 8 and 4, ten float64 and float32 states, and what the comparison holds."""
    model = small_model(0)
    model.save_pretrained(tmp_path)
    weights = sum(weight.numel() for weight in model.parameters())
    whole = 8 + 4 + 5 * 8 + 4 * 4 + 4 + 13
    assert bytes_needed(case_of(tmp_path, tmp_path)) == int(1.2 * weights * whole)
    assert bytes_needed(case_of(tmp_path, tmp_path, name="dpo of adapters")) == int(1.2 * weights * (8 + 4))
    assert "GB free" in check_memory(case_of(tmp_path, None))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_dpop_is_moved_off_its_kink(tmp_path: Path, dtype: str) -> None:
    """It starts as its own reference: there the sign of a rounding error decides whether λ counts."""
    inputs = write_inputs(tmp_path)
    write_logps(tmp_path / "own", inputs.table, scores_of(small_model(0).to(getattr(torch, dtype)), inputs.table))
    spec = inputs.spec("dpop inside", dtype, tmp_path / "run", references=(str(tmp_path / "own"),))
    Path(spec.folder).mkdir()
    moved = dataclasses.replace(spec, references=(move_reference(spec, open_rows(spec)),))
    folder = train_alone(moved)
    (numbers,) = inputs.prove("dpop inside", dtype, [folder], moved=True, reference=tmp_path / "start")
    assert not outside(numbers)
    (numbers,) = inputs.prove("dpop inside", dtype, [folder], moved=False, reference=tmp_path / "start")
    assert "loss" in outside(numbers)


GOOD = Number("align", 1, "loss", 0.6931, 0.6931, 0.0, 1e-5)
BAD = Number("align", 2, "gradient norm", 2.1, 1.9, 0.2, 0.02, "most off: head")


def test_a_number_outside_is_named_and_ends_with_an_error(tmp_path: Path) -> None:
    proof = Proof((GOOD, BAD), (("blend", "a merge trains nothing"),), (("align", "a note"),), tmp_path / "prove.json")
    said = "\n".join(proof_lines(proof))
    assert "OUTSIDE  most off: head" in said and "1 outside" in said
    assert "not proved: blend: a merge trains nothing" in said and "align: a note" in said
    with raises("training.not-proved", "gradient norm of update 2", "2.1", "1.9", "0.02"):
        refuse_proof(proof)
    told = to_dict(proof)
    assert told["ok"] is False and [number["ok"] for number in told["numbers"]] == [True, False]
    refuse_proof(dataclasses.replace(proof, numbers=(GOOD,)))
    assert "all within" in proof_lines(dataclasses.replace(proof, numbers=(GOOD,)))[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_outside(value: float) -> None:
    assert not dataclasses.replace(GOOD, trainer=value, difference=value).ok


def test_no_updates_prove_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prove", "jobs/quickstart.yaml", "--updates", "0"]) == 2
    assert "0 updates prove nothing" in capsys.readouterr().err
