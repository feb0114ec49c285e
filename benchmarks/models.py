"""The models that are measured, all with random weights: a Llama of 30 million parameters for CPUs, Llamas of
0.5 to 3 billion for GPUs (parameters with a vocabulary of 128,000), and a tiny one to try things out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.shapes import END, PAD

Precision = Literal["float32", "bfloat16", "autocast"]
"""How numbers are kept. `bfloat16`: weights and activations; `autocast`: float32 weights, bfloat16 matrix products."""

Device = Literal["cpu", "cuda"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "autocast")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What decides the arithmetic of a Llama."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocab: int


def names() -> list[str]:
    """Return the names that `sizes` knows."""
    return list(_NAMED)


def sizes(model: str, vocab: int) -> Sizes:
    """Return the sizes of a named model with a vocabulary of `vocab`."""
    return dataclasses.replace(_NAMED[model], vocab=vocab)


_NAMED: Mapping[str, Sizes] = {
    "30m": Sizes(hidden=384, layers=6, heads=6, key_value_heads=6, head_dim=64, intermediate=1024, vocab=0),
    "150m": Sizes(hidden=1024, layers=8, heads=16, key_value_heads=8, head_dim=64, intermediate=2816, vocab=0),
    "0.5b": Sizes(hidden=1024, layers=20, heads=16, key_value_heads=8, head_dim=64, intermediate=2816, vocab=0),
    "1b": Sizes(hidden=2048, layers=16, heads=32, key_value_heads=8, head_dim=64, intermediate=5632, vocab=0),
    "3b": Sizes(hidden=2560, layers=28, heads=20, key_value_heads=4, head_dim=128, intermediate=8192, vocab=0),
    "tiny": Sizes(hidden=32, layers=2, heads=4, key_value_heads=2, head_dim=8, intermediate=48, vocab=0),
}


def build(of: Sizes, precision: Precision, device: Device = "cpu", seed: int = 0) -> LlamaForCausalLM:
    """Return the model with the weights that `seed` decides; its head is its own, not the embedding's."""
    config = LlamaConfig(
        vocab_size=of.vocab,
        hidden_size=of.hidden,
        intermediate_size=of.intermediate,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        num_key_value_heads=of.key_value_heads,
        head_dim=of.head_dim,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
