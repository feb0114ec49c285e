"""AdamW as a stage asks for it, which weights it decays, and what memory it will take."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import nn

from ratchet.train.spec import TrainSpec

_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
"""Names of norms and biases, as transformers' Trainer knows them."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The weights that a step trains, those that are decayed first."""

    decayed: Sequence[nn.Parameter]
    others: Sequence[nn.Parameter]

    @property
    def all(self) -> list[nn.Parameter]:
        return [*self.decayed, *self.others]


def trained_by(spec: TrainSpec, model: nn.Module) -> Trained:
    """Return the weights of `model` that want a gradient; a tied one counts once, under its first name.

    Norms and biases are not decayed unless the stage's `decay_norms` says so.
    """
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            spared = name in norms or _NOT_DECAYED.search(name) is not None
            (others if spared and not spec.stage.decay_norms else decayed).append(weight)
    return Trained(decayed, others)


def adamw(spec: TrainSpec, decayed: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> torch.optim.AdamW:
    """Return AdamW over both groups; the learning rate is set at each step."""
    groups = [(decayed, spec.stage.weight_decay), (others, 0.0)]
    return torch.optim.AdamW(
        [{"params": list(weights), "weight_decay": decay} for weights, decay in groups if weights],
        lr=spec.stage.learning_rate,
        betas=spec.stage.betas,
        eps=spec.stage.epsilon,
        fused=True,
    )


def coming_bytes(spec: TrainSpec, trained: int, world: int, device: str) -> int:
    """Return the bytes on a worker's device that the first updates of `trained` elements will take at ZeRO 1 to 3.

    A share of each of: AdamW's two moments, gradients (whole ones at ZeRO 1), and the update's float32 copy of these.
    Under offload they are in the CPU's memory, but for the whole gradients of ZeRO 1.
    """
    share = -(-trained // world)
    gradients = 4 * (trained if spec.cluster.deepspeed.zero == 1 else share)
    if device == "cpu" or not spec.cluster.deepspeed.offload_optimizer:
        return 8 * share + gradients + 4 * share
    return gradients if spec.cluster.deepspeed.zero == 1 else 0
