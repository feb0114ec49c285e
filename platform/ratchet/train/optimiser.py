"""What an update is made of: AdamW and which weights it decays, the learning rate, the scale of a float16 loss."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from ratchet.errors import TrainingError
from ratchet.train.spec import TrainSpec

_LOG = logging.getLogger(__name__)
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


def warmup_steps(total: int, warmup: float) -> int:
    """Return how many of `total` steps the warm-up takes: the share `warmup` of them, rounded up."""
    return math.ceil(warmup * total)


def learning_rate(kind: str, peak: float, step: int, total: int, warmup: float) -> float:
    """Return the learning rate of step `step`, which counts from 1.

    With w warm-up steps, step s ≤ w has the rate peak·s / w. Afterwards, with p = (s − 1 − w) / (total − w), it is
    peak·(1 + cos πp) / 2, peak·(1 − p), or peak. Schedules of the transformers library have peak·(s − 1) / w in the
    warm-up, whose first step then trains nothing; afterwards they are the same. Raises ValueError on an unknown kind.
    """
    rise = warmup_steps(total, warmup)
    if step <= rise:
        return peak * step / rise
    share = (step - 1 - rise) / max(1, total - rise)
    if kind == "constant":
        return peak
    if kind == "linear":
        return peak * max(0.0, 1.0 - share)
    if kind == "cosine":
        return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))
    raise ValueError(f"no schedule is called {kind!r}")


def warn_of_warmup(name: str, total: int, warmup: float) -> None:
    """Say so where a stage's learning rate only rises, because its warm-up takes all of its steps."""
    if warmup and warmup_steps(total, warmup) >= total:
        _LOG.warning(
            "%s has %d step%s, and its warm-up (warmup: %g) takes all of them: the learning rate never falls; "
            "lower warmup or batch, or give it more pairs",
            name,
            total,
            "s" * (total > 1),
            warmup,
        )


# Where DeepSpeed begins too, so that ZeRO 0 and the other stages skip the same updates.
_START, _LEAST = 2.0**12, 1.0
_WINDOW = 1000
"""Updates without an overflow after which the scale is doubled."""


class LossScale:
    """A power of two: halved where a gradient overflows, doubled after a while without."""

    def __init__(self) -> None:
        self.value, self.good = _START, 0

    def seen(self, finite: bool) -> None:
        """Take note of an update. Raises TrainingError where even the smallest scale overflows."""
        if finite:
            self.good += 1
            if self.good % _WINDOW == 0:
                self.value *= 2
            return
        if self.value <= _LEAST:
            raise no_smaller_scale()
        self.value, self.good = self.value / 2, 0


def no_smaller_scale() -> TrainingError:
    """Return the error of a gradient that overflows at the smallest scale."""
    return TrainingError(
        "float16 gradients overflow at the smallest loss scale",
        where="model.dtype",
        fix="train in bfloat16 or float32, or lower the learning rate",
        code="training.loss-scale",
    )
