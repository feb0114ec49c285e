"""The vocabulary head on answer positions alone, a few rows at a time: no tokens × vocabulary tensor lives.

Legend: _E scored entries, _V vocabulary, _H hidden.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}
"""Logits that may live at a time, by kind of device: 64 MB in float32 on a CPU, 1 GB on a GPU."""


@dataclasses.dataclass(frozen=True)
class LogitScaling:
    """What a model does to head(hidden): times `scale`, then soft-capped, cap · tanh(z / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        """Return the model's logits."""
        scaled = logits if self.scale == 1.0 else logits * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def slope(self, final: Tensor) -> Tensor | float:
        """Return the derivative by head(hidden), from the final logits."""
        return self.scale if self.cap is None else self.scale * (1 - (final / self.cap) ** 2)


def scaling_of(model: Any) -> LogitScaling:
    """Return how a causal language model of transformers treats its logits."""
    config = model.config.get_text_config()
    scale = float(getattr(model, "logit_scale", None) or 1.0)  # Cohere
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)  # Falcon-H1
    return LogitScaling(scale, getattr(config, "final_logit_softcapping", None))  # Gemma


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Return how many entries are scored at a time."""
    return max(16, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"]) // vocabulary)


class AnswerHead(nn.Linear):
    """A model's head that can also take targets, and then gives their log-probabilities.

    An existing head becomes one by `adopt`; its weights, hooks and name stay. Entered once a
    batch, as a module: ZeRO-3 gathers the weight once for all chunks.
    """

    @classmethod
    def adopt(cls, head: nn.Linear) -> AnswerHead:
        """Turn a plain linear head into an AnswerHead, in place."""
        head.__class__ = cls
        return head  # type: ignore[return-value]

    def forward(
        self,
        hidden_EH: Tensor,
        targets_E: Tensor | None = None,
        scaling: LogitScaling = LogitScaling(),
        rows: int = 512,
    ) -> Tensor:
        """Return logits (E, V), or with targets each one's log-probability (E,), float32 at least."""
        if targets_E is None:
            return super().forward(hidden_EH)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        kind = hidden_EH.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            hidden_EH, weight = hidden_EH.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return _Logps.apply(hidden_EH, weight, bias, targets_E, scaling, rows)  # type: ignore[no-any-return, no-untyped-call]


class _Logps(torch.autograd.Function):
    """log p(target), in chunks of rows; the backward pass computes each chunk's logits again.

    A head that is not trained needs no second pass: ∂log p/∂h = W[target] − Σ p W, of the size of h,
    is made at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scaling: LogitScaling,
        rows: int,
    ) -> Tensor:
        frozen = ctx.needs_input_grad[0] and not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden) if frozen else None
        for at in _spans(len(hidden), rows):
            logits = _logits(hidden[at], weight, bias, scaling)
            logps[at] = logits.log_softmax(1, dtype=wide).gather(1, targets[at, None])[:, 0]
            if slopes is not None:
                ones = torch.ones_like(logps[at])
                slopes[at] = _by_logits(logits, targets[at], ones, scaling).to(weight.dtype) @ weight
        ctx.frozen, ctx.scaling, ctx.rows = frozen, scaling, rows
        ctx.save_for_backward(*((slopes,) if slopes is not None else (hidden, weight, bias, targets)))
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (slopes,) = ctx.saved_tensors
            return (slopes * grad[:, None]).to(slopes.dtype), None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        several = len(hidden) > ctx.rows  # chunks add up in float32
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=grad.dtype if several else weight.dtype)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=grad.dtype)
        for at in _spans(len(hidden), ctx.rows):
            logits = _logits(hidden[at], weight, bias, ctx.scaling)
            by_logits = _by_logits(logits, targets[at], grad[at], ctx.scaling)
            if d_bias is not None:
                d_bias += by_logits.sum(0)
            small = by_logits.to(weight.dtype)
            d_hidden[at] = small @ weight
            if d_weight.dtype == small.dtype:
                d_weight.addmm_(small.T, hidden[at])
            else:
                d_weight += small.T @ hidden[at]
        return d_hidden, d_weight.to(weight.dtype), None if d_bias is None else d_bias.to(bias.dtype), None, None, None


def _spans(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scaling: LogitScaling) -> Tensor:
    """The model's logits, rounded as its own forward rounds them."""
    return scaling.apply(nn.functional.linear(hidden, weight, bias))


def _by_logits(logits: Tensor, targets: Tensor, grad: Tensor, scaling: LogitScaling) -> Tensor:
    """The gradient by head(hidden), grad · (onehot − p) · slope, in the precision of `grad`."""
    by_logits = logits.softmax(1, dtype=grad.dtype).mul_(-grad[:, None])
    by_logits.scatter_add_(1, targets[:, None], grad[:, None])
    if scaling.cap is not None:
        return by_logits.mul_(scaling.slope(logits.to(grad.dtype)))
    return by_logits if scaling.scale == 1.0 else by_logits.mul_(scaling.scale)
