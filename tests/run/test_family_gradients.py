"""What is trained gets a gradient: else weight decay alone would change it, and no adapter on it would learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MllamaForConditionalGeneration

from family_configs import FIRST, VOCABULARY, families, tiny_config, write_tiny
from family_table import read_rows
from ratchet.model.load import load_model
from ratchet.model.lora import add_lora
from ratchet.model.passport import passport_of
from ratchet.plan.training import Lora

HELD = ("axk2", "bart", "deepseek_v32", "git", "glm_moe_dsa", "hy_v4", "whisper")
"""Families with weights to which no gradient comes: an indexer, attention to an encoder, a tower in the decoder."""
LEFT = {
    "deepseek_v4": "its compressors see rows of more tokens than these",
    "marian": "its table of sines is a weight",
    "pegasus": "its table of sines is a weight",
}
CHANCE = "experts"
"""No token may go to one of them."""


def without_gradient(model: Any) -> list[str]:
    torch.manual_seed(0)
    ids = torch.randint(FIRST, VOCABULARY, (4, 70))
    logps = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    logps[:, :-1].gather(-1, ids[:, 1:, None]).sum().backward()
    trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return [name for name, weight in trained if weight.grad is None and CHANCE not in name]


def adapted(model: Any) -> Any:
    found = add_lora(model, Lora(rank=2))
    for name, weight in found.named_parameters():
        if "lora_B" in name:  # else no gradient comes to what stands before it
            nn.init.normal_(weight, std=0.1)
    return found


def assert_all_get_one(family: str, folder: Path) -> None:
    write_tiny(family, folder)
    assert without_gradient(load_model(folder, "float32")) == []
    assert without_gradient(adapted(load_model(folder, "float32"))) == []


@pytest.mark.heavy
@pytest.mark.parametrize("family", HELD)
def test_what_gets_no_gradient_is_not_trained_and_the_passport_says_so(family: str, tmp_path: Path) -> None:
    assert_all_get_one(family, tmp_path)
    model = load_model(tmp_path, "float32")
    trained, held = (sum(w.numel() for w in model.parameters() if w.requires_grad == kind) for kind in (True, False))
    said = sum(part.parameters for part in passport_of(tmp_path).parts if part.fate == "trained")
    assert held > 0 and said == trained


@pytest.mark.heavy
def test_layers_that_see_pictures_alone_are_not_trained(tmp_path: Path) -> None:
    config = tiny_config("mllama")
    config.text_config.cross_attention_layers = [1]
    torch.manual_seed(0)
    MllamaForConditionalGeneration(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float32")
    assert without_gradient(model) == []
    held = {name for name, weight in model.named_parameters() if ".layers.1." in name and "language" in name}
    assert held and all(not model.get_parameter(name).requires_grad for name in held)
    parts = {part.name: part for part in passport_of(tmp_path).parts}
    assert parts["cross-attention"].fate == "held" and parts["cross-attention"].tensors == len(held)
    assert without_gradient(adapted(load_model(tmp_path, "float32"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in families() if name not in {*HELD, *LEFT}])
def test_every_trained_weight_and_every_adapter_of_a_family_gets_a_gradient(family: str, tmp_path: Path) -> None:
    row = read_rows()[family]
    if row.works("trains"):
        assert_all_get_one(family, tmp_path)
