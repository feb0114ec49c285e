"""What of a start folder is published as it came: tensors that no training reaches, byte for byte.

Those that are stored in FP8 are published in the model's precision, as all else then is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.model.folder import Stored, pieces, scale_of, scales_undone, storage_of, stored_tensors
from ratchet.model.part_names import is_spare
from ratchet.model.parts import unread_tensors

FILE = "model-carried.safetensors"
_INDEX = "model.safetensors.index.json"
_WHOLE, _FIRST = "model.safetensors", "model-00001-of-00001.safetensors"
_PLAIN = {"F64", "F32", "F16", "BF16"}
"""Precisions, as safetensors names them, that mean the same without a scale beside them."""
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclasses.dataclass(frozen=True)
class Carried:
    """A stored tensor that is published as it came; with a `scale` multiplied by that, and held in `dtype`."""

    stored: Stored
    scale: Stored | None
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The precision that it is written in, as safetensors names it."""
        return self.stored.dtype if self.scale is None else _NAMES[self.dtype]

    @property
    def size(self) -> int:
        """Its bytes as it is written."""
        if self.scale is None:
            return self.stored.end - self.stored.start
        return math.prod(self.stored.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes, some at a time."""
        if self.scale is None:
            yield from pieces(self.stored)
        else:
            yield _undone(self.stored, self.scale).to(self.dtype).contiguous().view(torch.uint8).numpy().tobytes()


def _undone(stored: Stored, scale: Stored) -> Tensor:
    """Return a tensor in FP8 times its scales, by blocks, as transformers loads it."""
    from safetensors import safe_open
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    found = []
    for one in (stored, scale):
        with safe_open(one.file, framework="pt") as tensors:
            found.append(tensors.get_tensor(one.name))
    weight, by = found
    # The product has the precision of the scales, but whole bytes are exponents.
    by = by if by.dtype == torch.uint8 else by.float()
    made: Tensor = Fp8Dequantize(None).convert({"weight$": weight, "weight_scale_inv": by})["weight"]
    return made


def carried_tensors(model: Any, source: Path) -> tuple[dict[str, Carried], set[str]]:
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
    found = {name: Carried(stored[name], None, model.dtype) for name in made} if same else {}
    more = {name: stored[name] for name in passed_over(model, stored)}
    for name in scales_undone(storage_of(source), more):
        found[name] = Carried(stored[name], scale_of(stored[name], stored), model.dtype)
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


def write_carried(out: Path, carried: Mapping[str, Carried]) -> None:
    """Write tensors of another folder beside the weights of a saved model, and into its index."""
    if not carried:
        return
    entries, at = {}, 0
    for name, one in carried.items():
        place = (at, at := at + one.size)
        entries[name] = {"dtype": one.precision, "shape": one.stored.shape, "data_offsets": place}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)  # so that tensors begin at a multiple of 8
    with (out / FILE).open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        for one in carried.values():
            target.writelines(one.pieces())
    if (out / _WHOLE).is_file():
        (out / _WHOLE).rename(out / _FIRST)
    written = stored_tensors(out)
    size = sum(tensor.end - tensor.start for tensor in written.values())
    files = {name: tensor.file.name for name, tensor in written.items()}
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (out / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
