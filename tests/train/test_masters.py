"""What a step gained below the model's precision reaches the step after it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from masters_run import by_engines
from raised import raises
from ratchet.model.load import load_model
from ratchet.plan.training import Checkpoint, Lora
from ratchet.reference.models import MASTERS, MASTERS_FILE
from ratchet.store.fingerprint import digest_file
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.spec import TrainSpec
from train_bench import CPU, Pairs, changed, flip, reference_of, spec_of, train_whole, write_inputs, write_logps

pytestmark = pytest.mark.heavy

HALF = {"dtype": "bfloat16", "keep_masters": True, "schedule": "constant", "epochs": 1}
LORA = Lora(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"), torch.bfloat16)


def go(spec: TrainSpec) -> dict[str, Any]:
    return train_whole(spec, Alone(), CPU, TorchEngine)


def masters_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MASTERS / MASTERS_FILE)


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


def after(spec: TrainSpec, folder: Path, *, carry: bool, **changes: Any) -> TrainSpec:
    """The step that starts from another, whose model is its reference too."""
    before = Path(spec.folder)
    folder.mkdir()
    table, held = Pairs(22), Pairs(9, seed=5)
    model = load_model(before / "model", "bfloat16")
    write_logps(folder / "logps", table, reference_of(model, table))
    write_logps(folder / "logps-heldout", held, reference_of(model, held))
    file = before / MASTERS / MASTERS_FILE
    carried = {"masters": str(file), "masters_digest": digest_file(file)} if carry else {}
    references = {"references": (str(folder / "logps"),), "heldout_references": (str(folder / "logps-heldout"),)}
    fields = {"folder": str(folder), "model": str(before / "model"), "masters": None, "masters_digest": None}
    return changed(spec, **{**fields, **carried, **references, **changes})


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((left[name].double() - right[name].double()).square().sum()) for name in left))


def test_masters_lie_beside_the_model_and_round_to_it(tmp_path: Path, inputs: dict[str, Any]) -> None:
    outcome = go(spec_of(tmp_path, learning_rate=1e-4, **HALF, **inputs))
    masters, model = masters_of(tmp_path), model_of(tmp_path)
    assert masters.keys() == model.keys()
    assert all(master.dtype == torch.float32 for master in masters.values())
    assert all(torch.equal(master.bfloat16(), model[name]) for name, master in masters.items())
    assert distance(masters, model) > 0.01
    file = tmp_path / MASTERS / MASTERS_FILE
    assert outcome["published"]["masters"] == {"sha256": digest_file(file), "bytes": file.stat().st_size}
    go(spec_of(tmp_path / "none", learning_rate=1e-4, **{**HALF, "keep_masters": False}, **inputs))
    assert not (tmp_path / "none" / MASTERS).exists()
    go(
        spec_of(tmp_path / "whole", **{**HALF, "dtype": "float32"}, **{**inputs, "starts_at_reference": False})
    )  # float32 is published whole
    assert not (tmp_path / "whole" / MASTERS).exists()


def test_small_steps_add_up_where_rounding_would_lose_them(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """Of four steps at a rate below half a unit, all arrive; from rounded weights next to nothing does."""
    start = load_file(Path(inputs["model"]) / "model.safetensors")
    moved = {}
    for name, carry in (("carried", True), ("rounded", False)):
        spec = spec_of(tmp_path / f"{name}-0", learning_rate=4e-5, max_steps=1, **HALF, **inputs)
        outcomes = [go(spec)]
        for number in range(1, 4):
            spec = after(spec, tmp_path / f"{name}-{number}", carry=carry)
            outcomes.append(go(spec))
            assert outcomes[-1]["first"]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # of the rounded model
        moved[name] = distance(masters_of(Path(spec.folder)), start)
    count = sum(tensor.numel() for tensor in start.values())
    whole = 4 * 4e-5 * math.sqrt(count)  # Adam's first update moves every weight by the rate, whichever way
    assert 0.6 * whole < moved["carried"] <= whole * 1.01
    assert moved["rounded"] < 0.5 * moved["carried"]


def test_a_step_begins_where_the_one_before_ended(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first = spec_of(tmp_path / "first", learning_rate=1e-4, **HALF, **inputs)
    go(first)
    outcome = go(after(first, tmp_path / "still", carry=True, learning_rate=1e-30))
    assert same(masters_of(tmp_path / "still"), masters_of(tmp_path / "first"))
    assert same(model_of(tmp_path / "still"), model_of(tmp_path / "first"))
    assert outcome["first"]["largest_h"] <= outcome["first"]["h_tolerance"]
    go(after(first, tmp_path / "rounded", carry=False, learning_rate=1e-30))
    assert same(masters_of(tmp_path / "rounded"), {k: v.float() for k, v in model_of(tmp_path / "first").items()})


def test_a_killed_step_comes_back_to_the_same_masters(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first = spec_of(tmp_path / "first", learning_rate=1e-4, **HALF, **inputs)
    go(first)
    every = Checkpoint(every=1, keep=9)
    spec = after(first, tmp_path / "second", carry=True, checkpoint=every)
    go(spec)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "second", cut)
    for name in ("model", MASTERS, "checkpoints/step-000003", "checkpoints/step-000002"):
        shutil.rmtree(cut / name)
    assert go(dataclasses.replace(spec, folder=str(cut)))["resumed_from"] == 1
    assert same(masters_of(cut), masters_of(tmp_path / "second"))
    assert same(model_of(cut), model_of(tmp_path / "second"))


def test_damaged_and_foreign_masters_are_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first = spec_of(tmp_path / "first", learning_rate=1e-4, **HALF, **inputs)
    go(first)
    spec, file = after(first, tmp_path / "second", carry=True), tmp_path / "first" / MASTERS / MASTERS_FILE
    flip(file)
    with raises("corrupt.masters", "bytes"):
        go(spec)
    foreign = {name: tensor * 1.1 for name, tensor in masters_of(tmp_path / "first").items()}
    save_file(foreign, file)
    with raises("corrupt.masters", "round to"):
        go(dataclasses.replace(spec, masters_digest=digest_file(file)))


def delta_of(folder: Path) -> dict[str, np.ndarray]:
    """What a step's adapters add to each weight: α/r · B · A, in float64 from the files beside the model."""
    held = load_file(folder / "adapter/adapter_model.safetensors")
    settings = json.loads((folder / "adapter/adapter_config.json").read_text())
    found = {}
    for name, a in held.items():
        if ".lora_A." in name:
            b = held[name.replace(".lora_A.", ".lora_B.")]
            plain = name.removeprefix("base_model.model.").replace(".lora_A", "")
            found[plain] = settings["lora_alpha"] / settings["r"] * (b.double().numpy() @ a.double().numpy())
    return found


