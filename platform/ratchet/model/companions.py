"""What stands beside a model's weights: tokenizer, processor, chat templates, generation settings, code, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

_OF_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.index.json")
_OWN = {"README.md", "config.json"}
"""What every published folder has of its own."""
_INDEX = "model.safetensors.index.json"
_TEMPLATES = "additional_chat_templates"


def companions(folder: Path) -> tuple[list[str], list[str]]:
    """Return what is published as it came, by name, and which folders are not; weights are neither."""
    kept, left = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _OWN or any(path.match(pattern) for pattern in _OF_WEIGHTS):
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
