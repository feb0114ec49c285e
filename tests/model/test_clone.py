"""Small models of a large one's kind: every kind of layer is there, whatever the family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as auto

from nightly import nightly
from ratchet.model.clone import _shallower_towers, layers_needed, write_clone
from ratchet.model.folder import stored_tensors
from ratchet.model.load import load_model, skeleton

pytestmark = pytest.mark.heavy

NARROW = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
LARGE: dict[str, tuple[dict[str, Any], int]] = {
    "llama": ({**NARROW, "vocab_size": 128_256, "num_hidden_layers": 80}, 2),
    "gemma3_text": ({**NARROW, "num_hidden_layers": 26}, 6),  # the sixth is the first that sees all
    "mixtral": ({**NARROW, "num_hidden_layers": 32}, 2),
    "qwen3_moe": ({**NARROW, "num_experts": 128, "num_hidden_layers": 94}, 2),
    "qwen3_next": ({**NARROW, "num_experts": 512, "num_hidden_layers": 48, **DELTA}, 4),
    "deepseek_v3": ({"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 61, "kv_lora_rank": 16}, 4),
    "gpt_oss": ({**NARROW, "num_hidden_layers": 36}, 2),
    "jamba": ({**NARROW, "num_hidden_layers": 32}, 5),
    "gemma4_text": ({**NARROW, "num_hidden_layers": 30}, 6),
}
"""Families with settings of their real depth, and how many of their first layers have every kind."""


def write_settings(folder: Path, family: str, **settings: Any) -> Path:
    """Write the settings of a model, and no weight: a clone reads none."""
    folder.mkdir()
    config = CONFIG_MAPPING[family](**settings)
    config.architectures = [auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]]
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    return folder


@pytest.mark.parametrize("family", nightly(list(LARGE), lambda family: family in {"gemma3_text", "deepseek_v3"}))
def test_a_clone_has_every_kind_of_layer_and_little_else(tmp_path: Path, family: str) -> None:
    settings, layers = LARGE[family]
    source = write_settings(tmp_path / "source", family, **settings)
    state = torch.get_rng_state()
    found = write_clone(source, tmp_path / "clone", "bfloat16")
    assert found is not None and torch.equal(state, torch.get_rng_state())
    assert (found.layers, found.of) == (layers, settings["num_hidden_layers"])
    model, whole = load_model(tmp_path / "clone", "bfloat16"), skeleton(source, "bfloat16")
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert type(model) is type(whole) and 50 * found.parameters < sum(weight.numel() for weight in whole.parameters())
    kinds = lambda one: {type(part) for part in one.modules()}  # noqa: E731
    assert kinds(model) == kinds(whole)


def test_no_weight_is_one_that_a_class_would_fill_in(tmp_path: Path) -> None:
    """A tensor of zeros or ones that is lost would come back as it was."""
    source = write_settings(tmp_path / "source", "qwen2", vocab_size=500, hidden_size=64, num_hidden_layers=12)
    assert write_clone(source, tmp_path / "clone", "float32") is not None
    for name, weight in load_model(tmp_path / "clone", "float32").state_dict().items():
        assert weight.unique().numel() > weight.numel() / 4, name


def test_layers_that_come_late_are_reached(tmp_path: Path) -> None:
    kinds = ["linear_attention"] * 9 + ["full_attention"] + ["linear_attention"] * 6
    source = write_settings(
        tmp_path / "source", "qwen3_next", **NARROW, num_hidden_layers=16, layer_types=kinds, **DELTA
    )
    assert layers_needed(skeleton(source, "bfloat16")) == 10
    source = write_settings(tmp_path / "hybrid", "nemotron_h")  # four layers of three kinds
    assert layers_needed(skeleton(source, "bfloat16")) > 2


def test_layers_that_settings_count_by_twos_are_fewer_too(tmp_path: Path) -> None:
    """A block of LongCat's has two layers."""
    narrow = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 64,
        "n_routed_experts": 16,
        "moe_topk": 2,
    }
    source = write_settings(
        tmp_path / "source", "longcat_flash", **narrow, **LATENT, head_dim=8, num_layers=14, vocab_size=500
    )
    found = write_clone(source, tmp_path / "clone", "bfloat16")
    assert found is not None and (found.layers, found.of) == (2, 28)
    assert json.loads((tmp_path / "clone/config.json").read_text())["num_layers"] == 1


def test_a_tower_whose_layers_have_kinds_is_made_shallower(tmp_path: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2}
    fields = {
        "text_config": {"num_hidden_layers": 9},
        "vision_config": {**tower, "layer_types": ["full_attention"] * 6},
    }
    _shallower_towers(fields, fields["text_config"])
    assert fields["vision_config"] == {**tower, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    assert fields["text_config"] == {"num_hidden_layers": 9}


def test_settings_that_allow_no_clone_give_none(tmp_path: Path) -> None:
    source = write_settings(tmp_path / "source", "llama", **NARROW)
    fields = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(fields | {"hidden_size": "wide"}))
    assert write_clone(source, tmp_path / "clone", "bfloat16") is None


def test_a_model_too_wide_for_a_clone_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.model.clone.MOST", 1000)
    source = write_settings(tmp_path / "source", "llama", **NARROW, vocab_size=500)
    assert write_clone(source, tmp_path / "clone", "bfloat16") is None
    assert not (tmp_path / "clone/model.safetensors").exists()


def test_a_clone_stores_its_weights_under_the_names_of_the_hub(tmp_path: Path) -> None:
    source = write_settings(tmp_path / "source", "mixtral", **NARROW, num_hidden_layers=8, vocab_size=500)
    write_clone(source, tmp_path / "clone", "bfloat16")
    names = set(stored_tensors(tmp_path / "clone"))
    assert "model.layers.1.block_sparse_moe.experts.7.w3.weight" in names
