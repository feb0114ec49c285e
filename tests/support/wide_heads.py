"""The same model with wider attention heads, for engines whose kernels know only some widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig


def widen_heads(source: Path, target: Path, width: int) -> Path:
    """Write the Llama at `source` with heads of `width`, zeros in the new dimensions, and return `target`.

    It is the same function, up to rounding. Dimension i of a head turns with frequency theta^(-2i/D), so it must go
    where the wider head has that frequency: to i·width/D of its half. The scores are divided by sqrt(width) in place
    of sqrt(D), so the queries grow by the root of the ratio.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    old: Any = model.config
    ratio = width // old.head_dim
    half = torch.arange(old.head_dim // 2) * ratio
    places = torch.cat([half, half + width // 2])  # where the old dimensions lie in the new head
    weights = model.state_dict()
    for name, weight in weights.items():
        kind = name.split(".")[-2]
        if kind in {"q_proj", "k_proj", "v_proj"}:
            heads = weight.unflatten(0, (-1, old.head_dim))
            wide = heads.new_zeros(len(heads), width, heads.shape[2])
            wide[:, places] = heads * (ratio**0.5 if kind == "q_proj" else 1.0)
            weights[name] = wide.flatten(0, 1)
        elif kind == "o_proj":
            heads = weight.unflatten(1, (-1, old.head_dim))
            wide = heads.new_zeros(len(heads), heads.shape[1], width)
            wide[:, :, places] = heads
            weights[name] = wide.flatten(1, 2)
    config = LlamaConfig.from_dict({**old.to_dict(), "head_dim": width})
    wider = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    wider.load_state_dict(weights)
    wider.generation_config = model.generation_config
    wider.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target
