"""A model as an engine in a process of ours serves it: what its folder says, vLLM's options for it, one restart.

Imports nothing of vLLM.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ratchet.errors import EngineDeathError, RatchetError
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.trust import load_config

_log = logging.getLogger(__name__)
T = TypeVar("T")

# Tokens computed at a time. vLLM makes the logits of all of them at once, in float32: 152,000 words take 1.2 GB.
_BATCHED_TOKENS = 2048
_SEQUENCES = 64
_GPU_SHARE = 0.85
# Ranks of adapters that vLLM makes room for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclasses.dataclass(frozen=True)
class Served:
    """What an engine holds: a model folder, and how.

    `longest` is in tokens, prompt and answer together, and for scores one more, which is drawn and
    thrown away. `adapter_rank` above 0 makes room for adapters on the modules `adapter_targets`. An
    engine with a `tokenizer` writes text, and ends an answer at `end_ids` as well as at the model's own.
    """

    folder: Path
    dtype: str
    longest: int
    gpu: bool
    tensor_parallel: int = 1
    quantisation: str | None = None
    trust_remote_code: bool = False
    tokenizer: bool = False
    end_ids: tuple[int, ...] = ()
    chat_template: ChatTemplate | None = None
    adapter_rank: int = 0
    adapter_targets: tuple[str, ...] = ()
    batched_tokens: int = _BATCHED_TOKENS

    def halved(self) -> Served:
        """Return the same with half as many tokens computed at a time."""
        return dataclasses.replace(self, batched_tokens=max(1, self.batched_tokens // 2))


def engine_options(served: Served) -> dict[str, Any]:
    """Return the options that vLLM's `LLM` is made with. Raises ModelError where the folder has no settings."""
    options: dict[str, Any] = {"gpu_memory_utilization": _GPU_SHARE}
    if not served.gpu:
        tokens = 2 * max(served.batched_tokens, served.longest) + _SEQUENCES * 128  # in blocks of 128
        options = {"kv_cache_memory_bytes": max(64 << 20, tokens * bytes_of_a_token(served.folder, served.dtype))}
    if served.adapter_rank:
        rank = next((rank for rank in _RANKS if rank >= served.adapter_rank), served.adapter_rank)
        # Named modules: else vLLM wraps the head too, and then gives wrong prompt log-probabilities or none.
        options |= {
            "enable_lora": True,
            "max_lora_rank": rank,
            "max_loras": 1,
            "lora_target_modules": list(served.adapter_targets),
        }
    return options | {
        "model": str(served.folder),
        "dtype": served.dtype,
        "quantization": served.quantisation,
        "tensor_parallel_size": served.tensor_parallel,
        "trust_remote_code": served.trust_remote_code,
        "skip_tokenizer_init": not served.tokenizer,
        "max_model_len": served.longest,
        "generation_config": "vllm",  # sampling is what a request says, not what the model's folder recommends
        "max_num_seqs": _SEQUENCES,
        "max_num_batched_tokens": served.batched_tokens,
        "enable_prefix_caching": False,
        "enforce_eager": True,  # a captured graph gains nothing where each sequence is read once
        "seed": 0,
        "disable_log_stats": True,
    }


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


def with_one_restart(
    action: Callable[[], T], halve: Callable[[], None], failed: Callable[[EngineDeathError], RatchetError]
) -> T:
    """Return what `action` gives; where the engine dies, `halve` and try once more.

    Raises what `failed` makes of a second death, after another `halve`: what the engine held is not
    to be used again.
    """
    try:
        return action()
    except EngineDeathError as error:
        _log.warning("%s; another engine is started, with half as much at a time", error.what)
        halve()
    try:
        return action()
    except EngineDeathError as error:
        halve()
        raise failed(error) from error