def test_merged_adapters_are_carried_in_float32(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """LoRA after LoRA: W + ΔW₁ + ΔW₂, rounded once for each model that is published, and never for the next step."""
    start = load_file(Path(inputs["model"]) / "model.safetensors")
    first = spec_of(tmp_path / "first", lora=LORA, learning_rate=1e-3, **HALF, **inputs)
    go(first)
    go(after(first, tmp_path / "second", carry=True))
    one, two = delta_of(tmp_path / "first"), delta_of(tmp_path / "second")
    assert one.keys() == two.keys() == masters_of(tmp_path / "first").keys() == masters_of(tmp_path / "second").keys()
    for name in one:
        whole = start[name].double().numpy() + one[name]
        np.testing.assert_allclose(masters_of(tmp_path / "first")[name], whole, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(masters_of(tmp_path / "second")[name], whole + two[name], rtol=1e-6, atol=1e-7)
        assert torch.equal(masters_of(tmp_path / "second")[name].bfloat16(), model_of(tmp_path / "second")[name])
    assert any(np.abs(delta).max() > 1e-4 for delta in two.values())
    go(after(first, tmp_path / "all", carry=True, lora=None))  # and full training goes on from them
    assert masters_of(tmp_path / "all").keys() == model_of(tmp_path / "all").keys()
    go(
        after(
            changed(first, folder=str(tmp_path / "all"), lora=None),
            tmp_path / "again",
            carry=True,
            lora=LORA,
        )
    )
    again, before = masters_of(tmp_path / "again"), masters_of(tmp_path / "all")
    untouched = before.keys() - one.keys()
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in untouched)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_engine_takes_masters_and_gives_them(tmp_path: Path, world: int) -> None:
    """ZeRO 0 to 3: the next engine has the masters to the bit, forward weights as published, and goes on from there."""
    runs = [(zero, "bfloat16") for zero in (0, 1, 2, 3)]
    everywhere = by_engines(tmp_path, runs, world)
    for (zero, dtype), found in zip(runs, everywhere, strict=True):
        where = f"ZeRO {zero}, {dtype}, {world} workers"
        masters, weights = found["masters"], found["weights"]
        assert same(found["carried"]["begun"]["masters"], masters), where
        assert same(found["carried"]["begun"]["weights"], weights), where
        assert all(torch.equal(masters[name].bfloat16(), weights[name]) for name in masters), where
        assert same(found["rounded"]["begun"]["masters"], {k: weights[k].float() for k in masters}), where
        gained = distance(masters, {k: weights[k].float() for k in masters})
        off = distance(found["carried"]["after"], everywhere[0]["carried"]["after"])
        assert off < 0.1 * distance(found["carried"]["after"], masters) < gained, where
        assert distance(found["rounded"]["after"], found["carried"]["after"]) > 0.5 * gained, where


@pytest.mark.slow
def test_a_checkpoint_of_adapters_holds_no_frozen_weight(tmp_path: Path) -> None:
    """A tied embedding has two names: under either it is most of what a small adapter's checkpoint would be."""
    names = by_engines(tmp_path, [], 1)
    assert names and all("lora_" in name for name in names), names
