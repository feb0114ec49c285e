"""`ratchet prove`: right updates pass it, and each wrong one is shown by the number that it spoils."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_losses import CASES, GOLDEN
from nightly import nightly
from prove_bench import PAIRS, STAGES, Inputs, outside, scores_of, small_model, train_alone, write_inputs
from ratchet.plan.stage_kinds import STAGE_KINDS
from ratchet.prove import oracle
from ratchet.prove.oracle import PLAIN_LOSSES, Recipe, rate_at
from ratchet.store.fingerprint import digest_file
from ratchet.train import loop
from ratchet.train.engine import TorchEngine
from ratchet.train.spec import TrainSpec
from train_bench import Pairs, changed, write_logps, write_tokens

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("prove"))


@pytest.mark.parametrize("name", nightly(STAGES, lambda name: name not in {"dpop outside", "ipo of sums"}))
def test_every_loss_is_within_its_precision(inputs: Inputs, tmp_path: Path, name: str) -> None:
    (numbers,) = inputs.prove(name, "float32", [train_alone(inputs.spec(name, "float32", tmp_path))])
    assert not outside(numbers)
    updates = {number.update for number in numbers if number.name in {"loss", "gradient norm", "learning rate"}}
    assert updates == {1, 2, 3}
    assert {number.name for number in numbers if number.update == 0} >= {"trained tensors", "matrices"}


def test_bfloat16_is_within_its_own(inputs: Inputs, tmp_path: Path) -> None:
    """And that is no wide margin: weights are held to a few hundredths of the way that they went."""
    (numbers,) = inputs.prove("dpo", "bfloat16", [train_alone(inputs.spec("dpo", "bfloat16", tmp_path))])
    assert not outside(numbers)
    weights = [number for number in numbers if number.name == "matrices" and number.update]
    assert all(number.allowed < 0.06 * number.plain for number in weights)
    assert all(int(number.note.split("%")[0]) > 30 for number in weights)


def test_masters_that_are_carried_on_are_where_both_begin(inputs: Inputs, tmp_path: Path) -> None:
    """The folder's float32 weights as the masters of the bfloat16 ones that they round to."""
    masters = inputs.root / "start/model.safetensors"
    carries = {"masters": str(masters), "masters_digest": digest_file(masters)}
    folder = train_alone(inputs.spec("dpo", "bfloat16", tmp_path, **carries))
    assert not outside(inputs.prove("dpo", "bfloat16", [folder], masters=masters)[0])
    wrong = [number for number in inputs.prove("dpo", "bfloat16", [folder])[0] if not number.ok]
    assert (wrong[0].update, wrong[0].name) == (0, "matrices")


class PhantomStep(TorchEngine):
    """Makes an update without a gradient while it is built, as DeepSpeed's stage 0 does below float32."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._copy_masters()


class Half(TorchEngine):
    """Averages over two of something that was to be added up."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        super().backward(loss / 2, last=last)


def of_key(**changes: Any) -> Callable[[TrainSpec], TrainSpec]:
    return lambda spec: changed(spec, **changes)


BOTH = ("float32", "bfloat16")
WEIGHTS = {"matrices", "norms and biases"}
ONE = ("float32",)
FAULTS: dict[str, tuple[Callable[[TrainSpec], TrainSpec], set[str], tuple[str, ...]]] = {
    "learning rate": (of_key(learning_rate=1.01e-3), {"learning rate"}, ONE),
    "schedule": (of_key(schedule="linear"), {"learning rate"}, ONE),
    "warm-up": (of_key(warmup=0.5), {"learning rate", "matrices"}, ONE),
    "beta": (of_key(beta=0.33), {"gradient norm"}, BOTH),
    "label smoothing": (of_key(label_smoothing=0.0), {"loss", "gradient norm"}, ONE),
    "weight decay": (of_key(weight_decay=0.4), {"matrices"}, ONE),
    "decay of norms": (of_key(decay_norms=True), {"norms and biases"}, BOTH),
    "betas": (of_key(betas=(0.8, 0.999)), WEIGHTS, BOTH),
    "epsilon": (of_key(epsilon=1e-3), WEIGHTS, BOTH),
    "clip": (of_key(clip=None), {"matrices"}, ONE),
    "batch": (of_key(batch=4), {"pairs"}, ONE),
    "bfloat16 sums": (of_key(gradients="bfloat16"), {"sum of gradients"}, ("bfloat16",)),
}


@pytest.mark.prove
@pytest.mark.parametrize(("fault", "dtype"), [(fault, dtype) for fault, row in FAULTS.items() for dtype in row[2]])
def test_a_wrong_key_is_shown(inputs: Inputs, tmp_path: Path, fault: str, dtype: str) -> None:
    spoil, shown, _ = FAULTS[fault]
    name = "ipo" if fault == "schedule" else "dpo"  # without a warm-up
    folder = train_alone(spoil(inputs.spec(name, dtype, tmp_path)))
    assert shown <= outside(inputs.prove(name, dtype, [folder])[0])


