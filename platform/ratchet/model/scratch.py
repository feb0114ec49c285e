"""A small Llama made here: tokenizer trained on the plan's own text, weights from a seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from ratchet.model.scratch_tokenizer import write_scratch_tokenizer
from ratchet.pairs.lean import lean_transformers
from ratchet.plan.model import Scratch


def make_scratch(spec: Scratch, texts: Iterable[str], folder: Path) -> None:
    """Write a whole model folder: byte-level BPE tokenizer, weights, configuration, chat template.

    The same spec and texts give the same bytes, and no random state outside is read or changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = write_scratch_tokenizer(spec, texts, folder)
    _write_model(spec, tokens, folder)


def _write_model(spec: Scratch, tokens: int, folder: Path) -> None:
    lean_transformers()
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.key_value_heads,
        max_position_embeddings=spec.max_positions,
        tie_word_embeddings=spec.tie_embeddings,
        **ends,
    )
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(str(folder))
