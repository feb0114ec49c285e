"""The door to bitsandbytes: frozen weights in 4 or 8 bits for QLoRA."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from ratchet.errors import ModelError


def check_quantisation(kind: str, where: str) -> None:
    """Raise ModelError, naming the key at `where`, without CUDA or bitsandbytes."""
    if not torch.cuda.is_available():
        raise ModelError(
            f"weights in {kind} need a CUDA device, and there is none",
            where=where,
            fix=f"leave {where.rpartition(' ')[2]} out, or run on a GPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"weights in {kind} need bitsandbytes",
            where=where,
            fix="pip install 'ratchet-align[gpu]'",
        )


def quantisation_config(kind: str, compute_dtype: torch.dtype) -> Any:
    """Return how bitsandbytes holds the weights: `4bit` is NF4 with double quantisation (Dettmers et al.
    2023, section 3), `8bit` is LLM.int8. Raises ModelError without CUDA or bitsandbytes.
    """
    check_quantisation(kind, "lora.quantise")
    from transformers import BitsAndBytesConfig

    ways: Mapping[str, Mapping[str, Any]] = {
        "8bit": {"load_in_8bit": True},
        "4bit": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": compute_dtype,
        },
    }
    return BitsAndBytesConfig(**ways[kind])
