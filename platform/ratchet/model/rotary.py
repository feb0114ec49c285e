"""Rotary positions whose frequencies follow the longest sequence of a call, and what was called before.

With `rope_type` of ``longrope`` a call uses other frequencies once its longest sequence is over the model's original
length, and with ``dynamic`` it makes them for that length and keeps them for calls after it. So a sequence over that
length is computed alone, after the model was put back: then its numbers depend on nothing else.
"""

from __future__ import annotations

from typing import Any

import torch

_FOLLOWS = {"dynamic", "longrope"}


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


def put_back(model: torch.nn.Module) -> None:
    """Give a model's rotary modules the frequencies that they began with, whatever was computed since."""
    for module in model.modules():
        for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            current = getattr(module, f"{prefix}inv_freq")
            original = getattr(module, name).to(current.device)
            module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
            if hasattr(module, "original_max_seq_len"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
