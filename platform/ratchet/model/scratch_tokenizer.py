"""The tokenizer of a small Llama made here, trained on the plan's own text. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ratchet.pairs.chat import template_text
from ratchet.pairs.lean import tokenizer_base
from ratchet.plan.model import Scratch

PAD, BOS, TURN, END = "<|pad|>", "<|begin|>", "<|turn|>", "<|end|>"
"""The special tokens, ids 0 to 3. END ends a turn and is the tokenizer's EOS."""


def write_scratch_tokenizer(spec: Scratch, texts: Iterable[str], folder: Path) -> int:
    """Write a byte-level BPE tokenizer and its chat template into a folder; return how many tokens it has.

    The same spec and texts give the same bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
    tokenizer = tokenizer_base()(
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
