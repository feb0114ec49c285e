"""Whether a model folder can be used, and its sizes: from headers, its configuration class and its tokenizer.

No weights are loaded, and torch is not needed.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any

from ratchet.errors import ModelError
from ratchet.model.folder import stored_tensors
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.lean import tokenizer_class
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer, read_json
from ratchet.pairs.trust import first_words, without_code

_CAUSAL = ("CausalLM", "LMHead", "ConditionalGeneration")
_COUNTS = ("vocab_size", "max_position_embeddings", "n_positions", "num_hidden_layers")
"""Settings that are read here, and in a passport."""
_FLOATS = ("Infinity", "-Infinity", "NaN")


def text_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's text model, with what their class in transformers fills in.

    Settings that no class knows are returned as they stand. Raises ModelError.
    """
    from huggingface_hub.errors import StrictDataclassError

    fields = read_json(folder / "config.json")
    tokenizer_class()  # this imports transformers: without torch, where a command asks for that
    known = importlib.import_module("transformers").CONFIG_MAPPING
    try:
        if (kind := fields.get("model_type")) not in known:
            return _with_counts(fields.get("text_config", fields))
        said = {key: _numbers(value) for key, value in fields.items() if key != "model_type"}
        config = known[kind](**without_code(said))
        return _with_counts(config.get_text_config().to_dict())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise ModelError(
            f"its settings cannot be used: {first_words(error)}",
            where=str(folder / "config.json"),
            fix="give a model that this version of transformers knows",
            code="model.settings",
        ) from error


def _numbers(value: Any) -> Any:
    """Return a setting with the numbers for which JSON has no form, as transformers writes them."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and value["__float__"] in _FLOATS:
        return float(value["__float__"])
    return {key: _numbers(one) for key, one in value.items()}


def _with_counts(text: Any) -> dict[str, Any]:
    if not isinstance(text, dict):
        raise TypeError(f"text_config is no object but {text!r}")
    for key in _COUNTS:
        if not isinstance(text.get(key), int | None):
            raise TypeError(f"{key} is no whole number but {text[key]!r}")
    return dict(text)


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
    named = read_json(folder / "config.json").get("architectures") or ()
    architecture, text = next(iter(named), ""), text_settings(folder)
    if not text.get("vocab_size") or not architecture:
        raise ModelError(
            "config.json names no architecture or no vocab_size",
            where=str(folder / "config.json"),
            fix="give the folder of a causal language model",
            code="model.not-causal",
        )
    if not any(part in architecture for part in _CAUSAL):
        raise ModelError(
            f"{architecture} is no causal language model",
            where=str(folder),
            fix="give one that is",
            code="model.not-causal",
        )
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
            code="model.no-end",
        )
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= vocabulary}
    # A special token, such as Gemma's for a picture, stands in no text unless a person writes it.
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for number in sorted({*beyond} - special | {*beyond} & {tokenizer.eos_token_id, tokenizer.bos_token_id}):
        raise ModelError(
            f"its tokenizer has the id {number} ({beyond[number]!r}) but the model knows ids 0 to {vocabulary - 1}",
            where=str(folder),
            fix="use the model's own tokenizer, or resize the model's embeddings",
            code="model.few-ids",
        )
    find_style(tokenizer)
