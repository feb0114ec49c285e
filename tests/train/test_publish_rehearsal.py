"""Publishing is tried before the first step, and what is published is the start model's folder with other weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, Qwen3MoeConfig
from transformers.core_model_loading import WeightRenaming
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from raised import raises
from ratchet.documents.passport import passport_in_words
from ratchet.model.export import save_model, try_saving
from ratchet.model.folder import model_folder
from ratchet.model.load import load_model, skeleton
from ratchet.model.lora import add_lora, merge_lora, try_merge
from ratchet.model.passport import passport_of
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import chat_template_of, template_text
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.plan.model import ModelSpec, Scratch
from ratchet.plan.training import Lora
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.publish import check_room
from stored_weights import edit, in_fp8, in_mxfp4
from tiny_models import CONFIGS, GROUPED, tiny
from train_bench import CPU, spec_of, train_whole, write_inputs

MOE = Qwen3MoeConfig(**GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
DROPOUT = {"attention_dropout": 0.3, "embd_pdrop": 0.25, "resid_pdrop": 0.2, "attn_pdrop": 0.1, "dropout": 0.15}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("family", CONFIGS)
def test_settings_are_published_as_they_came(tmp_path: Path, family: str) -> None:
    """All of config.json, dropout and unknown keys too; only the precision is the weights' own."""
    source, out = tmp_path / "source", tmp_path / "out"
    tiny(family, torch.float32).save_pretrained(source)
    known = json.loads((source / "config.json").read_text())
    dropout = {key: value for key, value in DROPOUT.items() if key in known}
    edit(source / "config.json", **dropout, a_note="mine", initializer_range=0.02)
    model = load_model(source, "bfloat16")
    try_saving(model, source)
    save_model(model, source, out, "# card")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, out))
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == {"dtype"}
    assert after["dtype"] == "bfloat16" and after["a_note"] == "mine"
    again = load_model(out, "bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_code_that_is_not_trusted_is_not_published(tmp_path: Path) -> None:
    tiny("llama", torch.float32).save_pretrained(tmp_path / "source")
    edit(tmp_path / "source/config.json", auto_map={"AutoModelForCausalLM": "theirs.Model"})
    save_model(load_model(tmp_path / "source", "float32"), tmp_path / "source", tmp_path / "out", "# card")
    assert "auto_map" not in json.loads((tmp_path / "out/config.json").read_text())


def gpt_oss() -> Any:
    small = {**GROUPED, "hidden_size": 32, "intermediate_size": 32}
    config = GptOssConfig(**small, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=64)
    return AutoModelForCausalLM.from_config(config)


STORED = {
    "FP8": (lambda: tiny("qwen3", torch.float32), in_fp8),
    "MXFP4": (gpt_oss, in_mxfp4),
}


@pytest.mark.parametrize("precision", STORED)
def test_quantised_storage_is_undone_said_and_published_plainly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, precision: str
) -> None:
    make, rewrite = STORED[precision]
    source, out = tmp_path / "source", tmp_path / "out"
    make().save_pretrained(source)
    meant = rewrite(source)
    with caplog.at_level(logging.WARNING):
        model = load_model(source, "bfloat16")
    assert f"is stored in {precision}: it is held, trained and published in bfloat16" in caplog.text
    try_saving(model, source)
    save_model(model, source, out, "# card")
    written = load_file(out / "model.safetensors")
    assert written.keys() == meant.keys() and "quantization_config" not in json.loads((out / "config.json").read_text())
    for name, weight in written.items():
        np.testing.assert_allclose(weight.double(), meant[name].double(), rtol=2**-8, atol=1e-30, err_msg=name)
    load_model(out, "bfloat16")


_DRAW = torch.Generator().manual_seed(3)
SPARE = {
    "mtp.layers.0.up_proj.weight": torch.randn(16, 24, generator=_DRAW),
    "mtp.layers.0.norm.weight": torch.randn(16, generator=_DRAW),
}


