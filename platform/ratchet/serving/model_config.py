"""What an engine reads of a model's folder before it loads it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ratchet.pairs.trust import load_config


def context(folder: Path) -> int:
    """Return the positions of the model in `folder`. Raises ModelError where its settings cannot be read."""
    positions = getattr(_config(folder), "max_position_embeddings", None)
    return int(positions) if positions else sys.maxsize


def _config(folder: Path) -> Any:
    return load_config(folder).get_text_config()


def bytes_of_a_token(folder: Path, dtype: str) -> int:
    """Return what keys and values of one token take in all layers. Raises ModelError."""
    config = _config(folder)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    values = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * size
    return int(values) * (4 if dtype == "float32" else 2)


def shape_of(folder: Path) -> dict[str, Any]:
    """Return what of a model's configuration decides which weights fit it."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in {"_name_or_path", "transformers_version"}}


def first_line(error: BaseException) -> str:
    """Return the line of an error that says what is wrong: pydantic's has more before and after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.removeprefix("Value error, ").partition(" [type=")[0] for line in lines if "Value error, " in line]
    return (said or lines[-1:] or [type(error).__name__])[0][:300]
