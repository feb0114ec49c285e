"""Tiny folders of today's families as the hub lays them out: wrappers of text models that see, with all their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from ratchet.model.scratch import make_scratch
from ratchet.plan.model import Scratch

VOCABULARY = 300
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
WIDE = {**TEXT, "head_dim": 16}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURE = {"image_size": 28, "patch_size": 14}
DEEP = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 24}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LLAMA4 = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 24, "attention_chunk_size": 128}
SEEN_BY_LLAMA4 = {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}


def _rope(*sections: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 1e4}}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**WIDE, "sliding_window": 64},
            "vision_config": {**TOWER, **PICTURE, "vision_use_head": False},
            "mm_tokens_per_image": 4,
        },
    ),
    "qwen3_5": (
        "Qwen3_5ForConditionalGeneration",
        {
            "text_config": {**WIDE, **DELTA, "layer_types": ["linear_attention", "full_attention"]},
            "vision_config": {**DEEP, "num_position_embeddings": 16},
        },
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {**WIDE, "model_type": "mistral", "sliding_window": None},
            "vision_config": {**TOWER, **PICTURE, "head_dim": 8, "model_type": "pixtral"},
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": {**TEXT, **_rope(2, 1, 1)}, "vision_config": DEEP},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {**WIDE, **_rope(4, 2, 2)},
            "vision_config": {**DEEP, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        },
    ),
    "llama4": (
        "Llama4ForConditionalGeneration",
        {"text_config": {**WIDE, **LLAMA4}, "vision_config": {**TOWER, **PICTURE, **SEEN_BY_LLAMA4}},
    ),
}
"""Each family's class, and what its config.json says."""
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_oss": (
        "GptOssForCausalLM",
        {**WIDE, "intermediate_size": 32, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 64},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "phimoe": (
        "PhimoeForCausalLM",
        {
            **TEXT,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": None,
            "router_jitter_noise": 0.1,
            "input_jitter_noise": 0.1,
        },
    ),
}
"""Families of texts alone."""
BESIDE = ("preprocessor_config.json", "processor_config.json", "LICENSE", "additional_chat_templates/tool_use.jinja")
"""Files of a processor and of a repository, which a published folder must have too."""
SPARE = {"mtp.fc.weight": (32, 64), "mtp.norm.weight": (32,)}
"""Layers for predicting several tokens, which transformers leaves in the folder."""


def write_family(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> None:
    """Write a model of the family with random weights in `dtype`, a tokenizer, a chat template and all other files."""
    spec = Scratch(tokenizer_from=("a",), vocab_size=VOCABULARY, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    make_scratch(spec, ["What is 12 + 30?", "How are you today?"] * 9, folder)
    name, settings = (FAMILIES | TEXTS)[family]
    torch.manual_seed(3)
    model: Any = getattr(transformers, name)(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim > 1 and "conv" not in key:
                nn.init.normal_(weight, std=0.12)
            else:
                weight.add_(torch.randn_like(weight) * 0.03)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)  # `to` would round Llama 4's complex frequencies of pictures
    model.save_pretrained(folder)
    for file in BESIDE:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps({"of": file}))
    if family == "qwen3_5":
        weights = load_file(folder / "model.safetensors")
        weights |= {key: torch.randn(shape).bfloat16() for key, shape in SPARE.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
