"""Merges of models that are stored otherwise than each other: the start model often is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raised import raises
from ratchet.model.export import save_model
from ratchet.model.folder import digest_model
from ratchet.model.load import load_model
from ratchet.model.merge import check_start, merge_models
from ratchet.model.scratch import make_scratch
from ratchet.pipeline.context import Run
from ratchet.pipeline.prepare import check_merges
from ratchet.plan.model import Scratch
from ratchet.plan.schema import Plan
from ratchet.reference.models import Model
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from tests.train.test_publish_rehearsal import edit, in_fp8
from tiny_models import CONFIGS, tiny

SPEC = Scratch(
    tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=2, heads=4, key_value_heads=2, intermediate_size=24
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A start model in float32, whose output layer is its embedding."""
    make_scratch(SPEC, ["What is 12 + 30?", "12 + 30 = 42."] * 9, tmp_path / "base")
    return tmp_path / "base"


def made(base: Path, out: Path, dtype: str = "bfloat16") -> Path:
    """A model as a step makes it: loaded in the plan's precision, changed, published."""
    model = load_model(base, dtype)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.mul_(1 + 0.01 * number)
    save_model(model, base, out, "# card")
    return out


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("first", ["step", "base"])
@pytest.mark.parametrize("twice", [False, True])
def test_a_base_in_another_precision_is_averaged_in_float32(
    base: Path, tmp_path: Path, first: str, twice: bool
) -> None:
    step = made(base, tmp_path / "step")
    if twice:  # many folders store a tied output layer beside the embedding
        weights = stored(base)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    order = [step, base] if first == "step" else [base, step]
    merge_models(order, (3.0, 1.0), tmp_path / "out", like=order.index(step))
    whole = {name: tensor.double() for name, tensor in stored(base).items()}
    half = {name: tensor.double() for name, tensor in stored(step).items()}
    shares = dict(zip(order, (0.75, 0.25), strict=True))
    found = stored(tmp_path / "out")
    assert found.keys() == half.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        wanted = shares[base] * whole[name] + shares[step] * half[name]
        np.testing.assert_allclose(tensor.double(), wanted, rtol=2**-8, atol=1e-30, err_msg=name)  # rounded once
    load_model(tmp_path / "out", "bfloat16")
    same = tmp_path / "same"
    merge_models([step, step], (1.0, 1.0), same)
    assert digest_model(same) == digest_model(step)


def test_precision_in_the_settings_of_parts_does_not_part_a_child_from_its_base(base: Path, tmp_path: Path) -> None:
    step = made(base, tmp_path / "step")
    for folder, dtype in ((base, "float32"), (step, "bfloat16")):
        edit(folder / "config.json", vision_config={"dtype": dtype, "depth": 2, "attention_dropout": 0.1})
    merge_models([step, base], (1.0, 1.0), tmp_path / "out")
    edit(base / "config.json", vision_config={"dtype": "float32", "depth": 3})
    with raises("model.merge", "vision_config"):
        merge_models([step, base], (1.0, 1.0), tmp_path / "other")


def run_of(base: Path, *of: str) -> Run:
    """A run whose start model is known, of a plan that merges."""
    align = {"kind": "dpo", "data": ["sums"]}
    plan = Plan.model_validate(
        {
            "name": "x",
            "model": {"path": str(base), "dtype": "bfloat16"},
            "data": {"sums": {"path": "sums.jsonl"}},
            "stages": {"align": align, "other": align, "blend": {"kind": "merge", "of": list(of)}},
        }
    )
    weights = digest_model(base)
    models = {"base": Model("base", base, weights, weights, "bfloat16")}
    return Run(plan, Layout(base), Console(), False, None, models=models)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_can_be_averaged_with_its_start(tmp_path: Path, family: str) -> None:
    tiny(family, torch.float32).save_pretrained(tmp_path)
    check_merges(run_of(tmp_path, "align", "base"))


def test_a_start_that_cannot_be_averaged_is_told_at_the_start(tmp_path: Path) -> None:
    tiny("qwen3", torch.float32).save_pretrained(tmp_path)
    in_fp8(tmp_path)
    check_merges(run_of(tmp_path, "align", "other"))
    with raises("model.merge", "weight_scale_inv") as caught:
        check_merges(run_of(tmp_path, "align", "base"))
    assert caught.value.where == "stages.blend.of" and "leave base out" in caught.value.fix
    config = json.loads((tmp_path / "config.json").read_text())
    assert re.search("fp8", str(config))
    with raises("model.merge"):
        check_start(tmp_path, "float32", "stages.x.of")
