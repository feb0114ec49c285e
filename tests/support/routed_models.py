"""Tiny models of the families whose experts are balanced by a loss, and pairs as sequences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from transformers import (
    Ernie4_5_MoeConfig,
    FlexOlmoConfig,
    GptOssConfig,
    GraniteMoeConfig,
    JambaConfig,
    JetMoeConfig,
    MiniMaxM2Config,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ratchet.pairs.pair import TokenisedPair
from tiny_models import CONFIGS as TINY
from tiny_models import ENDS, GROUPED, exact_norms

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, Any] = {
    "ernie": Ernie4_5_MoeConfig(
        **GROUPED, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1
    ),
    "flex-olmo": FlexOlmoConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "gpt-oss": GptOssConfig(**GROUPED, **EXPERTS, head_dim=8, sliding_window=64),
    "granite": GraniteMoeConfig(**GROUPED, **EXPERTS),
    "jamba": JambaConfig(
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "jetmoe": JetMoeConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, kv_channels=4, intermediate_size=24, **EXPERTS, **ENDS
    ),
    "minimax-m2": MiniMaxM2Config(**GROUPED, **EXPERTS, head_dim=8, rotary_dim=4),
    "mixtral": TINY["mixtral"],
    "olmoe": OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "phimoe": PhimoeConfig(**GROUPED, **EXPERTS, sliding_window=None),
    "qwen2-moe": Qwen2MoeConfig(**GROUPED, **MOE, shared_expert_intermediate_size=16),
    "qwen3-moe": Qwen3MoeConfig(**GROUPED, **MOE, head_dim=8),
}


def made(family: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(2)
    config = copy.deepcopy(CONFIGS[family])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "A_log" not in name:
                weight.normal_(std=0.3)
    return exact_norms(model) if dtype == torch.float64 else model


def sequences(pairs: list[TokenisedPair]) -> list[torch.Tensor]:
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected) if len(side)]
    return [torch.tensor(np.concatenate(side)[None].astype(np.int64)) for side in sides]
