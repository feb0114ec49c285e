"""Weighted average of the weights of models of one architecture, one tensor at a time (SOLAR, section 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model.carried import as_saved, passed_over
from ratchet.model.companions import copy_companions
from ratchet.model.folder import Stored, settings_without, stored_tensors
from ratchet.model.load import skeleton
from ratchet.pairs.tokenizer import digest_vocabulary
from ratchet.pairs.trust import load_config

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def merge_models(folders: Sequence[Path], weights: Sequence[float], out: Path, like: int = 0) -> None:
    """Write Σ wᵢ·modelᵢ / Σ wᵢ into `out`, added up in float32 and stored as model number `like` stores it.

    Models may store their weights in other precisions. Raises ModelError, naming what differs, unless they agree in
    architecture, tensor names, shapes and vocabulary, and in tensors that are not floats.
    """
    if len(folders) != len(weights) or not folders or sum(weights) <= 0:
        raise ModelError(
            f"{len(folders)} models but weights {list(weights)}",
            where="merge.weights",
            fix="give one each",
            code="model.merge-weights",
        )
    stored = [stored_tensors(folder) for folder in folders]
    for folder, tensors in zip(folders, stored, strict=True):
        _check_same(folders[like], stored[like], folder, tensors)
    out.mkdir(parents=True, exist_ok=True)
    shares = [weight / sum(weights) for weight in weights]
    for file in sorted({tensor.file for tensor in stored[like].values()}):
        here = sorted((one for one in stored[like].values() if one.file == file), key=lambda one: one.start)
        _merge_file(file, here, stored, shares, out / file.name)
    copy_companions(folders[like], out)
    shown = ", ".join(f"{share:.4g}" for share in shares)
    (out / "README.md").write_text(
        f"# Merged model\n\nThe weighted average of {len(folders)} models ({shown}).\n", encoding="utf-8"
    )


def check_start(folder: Path, dtype: str, where: str, *, trust_remote_code: bool = False) -> None:
    """Raise ModelError where the start model cannot be averaged with models that are made from it.

    What those will store follows from the start model's settings; it may store other tensors itself, in quantised form
    for one, or with parts that are not trained.
    """
    model, stored = skeleton(folder, dtype, trust_remote_code), stored_tensors(folder)
    made, kept = as_saved(model, model.state_dict()), set(passed_over(model, stored))
    held = {name: one for name, one in stored.items() if name in made or not (name in kept or _spare(folder, name))}
    apart = sorted({*made} ^ {*held})
    apart = apart or sorted(name for name, one in held.items() if one.dtype not in _FLOATS)
    if apart:
        raise ModelError(
            f"base stores weights in another form than the models that are made from it: {', '.join(apart[:5])}",
            where=where,
            fix="leave base out of the merge, or start from a folder in bfloat16 or float32 that transformers wrote",
            code="model.merge",
        )


def _check_same(first: Path, left: dict[str, Stored], other: Path, right: dict[str, Stored]) -> None:
    mine, theirs = _config(first), _config(other)
    if changed := sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)):
        raise _differs(first, other, f"config.json differs in {', '.join(changed[:5])}")
    if apart := sorted({*left} - {*right} | {name for name in {*right} - {*left} if not _spare(other, name)}):
        raise _differs(first, other, f"tensors that only one has: {', '.join(apart[:5])}")
    for name, tensor in left.items():
        kinds = [one.dtype if one.dtype not in _FLOATS else "float" for one in (tensor, right[name])]
        if tensor.shape != right[name].shape or kinds[0] != kinds[1]:
            what = f"{name} is {tensor.dtype} {tensor.shape} and {right[name].dtype} {right[name].shape}"
            raise _differs(first, other, what)
    if digest_vocabulary(first) != digest_vocabulary(other):
        raise _differs(first, other, "their tokenizers have other ids")


def _spare(folder: Path, name: str) -> bool:
    """Whether a tensor is the output layer of a model whose input embedding is that: some folders store it twice."""
    return name == "lm_head.weight" and bool(load_config(folder).get_text_config().tie_word_embeddings)


def _differs(first: Path, other: Path, what: str) -> ModelError:
    return ModelError(
        f"{first} and {other} cannot be merged: {what}",
        where="merge.of",
        fix="merge models of one start model",
        code="model.merge",
    )


def _config(folder: Path) -> dict[str, Any]:
    return settings_without(load_config(folder).to_dict(), lambda key, value: "drop" in key)


def _merge_file(
    file: Path, here: Sequence[Stored], stored: Sequence[dict[str, Stored]], shares: Sequence[float], out: Path
) -> None:
    """Write one safetensors file: the header of `file` as it is, then each averaged tensor in its place."""
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        paths = {tensors[tensor.name].file for tensors in stored for tensor in here}
        readers = {path: stack.enter_context(safe_open(str(path), framework="pt")) for path in sorted(paths)}
        target = stack.enter_context(out.open("wb"))
        with file.open("rb") as source:
            # Names, shapes and dtypes stay, so every tensor keeps the place that the header names.
            target.write(source.read(here[0].start))
        for tensor in here:
            parts = [readers[tensors[tensor.name].file].get_tensor(tensor.name) for tensors in stored]
            merged = average(tensor, parts, shares).contiguous().flatten()
            target.seek(tensor.start)
            target.write(merged.view(torch.uint8).numpy().data)


def average(tensor: Stored, parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the average of one tensor in the dtype that it names. Raises ModelError where integers differ."""
    if tensor.dtype not in _FLOATS:
        if not all(torch.equal(parts[0], part) for part in parts[1:]):
            raise ModelError(
                f"{tensor.name} is {tensor.dtype} and differs",
                where="merge.of",
                fix="merge other models",
                code="model.merge",
            )
        return parts[0]
    if all(torch.equal(parts[0], part) for part in parts[1:]):  # such as what no training reaches
        return parts[0].to(_FLOATS[tensor.dtype])
    widest = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
    total = torch.zeros(parts[0].shape, dtype=widest)
    for part, share in zip(parts, shares, strict=True):
        total.add_(part.to(widest), alpha=share)
    return total.to(_FLOATS[tensor.dtype])
