"""How a model's tokens find their experts: without noise, whether it is trained or asked."""

from __future__ import annotations

import functools

from torch import nn


def still(model: nn.Module) -> None:
    """Keep what routes with noise in training as it is where the model answers.

    A policy then starts as its reference, and two passes over a token route alike. More than once does no harm.
    """
    for module in model.modules():
        if any("jitter" in name for name in vars(module)):
            # The noise itself is no sign: PhiMoE's is a threshold too, by which it chooses without any.
            module.train = functools.partial(_without_noise, module)  # type: ignore[method-assign]
            module.train()


def _without_noise(module: nn.Module, _on: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
