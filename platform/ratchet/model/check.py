"""Whether a model folder can be used, found out before anything is trained. Loads no weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from ratchet.errors import ModelError
from ratchet.model.digest import stored_tensors
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.render import find_style
from ratchet.pairs.tokenizer import load_tokenizer, read_json


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """`vocabulary` in tokens, `parameters` as stored, `longest` sequence in tokens (None: no limit),
    `bytes` of all weight files.
    """

    vocabulary: int
    parameters: int
    longest: int | None
    architecture: str
    bytes: int


def check_model(folder: Path, chat_template: ChatTemplate | None) -> ModelFacts:
    """Return a model's facts, read from headers and JSON.

    Raises ModelError where the folder is missing, its weights are missing or pickles, config.json is
    no causal language model's, or the tokenizer is missing, has no EOS, no usable chat template, or
    ids beyond the model's vocabulary; CorruptError where a weight file is cut.
    """
    tensors = stored_tensors(folder)
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)
    architecture = next(iter(config.get("architectures") or ()), "")
    if "vocab_size" not in text or not architecture:
        raise ModelError(
            "config.json names no architecture or no vocab_size",
            where=str(folder / "config.json"),
            fix="give the folder of a causal language model",
        )
    if "CausalLM" not in architecture and "LMHead" not in architecture and "ConditionalGeneration" not in architecture:
        raise ModelError(f"{architecture} is no causal language model", where=str(folder), fix="give one that is")
    vocabulary = int(text["vocab_size"])
    _check_tokenizer(folder, chat_template, vocabulary)
    longest = text.get("max_position_embeddings") or text.get("n_positions")
    return ModelFacts(
        vocabulary=vocabulary,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        longest=None if longest is None else int(longest),
        architecture=architecture,
        bytes=sum(file.stat().st_size for file in {tensor.file for tensor in tensors.values()}),
    )


def _check_tokenizer(folder: Path, chat_template: ChatTemplate | None, vocabulary: int) -> None:
    tokenizer = load_tokenizer(folder, chat_template)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "its tokenizer has no EOS token",
            where=str(folder / "tokenizer_config.json"),
            fix="set eos_token to the token that ends an answer",
        )
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= vocabulary:
        raise ModelError(
            f"its tokenizer has the id {largest} ({token!r}) but the model knows ids 0 to {vocabulary - 1}",
            where=str(folder),
            fix="use the model's own tokenizer, or resize the model's embeddings",
        )
    find_style(tokenizer)
