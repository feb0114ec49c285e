"""What of a start folder is published as it came: tensors that no training reaches, byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ratchet.model.folder import Stored, pieces, storage_of, stored_tensors
from ratchet.model.part_names import is_spare
from ratchet.model.parts import unread_tensors

FILE = "model-carried.safetensors"
_INDEX = "model.safetensors.index.json"
_WHOLE, _FIRST = "model.safetensors", "model-00001-of-00001.safetensors"
_PLAIN = {"F64", "F32", "F16", "BF16"}
"""Precisions, as safetensors names them, that mean the same without a scale beside them."""


def carried_tensors(model: Any, source: Path) -> tuple[dict[str, Stored], set[str]]:
    """Return the tensors of a model's start folder that are published byte for byte, and the model's names for them.

    These are the parts that text does not reach, and what the model's class leaves in the folder when it is loaded
    (layers for predicting several tokens); those have no name in the model. A part that is stored in another form
    than it would be saved in is not among them: it is saved from memory.
    """
    stored, apart = stored_tensors(source), unread_tensors(model)
    made = as_saved(model, apart)
    same = all(
        name in stored and stored[name].dtype in _PLAIN and stored[name].shape == tuple(tensor.shape)
        for name, tensor in made.items()
    )
    found = {name: stored[name] for name in made} if same else {}
    if storage_of(source) is None:  # else their scales would stand beside weights that are no longer quantised
        found |= {name: stored[name] for name in passed_over(model, stored)}
    return dict(sorted(found.items())), set(apart) if same else set()


def passed_over(model: Any, stored: dict[str, Stored]) -> list[str]:
    """Return the stored tensors that a model's class knows of and does not load, and all layers for several tokens."""
    patterns = [re.compile(one) for one in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    matched = [name for name in stored if is_spare(name, model.config) or any(one.search(name) for one in patterns)]
    if not matched:
        return []
    made = as_saved(model, model.state_dict())
    return [name for name in matched if name not in made]


def as_saved(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return some of a model's state dict, without content, as saving writes it."""
    return in_saved_form(model, {name: tensor.to("meta") for name, tensor in tensors.items()})


def in_saved_form(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return some of a model's state dict by the folder's names, each tied weight once."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    return dict(revert_weight_conversion(model, remove_tied_weights_from_state_dict(tensors, model)))


def write_carried(out: Path, carried: Mapping[str, Stored]) -> None:
    """Write tensors of another folder, byte for byte, beside the weights of a saved model, and into its index."""
    if not carried:
        return
    entries, at = {}, 0
    for name, one in carried.items():
        entries[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": (at, at := at + one.end - one.start)}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)  # so that tensors begin at a multiple of 8
    with (out / FILE).open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        for one in carried.values():
            target.writelines(pieces(one))
    if (out / _WHOLE).is_file():
        (out / _WHOLE).rename(out / _FIRST)
    written = stored_tensors(out)
    size = sum(tensor.end - tensor.start for tensor in written.values())
    files = {name: tensor.file.name for name, tensor in written.items()}
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (out / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