def with_spare_in_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Write a model in FP8 with a layer for several tokens; return the weights that it stands for."""
    tiny("qwen3", torch.float32).save_pretrained(folder)
    save_file(load_file(folder / "model.safetensors") | SPARE, folder / "model.safetensors", metadata={"format": "pt"})
    return in_fp8(folder)


@pytest.mark.parametrize(("dtype", "rounding"), [("bfloat16", 2**-8), ("float32", 2**-23)])
def test_layers_for_several_tokens_in_fp8_are_published_in_the_precision_of_the_rest(
    tmp_path: Path, dtype: str, rounding: float
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    meant = with_spare_in_fp8(source)
    model = load_model(source, dtype)
    try_saving(model, source)
    save_model(model, source, out, "# card")
    written = {name: weight for file in out.glob("*.safetensors") for name, weight in load_file(file).items()}
    assert written.keys() == meant.keys()
    for name, weight in written.items():
        np.testing.assert_allclose(weight.double(), meant[name].double(), rtol=rounding, atol=1e-30, err_msg=name)
    first, second = SPARE
    assert str(written[first].dtype) == f"torch.{dtype}" and torch.equal(written[second], SPARE[second])
    assert [part.fate for part in passport_of(source).parts if part.name == "more tokens"] == ["undone"]
    load_model(out, dtype)


@pytest.mark.parametrize("scale", [None, torch.ones(3, 3), torch.ones(1, 2, 3), torch.ones(4, 3)])
def test_layers_for_several_tokens_that_nobody_can_undo_are_lost_and_that_is_said(
    tmp_path: Path, scale: torch.Tensor | None
) -> None:
    """Without scales, or with such as do not divide them into equal blocks of the size that the settings name."""
    source, out = tmp_path / "source", tmp_path / "out"
    with_spare_in_fp8(source)
    weights, name = load_file(source / "model.safetensors"), "mtp.layers.0.up_proj.weight_scale_inv"
    weights |= {} if scale is None else {name: scale}
    stored = {key: weight for key, weight in weights.items() if key != name or scale is not None}
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    (part,) = (part for part in passport_of(source).parts if part.name == "more tokens")
    assert (part.fate, part.parameters) == ("lost", 16 * 24 + 16)
    assert any("not loaded and not published" in line for line in passport_in_words(passport_of(source)))
    save_model(load_model(source, "bfloat16"), source, out, "# card")
    assert not any("mtp" in key for file in out.glob("*.safetensors") for key in load_file(file))


def test_what_cannot_be_saved_is_told_before(tmp_path: Path) -> None:
    tiny("llama", torch.float32).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float32")
    model._weight_conversions = [WeightRenaming("up_proj_of_old", "up_proj")]  # what is written has another name
    with raises("model.unpublishable", "model.layers.0.mlp.up_proj"):
        try_saving(model, tmp_path)
    model = load_model(tmp_path, "float32")
    model.hf_quantizer = object()
    with raises("model.unpublishable"):
        try_saving(model, tmp_path)
    model = load_model(tmp_path, "float32")
    edit(tmp_path / "config.json", rms_norm_eps=1e-3)  # changed meanwhile
    with raises("model.unpublishable", "rms_norm_eps"):
        try_saving(model, tmp_path)


def test_a_skeleton_can_be_tried_too(tmp_path: Path) -> None:
    """Weights that bitsandbytes holds are not those that are published."""
    tiny("qwen2", torch.float32).save_pretrained(tmp_path)
    hollow = skeleton(tmp_path, "bfloat16")
    try_saving(hollow, tmp_path)
    assert all(weight.is_meta for weight in hollow.parameters()), "trying made no weights"


def test_a_damaged_tokenizer_stops_before_the_first_step(tmp_path: Path) -> None:
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    make_scratch(spec, ["What is 12 + 30?"] * 9, tmp_path)
    model = load_model(tmp_path, "float32")
    try_saving(model, tmp_path, chat_template=template_text("plain"))
    (tmp_path / "tokenizer.json").write_text("{")
    with raises("model.no-tokenizer"):
        try_saving(model, tmp_path)


def test_a_worker_tries_it_before_its_first_step(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    shutil.copytree(inputs["model"], start)
    (start / "tokenizer_config.json").write_text("{}")
    for adapters in (None, Lora(rank=2)):
        spec = spec_of(tmp_path / "run", lora=adapters, **{**inputs, "model": str(start)})
        with raises("model.no-tokenizer"):
            train_whole(spec, Alone(), CPU, TorchEngine)
    (start / "tokenizer_config.json").unlink()
    monkeypatch.setattr("ratchet.store.files.shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 50_000))
    with raises("storage.no-room", "0.1 MB"):
        train_whole(spec_of(tmp_path / "run", **{**inputs, "model": str(start)}), Alone(), CPU, TorchEngine)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_room_is_told_in_figures(tmp_path: Path) -> None:
    check_room(tmp_path, 1)
    with raises("storage.no-room", "GB"):
        check_room(tmp_path, 10**14)


def moe(tmp_path: Path, dtype: str = "float32") -> Any:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(MOE).save_pretrained(tmp_path)
    return load_model(tmp_path, dtype)


def test_adapters_of_experts_are_merged(tmp_path: Path) -> None:
    """all-linear reaches experts, which are one parameter of three dimensions and not a linear layer."""
    model = add_lora(moe(tmp_path), Lora(rank=2, alpha=4.0))
    try_merge(model)
    names = {name for name, _ in model.named_modules()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    tokens = torch.randint(3, 61, (1, 9))
    with torch.no_grad():
        adapted = model(input_ids=tokens, use_cache=False).logits
        merged = merge_lora(model)(input_ids=tokens, use_cache=False).logits
        plain = load_model(tmp_path, "float32")(input_ids=tokens, use_cache=False).logits
    assert any("experts" in name for name in names) and (adapted - plain).abs().max() > 0.01
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trying_a_merge_changes_no_bit(tmp_path: Path, dtype: str) -> None:
    model = add_lora(moe(tmp_path, dtype), Lora(rank=2))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    try_merge(model)
    after = model.state_dict()
    assert all(
        torch.equal(weight, after[name]) and weight.dtype == after[name].dtype for name, weight in before.items()
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(1.0)
    with raises("model.adapter", "an adapter that is 0"):
        try_merge(model)


def test_no_path_that_a_worker_gets_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many = ("a/b",)
    fields = {"rows": "a/b", "stop_file": "a/b", "lease": "a/b", "model": "a/b", "folder": "a/b"}
    lists = dict.fromkeys(("tokens", "references", "heldout_tokens", "heldout_references"), many)
    made = spec_of(tmp_path, **{key: value for key, value in {**fields, **lists}.items() if key != "folder"})
    spec = dataclasses.replace(made, folder="a/b").absolute()
    values = [getattr(spec, field.name) for field in dataclasses.fields(spec)]
    assert "a/b" not in values and many not in values and spec.rows == str(tmp_path / "a/b")
    (tmp_path / "chat.jinja").write_text("x")
    assert chat_template_of(ModelSpec(path="model", chat_template="chat.jinja")).text == "x", "its text, and no path"
    (tmp_path / "model").mkdir()
    assert model_folder(ModelSpec(path="model")) == tmp_path / "model"


def test_the_plans_template_goes_along(tmp_path: Path) -> None:
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    make_scratch(spec, ["What is 12 + 30?"] * 9, tmp_path / "source")
    model = load_model(tmp_path / "source", "float32")
    save_model(model, tmp_path / "source", tmp_path / "out", "# card", chat_template="{{ messages }}")
    assert load_tokenizer(tmp_path / "out", None).chat_template == "{{ messages }}"