@pytest.mark.parametrize("dtype", nightly(BOTH, lambda dtype: dtype == "float32"))
def test_an_update_before_the_first_is_shown(inputs: Inputs, tmp_path: Path, dtype: str) -> None:
    numbers = inputs.prove("dpo", dtype, [train_alone(inputs.spec("dpo", dtype, tmp_path), PhantomStep)])[0]
    wrong = {(number.update, number.name) for number in numbers if not number.ok}
    assert {(0, "matrices"), (1, "matrices"), (1, "norms and biases")} <= wrong
    moved = next(number for number in numbers if (number.update, number.name) == (1, "norms and biases"))
    assert moved.difference / moved.plain == pytest.approx(1 - 0.744, abs=0.02)  # AdamW's bias correction one step on


def test_half_a_gradient_is_shown(inputs: Inputs, tmp_path: Path) -> None:
    folder = train_alone(inputs.spec("dpo", "float32", tmp_path), Half)
    assert "gradient norm" in outside(inputs.prove("dpo", "float32", [folder])[0])


@pytest.mark.parametrize("dtype", nightly(BOTH, lambda dtype: dtype == "float32"))
def test_a_first_step_of_rate_0_is_shown(inputs: Inputs, tmp_path: Path, monkeypatch: Any, dtype: str) -> None:
    """The curve of transformers, in whose warm-up the first step trains nothing."""
    monkeypatch.setattr(loop, "learning_rate", lambda kind, peak, step, total, warmup: peak * (step - 1) / 2)
    folder = train_alone(inputs.spec("dpo", dtype, tmp_path))
    assert outside(inputs.prove("dpo", dtype, [folder])[0]) >= {"learning rate", *WEIGHTS}


@pytest.mark.prove
@pytest.mark.parametrize("dtype", BOTH)
def test_swapped_sides_are_shown(inputs: Inputs, tmp_path: Path, dtype: str) -> None:
    table = Pairs(PAIRS, seed=2)
    table.rows = [dataclasses.replace(row, chosen=row.rejected, rejected=row.chosen) for row in table.rows]
    table.lengths_N3 = table.lengths_N3[:, [0, 2, 1]]
    write_tokens(tmp_path / "swapped.arrow", table)
    write_logps(tmp_path / "swapped", table, scores_of(small_model(1).to(getattr(torch, dtype)), table))
    spec = inputs.spec("dpo", dtype, tmp_path / "run", tokens=(str(tmp_path / "swapped.arrow"),))
    folder = train_alone(dataclasses.replace(spec, references=(str(tmp_path / "swapped"),)))
    assert outside(inputs.prove("dpo", dtype, [folder])[0]) >= {"loss", *WEIGHTS}


@pytest.mark.prove
@pytest.mark.parametrize("dtype", BOTH)
def test_a_stale_reference_row_is_shown(inputs: Inputs, tmp_path: Path, dtype: str) -> None:
    """One row of ten has another pair's scores."""
    scores = scores_of(small_model(1).to(getattr(torch, dtype)), inputs.table)
    row = int(np.argmax(np.abs(scores.chosen_N - scores.chosen_N.mean())))
    scores.chosen_N[row] = scores.chosen_N.mean()
    write_logps(tmp_path / "stale", inputs.table, scores)
    folder = train_alone(inputs.spec("dpo", dtype, tmp_path / "run", references=(str(tmp_path / "stale"),)))
    assert "loss" in outside(inputs.prove("dpo", dtype, [folder])[0])


def test_every_kind_of_stage_has_a_case() -> None:
    assert {stage.kind for stage in STAGES.values()} == {name for name, row in STAGE_KINDS.items() if row.trains}
    assert oracle.PLAIN_LOSSES.keys() == {name for name, row in STAGE_KINDS.items() if row.reads_pairs}


def test_the_plain_trainer_shares_no_code() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    allowed = {"__future__", "collections", "dataclasses", "math", "torch", "typing"}
    assert {name.partition(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, list(case.values())[:3])))
def test_the_plain_losses_are_the_papers(case: dict[str, Any]) -> None:
    """Against vectors that numpy alone computed."""
    stage = {key: value for key, value in case.items() if key not in {"loss", "mean"}}
    given = STAGE_KINDS[case["kind"]].settings.model_validate({"data": ["a"], **stage}).model_dump()
    sides = [GOLDEN[key] for key in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")]
    counts = zip(GOLDEN["chosen_tokens"], GOLDEN["rejected_tokens"], strict=True)
    found = [
        float(PLAIN_LOSSES[case["kind"]](given, [torch.tensor(w).double(), torch.tensor(l).double()], (rw, rl), n))
        for w, l, rw, rl, n in zip(*sides, counts, strict=True)  # noqa: E741  the papers' letters
    ]
    assert found == pytest.approx(case["loss"], abs=1e-9)


def test_the_schedule() -> None:
    """A warm-up of two steps of eight, then a half cosine; by hand."""
    keys = {
        "options": {},
        "weight_decay": 0.0,
        "decay_all": False,
        "betas": (0.9, 0.999),
        "epsilon": 1e-8,
        "clip": None,
    }
    recipe = Recipe("dpo", learning_rate=2.0, schedule="cosine", warmup=0.25, steps=8, **keys)
    rates = [rate_at(recipe, step) for step in range(1, 9)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[5] == pytest.approx(1.0)
    assert [rate_at(dataclasses.replace(recipe, schedule="linear"), step) for step in (3, 6)] == [2.0, 1.0]
