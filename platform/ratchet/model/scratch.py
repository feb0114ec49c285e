"""A small Llama made here: tokenizer trained on the plan's own text, weights from a seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from ratchet.pairs.chat import template_text
from ratchet.pairs.lean import lean_transformers
from ratchet.plan.model import Scratch

PAD, BOS, TURN, END = "<|pad|>", "<|begin|>", "<|turn|>", "<|end|>"
"""The special tokens, ids 0 to 3. END ends a turn and is the tokenizer's EOS."""


def make_scratch(spec: Scratch, texts: Iterable[str], folder: Path) -> None:
    """Write a whole model folder: byte-level BPE tokenizer, weights, configuration, chat template.

    The same spec and texts give the same bytes, and no random state outside is read or changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(spec, texts, folder)
    _write_model(spec, tokens, folder)


def _write_tokenizer(spec: Scratch, texts: Iterable[str], folder: Path) -> int:
    lean_transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    # Digits stand alone, so that a number is read and written place by place.
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[PAD, BOS, TURN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        model_max_length=spec.max_positions,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template_text("scratch")
    tokenizer.save_pretrained(str(folder))
    return inner.get_vocab_size()


def _write_model(spec: Scratch, tokens: int, folder: Path) -> None:
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
