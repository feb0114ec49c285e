"""The door to peft: low-rank adapters in place of full training (Hu et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from ratchet.errors import ModelError
from ratchet.plan.stages import Lora


def add_lora(model: Any, lora: Lora, seed: int = 0) -> Any:
    """Return `model` with adapters on it; only these train. B starts at 0, so the outputs are unchanged.

    The adapters' start is drawn from `seed`, and no random state outside is read or changed.
    Raises ModelError where no module has one of the target names.
    """
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"no adapter fits: {error}", where="lora.targets", fix="name modules of the model, or use all-linear"
            ) from error


def merge_lora(model: Any) -> Any:
    """Return the plain model with its adapters added to the weights, each sum made in float32.

    Raises ModelError for quantised weights: put the adapters on the unquantised model and merge there.
    """
    for layer in (module for module in model.modules() if isinstance(module, BaseTunerLayer)):
        weight = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise ModelError("quantised weights cannot take an adapter", fix="merge into the unquantised model")
        dtype = weight.dtype
        weight.data = weight.data.float()
        layer.merge()
        weight.data = weight.data.to(dtype)
    return model.unload()


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters alone, in peft's layout."""
    model.save_pretrained(str(folder))
