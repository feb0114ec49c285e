"""A tiny model of any family of transformers, from its configuration class and a table of small sizes.

A family is a `model_type` of transformers that has a class which predicts the next token: of texts alone, or of texts
and pictures. `family_shapes.toml` is the table: sizes by the names of settings, and what a family wants besides.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as known

from ratchet.model.scratch_tokenizer import write_scratch_tokenizer
from ratchet.plan.model import Scratch

_SHAPES = tomllib.loads((Path(__file__).parent / "family_shapes.toml").read_text(encoding="utf-8"))
VOCABULARY: int = _SHAPES["sizes"]["vocab_size"]
FIRST = 14
"""Ids below it may be special in a family."""
_MOST = 4_000_000
"""Parameters: a family of more is not tiny, and wants a row in the table."""
_LEFT = ("A_log", "conv", "e_score")
"""Weights that keep the start that their class gives them: decays, filters and biases of a choice."""


def families() -> list[str]:
    """Return every `model_type` that predicts the next token of a text, but for those that the table says no of."""
    found = {*known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    return sorted(found - _SHAPES["apart"].keys())


def apart() -> dict[str, str]:
    """Return the families that have no row, and why."""
    return dict(_SHAPES["apart"])


def class_name(family: str) -> str:
    """Return the class that folders of a family name: the one that sees, where there are two."""
    whole = known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(family)
    found = whole or known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    return str(found if isinstance(found, str) else found[0])


def tiny_config(family: str) -> Any:
    """Return a configuration of the family's class, small in every size that the table knows."""
    kind = CONFIG_MAPPING[family]
    return kind(**_settings(kind, _SHAPES["family"].get(family, {})))


def _settings(kind: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Return small settings of a configuration class, with `own` in place of the table's; `drop` names some to omit."""
    fields = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {key: size for key, size in _SHAPES["sizes"].items() if key in fields}
    if "kv_lora_rank" in fields:  # each head has keys and values of its own, made of one narrow vector
        found["num_key_value_heads"] = found["num_attention_heads"]
    if "vocab_size" not in fields:
        found |= {key: size for key, size in _SHAPES["tower"].items() if key in fields}
    found |= {key: _part(kind, key, own.get(key, {})) for key in getattr(kind, "sub_configs", None) or {}}
    found |= {key: value for key, value in own.items() if key not in found or not isinstance(value, dict)}
    return {key: value for key, value in found.items() if key not in own.get("drop", ()) and key != "drop"}


def _part(whole: Any, key: str, own: dict[str, Any]) -> dict[str, Any]:
    """Return small settings of a part of a configuration; where its class is open, that of the default is taken."""
    kind = whole.sub_configs[key]
    if not dataclasses.is_dataclass(kind) or "model_type" in own:
        named = own.get("model_type") or getattr(whole(), key).model_type
        kind = CONFIG_MAPPING[named]
    return {**_settings(kind, own), "model_type": kind.model_type}


def tiny_model(family: str) -> Any:
    """Return a model of the family in float32, with weights large enough that each token's context matters."""
    torch.manual_seed(3)
    config = tiny_config(family)
    name = class_name(family)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in getattr(transformers, name)(config).parameters())
    assert size <= _MOST, f"{family} has {size:,} parameters: give it sizes in family_shapes.toml"
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.data = weight.data.float()
            if weight.ndim > 1 and not any(part in key for part in _LEFT):
                nn.init.normal_(weight, std=0.12)
            elif not any(part in key for part in ("e_score",)):
                weight.add_(torch.randn_like(weight) * 0.03)
    return model.eval()


def write_tiny(family: str, folder: Path) -> str:
    """Write a tiny model of the family and a tokenizer as a folder; return the name of its class."""
    transformers.utils.logging.disable_progress_bar()
    model = tiny_model(family)
    model.generation_config = transformers.GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder)
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    write_scratch_tokenizer(spec, ["What is 12 + 30?", "How are you today?"] * 9, folder)
    return type(model).__name__
