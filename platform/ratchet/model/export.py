"""A model as a Hugging Face folder, and the proof that what was written is what was in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model.batch import Device
from ratchet.model.forward import PairScorer, SideScores, score
from ratchet.model.load import is_dropout, load_model
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.tokenizer import read_json
from ratchet.pairs.trust import without_code

_COMPANIONS = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_OF_WEIGHTS = {"config.json", "model.safetensors.index.json"}
_DTYPE_KEYS = {"dtype", "torch_dtype"}


def copy_companions(source: Path, out: Path, *, with_config: bool = True) -> None:
    """Copy what stands beside the weights: tokenizer, chat template, generation settings, own code.

    Files are copied as they are, so that the tokenizer stays the same to the byte.
    """
    own_code = [path.name for path in source.glob("*.py")]
    for name in (*_COMPANIONS, *own_code):
        if (source / name).is_file() and (with_config or name not in _OF_WEIGHTS):
            shutil.copyfile(source / name, out / name)


def save_model(
    model: Any,
    tokenizer_folder: Path,
    out: Path,
    card: str,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    chat_template: str | None = None,
) -> None:
    """Write a plain causal language model as a whole folder, with `card` as README.md.

    `state_dict` stands in for the model's own (weights gathered from ZeRO-3, named as the model names
    them). Tokenizer and generation settings are those of `tokenizer_folder`; the text of a `chat_template`
    that replaced the tokenizer's own goes along. Raises ModelError, OSError.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    out.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    settings = model.generation_config
    model.generation_config = GenerationConfig.from_model_config(model.config)  # a hub model's own may not validate
    try:
        model.save_pretrained(str(out), state_dict=None if state_dict is None else dict(state_dict))
    finally:
        model.generation_config = settings
    settings_file = json.dumps(published_settings(model, tokenizer_folder), indent=2, ensure_ascii=False)
    (out / "config.json").write_text(settings_file + "\n", encoding="utf-8")
    copy_companions(tokenizer_folder, out, with_config=False)
    if chat_template is not None:
        (out / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    (out / "README.md").write_text(card, encoding="utf-8")
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes files that only their owner may read


def published_settings(model: Any, source: Path) -> dict[str, Any]:
    """Return the config.json of a model that was loaded from `source`: that folder's own, dropout included.

    Only what the weights themselves decide is new: their class and precision, and that they are not quantised.
    Where the model is a part of what `source` holds (the text model of one that sees), its part is kept.
    """
    told = read_json(source / "config.json")
    fields = told if model.is_remote_code() else without_code(told)
    if fields.get("model_type") != model.config.model_type:
        fields = {**model.config.to_diff_dict(), **_dropouts(fields.get("text_config", {}))}
        fields["model_type"] = model.config.model_type
    fields = {key: value for key, value in fields.items() if key != "quantization_config"}
    dtype = str(model.dtype).removeprefix("torch.")
    if not fields.keys() & _DTYPE_KEYS:
        fields["dtype"] = dtype
    fields = _with_dtype(fields, dtype)
    return {**fields, "architectures": [type(model).__name__]}


def _dropouts(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if is_dropout(key, value)}


def _with_dtype(fields: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return settings in which every part that names a precision names `dtype`."""
    return {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else dtype if key in _DTYPE_KEYS else value
        for key, value in fields.items()
    }


def reload_check(
    out: Path,
    pairs: Sequence[TokenisedPair],
    expected: SideScores,
    dtype: str,
    *,
    device: Device = "cpu",
    trust_remote_code: bool = False,
) -> None:
    """Load `out` and score `pairs` in one batch, as `expected` was made from the model in memory.

    Raises ModelError with the largest difference unless every score is equal to the bit.
    """
    loaded = load_model(out, dtype, trust_remote_code=trust_remote_code).to(device)
    with torch.no_grad():
        found = score(PairScorer(loaded).eval(), pairs, device)
    for side, before, after in (
        ("chosen", expected.chosen_B, found.chosen_B),
        ("rejected", expected.rejected_B, found.rejected_B),
    ):
        ours, theirs = before.detach().to(device).nan_to_num(), after.nan_to_num()
        if not torch.equal(ours, theirs):
            off = float((ours - theirs).abs().max())
            raise ModelError(
                f"the saved model scores {side} answers otherwise than the model in memory (by {off:.3g} nats)",
                where=str(out),
                fix="the folder cannot be trusted: look at the disk, and run the step again",
            )
