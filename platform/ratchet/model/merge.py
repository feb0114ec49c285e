"""Weighted average of the weights of models of one architecture, one tensor at a time (SOLAR, section 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model.digest import VOLATILE, Stored, stored_tensors
from ratchet.model.export import copy_companions
from ratchet.pairs.tokenizer import digest_vocabulary
from ratchet.pairs.trust import load_config

_FLOATS = {"F64", "F32", "F16", "BF16"}


def merge_models(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write Σ wᵢ·modelᵢ / Σ wᵢ into `out`, added up in float32 and stored as the first model stores it.

    Raises ModelError, naming what differs, unless the models agree in architecture, tensor names, shapes,
    dtypes and vocabulary, and in tensors that are not floats.
    """
    if len(folders) != len(weights) or not folders or sum(weights) <= 0:
        raise ModelError(
            f"{len(folders)} models but weights {list(weights)}", where="merge.weights", fix="give one each"
        )
    stored = [stored_tensors(folder) for folder in folders]
    for folder, tensors in zip(folders[1:], stored[1:], strict=True):
        _check_same(folders[0], stored[0], folder, tensors)
    out.mkdir(parents=True, exist_ok=True)
    shares = [weight / sum(weights) for weight in weights]
    for file in sorted({tensor.file for tensor in stored[0].values()}):
        _merge_file(file, stored, shares, out / file.name)
    copy_companions(folders[0], out)
    shown = ", ".join(f"{share:.4g}" for share in shares)
    (out / "README.md").write_text(f"# Merged model\n\nThe weighted average of {len(folders)} models ({shown}).\n")


def _check_same(first: Path, left: dict[str, Stored], other: Path, right: dict[str, Stored]) -> None:
    mine, theirs = _config(first), _config(other)
    if changed := sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)):
        raise _differs(first, other, f"config.json differs in {', '.join(changed[:5])}")
    if apart := sorted({*left} ^ {*right}):
        raise _differs(first, other, f"tensors that only one has: {', '.join(apart[:5])}")
    for name, tensor in left.items():
        if (tensor.shape, tensor.dtype) != (right[name].shape, right[name].dtype):
            what = f"{name} is {tensor.dtype} {tensor.shape} and {right[name].dtype} {right[name].shape}"
            raise _differs(first, other, what)
    if digest_vocabulary(first) != digest_vocabulary(other):
        raise _differs(first, other, "their tokenizers have other ids")


def _differs(first: Path, other: Path, what: str) -> ModelError:
    return ModelError(
        f"{first} and {other} cannot be merged: {what}", where="merge.of", fix="merge models of one start model"
    )


def _config(folder: Path) -> dict[str, Any]:
    config = load_config(folder).to_dict()
    return {key: value for key, value in config.items() if key not in VOLATILE and "drop" not in key}


def _merge_file(file: Path, stored: Sequence[dict[str, Stored]], shares: Sequence[float], out: Path) -> None:
    """Write one safetensors file: the first model's header as it is, then each averaged tensor in its place."""
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        readers: dict[Path, Any] = {}
        for path in {tensors[name].file for tensors in stored for name in stored[0] if stored[0][name].file == file}:
            readers[path] = stack.enter_context(safe_open(str(path), framework="pt"))
        target = stack.enter_context(out.open("wb"))
        here = sorted((tensor for tensor in stored[0].values() if tensor.file == file), key=lambda tensor: tensor.start)
        with file.open("rb") as source:
            target.write(source.read(here[0].start))
        for tensor in here:
            parts = [readers[tensors[tensor.name].file].get_tensor(tensor.name) for tensors in stored]
            merged = average(tensor, parts, shares).contiguous().flatten()
            target.seek(tensor.start)
            target.write(merged.view(torch.uint8).numpy().data)


def average(tensor: Stored, parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the average of one tensor in its own dtype. Raises ModelError where integers differ."""
    if tensor.dtype not in _FLOATS:
        if not all(torch.equal(parts[0], part) for part in parts[1:]):
            raise ModelError(f"{tensor.name} is {tensor.dtype} and differs", where="merge.of", fix="merge other models")
        return parts[0]
    total = torch.zeros(parts[0].shape, dtype=torch.promote_types(parts[0].dtype, torch.float32))
    for part, share in zip(parts, shares, strict=True):
        total.add_(part.to(total.dtype), alpha=share)
    return total.to(parts[0].dtype)
