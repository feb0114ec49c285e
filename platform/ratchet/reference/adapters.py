"""Which adapters an engine can serve beside the model that they were trained on."""

from __future__ import annotations

import json
from pathlib import Path

from ratchet.errors import CorruptError
from ratchet.reference.jobs import Adapter

_NOT_SERVED = {"lm_head", "embed_tokens", "wte"}
"""vLLM's prompt log-probabilities leave an adapter on the head or the embeddings out (its issue 51594)."""


def read_adapter(folder: Path, base: Path) -> Adapter:
    """Return the adapter in `folder`, in peft's layout, trained on the model in `base`. Raises CorruptError."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return Adapter(folder, base, int(config["r"]), tuple(sorted(config["target_modules"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"not the settings of an adapter: {error}", where=str(path), fix="delete its step's folder to make it again"
        ) from error


def servable(adapter: Adapter) -> bool:
    """Whether vLLM gives right numbers for a model with this adapter."""
    return bool(adapter.targets) and not _NOT_SERVED & set(adapter.targets)
