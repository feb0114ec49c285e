"""What stands beside a model's weights: tokenizer, processor, chat templates, generation settings, code, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

from ratchet.store import record

_OF_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.index.json")
_OWN = {record.CARD, "config.json", record.NAME}
"""What every published folder has of its own."""
_OF_RATCHET = (
    *("identity.json", "reference.json", "budget.json", "scores.json", "plan.yaml", "resolved.json"),
    *("MANIFEST*", "COMMITTED", "attempt", "report.*", "*.jsonl", "*.parquet", "*.arrow", "*.npy"),
)
"""What Ratchet writes beside models, and data: of another run than the one that publishes."""
_OF_TRAINING = (
    *("trainer_state.json", "training_args.*", "*_results.json", "training_loss*.png"),
    *("events.out*", "*.log", "*.ckpt", "*.pkl", "*.pickle", "latest", "zero_to_fp32.py", "*.lock", "*.tmp"),
)
"""What other trainers leave behind: logs, state of optimisers, settings of a training that is over."""
_PATTERNS = (*_OF_WEIGHTS, *_OF_RATCHET, *_OF_TRAINING)
_INDEX = "model.safetensors.index.json"
_TEMPLATES = "additional_chat_templates"


def companions(folder: Path) -> tuple[list[str], list[str]]:
    """Return what is published as it came, by name, and which folders are not.

    Weights, records and logs are neither: they say what the folder's own model is, or how it was made.
    """
    kept, left = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _OWN or any(path.match(one) for one in _PATTERNS):
            continue
        if path.is_file():
            kept.append(path.name)
        elif path.name == _TEMPLATES:
            kept += [f"{_TEMPLATES}/{one.name}" for one in sorted(path.iterdir()) if one.is_file()]
        else:
            left.append(f"{path.name}/")
    return kept, left


def copy_companions(source: Path, out: Path, *, with_config: bool = True) -> None:
    """Copy them as they are, so that the tokenizer stays the same to the byte.

    With `with_config` config.json and the index of weights go along too.
    """
    kept, _ = companions(source)
    for name in [*kept, *(("config.json", _INDEX) if with_config else ())]:
        if (source / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, out / name)
