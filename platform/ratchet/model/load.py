"""From a plan's model spec to a folder, and from a folder to a model that computes as it should.

This is also the door to bitsandbytes, which holds frozen weights in 4 or 8 bits for QLoRA.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ratchet.errors import ModelError
from ratchet.model.folder import UNDONE, weight_files
from ratchet.model.part_names import is_spare
from ratchet.model.parts import class_for, freeze_unread
from ratchet.pairs.lean import lean_transformers
from ratchet.pairs.trust import load_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# With `longrope` a call uses other frequencies once its longest sequence is over the model's original length; with
# `dynamic` it makes them for that length and keeps them for calls after it. So a sequence over that length is computed
# alone, after the model was put back: then its numbers depend on nothing else.
_FOLLOWS = {"dynamic", "longrope"}
_log = logging.getLogger(__name__)


def load_model(folder: Path, dtype: str, *, trust_remote_code: bool = False, quantise: str | None = None) -> Any:
    """Return the causal language model of a folder, in `dtype`, with every dropout at 0.

    A folder whose model sees or hears is loaded whole; the parts that text does not reach want no gradient.

    Weights come from safetensors alone, and none is made up: missing, surplus or misshapen ones are
    errors that name them. Code and kernels that config.json names do nothing without `trust_remote_code`.
    Buffers that transformers keeps in float32 (rotary frequencies) stay so.
    With `quantise` (4bit or 8bit; needs a GPU) the weights are held by bitsandbytes. Weights that are stored in FP8
    or MXFP4 are held in `dtype`, and saved so.
    Raises ModelError, CorruptError.
    """
    lean_transformers()
    from transformers.utils import logging

    weight_files(folder)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    _without_dropout(config)
    stored = _held_plainly(config)
    quantisation = {} if quantise is None else {"quantization_config": quantisation_config(quantise, DTYPES[dtype])}
    logging.disable_progress_bar()
    try:
        model, info = class_for(config).from_pretrained(
            str(folder),
            config=config,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            # So that transformers lists them all, and the error below names them.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **quantisation,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"cannot be loaded: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            fix="give the folder of a causal language model that this version of transformers knows",
            code="model.settings",
        ) from error
    _check_weights(info, folder, config)
    if stored is not None and quantise is None:
        _log.warning("%s is stored in %s: it is held, trained and published in %s", folder, stored, dtype)
        _forget_quantiser(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    keep_rotary_in_float32(model)
    freeze_unread(model)
    return model.eval()


def skeleton(folder: Path, dtype: str, trust_remote_code: bool = False) -> Any:
    """Return the model of a folder without the content of its weights. Raises ModelError."""
    lean_transformers()
    config = load_config(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        made = class_for(config).from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
    freeze_unread(made)
    return made


def _held_plainly(config: Any) -> str | None:
    """Ask for plain weights where they are stored in a precision that transformers can undo; return that, or None."""
    stored = getattr(config, "quantization_config", None)
    if not isinstance(stored, dict) or (method := stored.get("quant_method")) not in UNDONE:
        return None
    config.quantization_config = stored | {"dequantize": True}
    return UNDONE[method]


def _forget_quantiser(model: Any) -> None:
    """Let a model that was dequantised be saved as what it is, without its quantiser."""
    # It would write no, or other, weights.
    model.hf_quantizer = None
    model._weight_conversions = None  # what saving undoes is then what the family itself asks for
    for config in {id(part): part for part in (model.config, model.config.get_text_config())}.values():
        if hasattr(config, "quantization_config"):
            del config.quantization_config


def _without_dropout(config: Any) -> None:
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for key, value in vars(part).items():
            if is_dropout(key, value):
                setattr(part, key, 0.0)


def is_dropout(key: str, value: object) -> bool:
    """Whether a setting of config.json is a dropout, which training here leaves out."""
    return (
        ("dropout" in key or key.endswith("_pdrop")) and isinstance(value, int | float) and not isinstance(value, bool)
    )


def _check_weights(info: dict[str, Any], folder: Path, config: Any) -> None:
    for kind, what in (
        ("missing_keys", "weights are missing"),
        ("unexpected_keys", "weights belong to no part of the model"),
        ("mismatched_keys", "weights have another shape than config.json says"),
        ("error_msgs", "weights cannot be read"),
    ):
        if names := sorted(str(name[0] if isinstance(name, tuple) else name) for name in info.get(kind) or ()):
            if kind == "unexpected_keys":  # layers for several tokens, which are carried over
                names = [name for name in names if not is_spare(name, config)]
            if not names:
                continue
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ModelError(
                f"{len(names)} {what}: {shown}",
                where=str(folder),
                fix="config.json and weights must be of one model; a LoRA adapter must be merged first",
                code="model.weights",
            )


def keep_rotary_in_float32(model: nn.Module) -> None:
    """Compute rotary frequencies again where loading rounded them (ZeRO-3 with bfloat16 does)."""
    for module in model.modules():
        frequencies = getattr(module, "inv_freq", None)
        if isinstance(frequencies, torch.Tensor) and frequencies.dtype != torch.float32:
            fresh = type(module)(config=module.config)
            for name, buffer in fresh.named_buffers(recurse=False):
                module.register_buffer(name, buffer.to(frequencies.device), persistent=False)


def check_quantisation(kind: str, where: str) -> None:
    """Raise ModelError, naming the key at `where`, without CUDA or bitsandbytes."""
    if not torch.cuda.is_available():
        raise ModelError(
            f"weights in {kind} need a CUDA device, and there is none",
            where=where,
            fix=f"leave {where.rpartition(' ')[2]} out, or run on a GPU",
            code="model.quantise",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"weights in {kind} need bitsandbytes",
            where=where,
            fix="pip install 'ratchet-align[gpu]'",
            code="model.quantise",
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


def original_length(config: Any) -> int | None:
    """Return up to how many tokens a sequence's frequencies depend on nothing else; None where none ever do."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    lengths = [
        int(part.get("original_max_position_embeddings") or config.max_position_embeddings)
        for part in (rope, *(value for value in rope.values() if isinstance(value, dict)))
        if part.get("rope_type") in _FOLLOWS
    ]
    return min(lengths) if lengths else None


def put_back(model: nn.Module) -> None:
    """Give a model's rotary modules the frequencies that they began with, whatever was computed since."""
    for module in model.modules():
        for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            current = getattr(module, f"{prefix}inv_freq")
            original = getattr(module, name).to(current.device)
            module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
            if hasattr(module, "original_max_seq_len"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
