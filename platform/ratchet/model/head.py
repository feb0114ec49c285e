"""The vocabulary head on answer positions alone, a few rows at a time: no tokens × vocabulary tensor lives.

Legend: _E scored entries, _V vocabulary, _H hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Room of the logits that live at a time, by kind of device: 256 MB on a CPU, 1 GB on a GPU."""

WIDE_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
"""Logits that are float32 at a time: on a CPU they stay in its cache, and on a GPU each round is a launch."""


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
    scale /= float(getattr(config, "logits_mup_width_multiplier", None) or 1.0)  # Inkling
    scale *= float(getattr(config, "output_multiplier", None) or 1.0)  # Muse Glimmer
    # Gemma, RecurrentGemma and xLSTM.
    caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return LogitScaling(scale, next((cap for name in caps if (cap := getattr(config, name, None))), None))


def as_head_takes(head: nn.Module, hidden: Tensor) -> Tensor:
    """Return hidden states in the precision of a head's weights, which some decoders do not give: Mamba's is float32.

    Autocast, and a head whose weights are whole numbers of a quantiser, find theirs themselves.
    """
    weight = getattr(head, "weight", None)
    if weight is None or not weight.is_floating_point() or torch.is_autocast_enabled(hidden.device.type):
        return hidden
    return hidden.to(weight.dtype)


def chunk_rows(vocabulary: int, device: torch.device, size: int) -> int:
    """Return how many entries are scored at a time, where each of their logits takes `size` bytes."""
    return max(16, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (vocabulary * size))


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
    """log p(target), in chunks of rows.

    The logits of the last chunk are kept for the backward pass, which becomes their gradient in place; those of the
    others are computed again. A head that is not trained needs no second pass: ∂log p/∂h = W[target] − Σ p W, of the
    size of h, is made at once.
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
        log_sums = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        logps = torch.empty_like(log_sums)
        slopes = torch.empty_like(hidden) if frozen else None
        logits = None
        for at in _spans(len(hidden), rows):
            del logits  # else two chunks would live at a time
            logits = _logits(hidden[at], weight, bias, scaling)
            log_sums[at] = _log_sums(logits, wide)
            logps[at] = logits.gather(1, targets[at, None])[:, 0] - log_sums[at]
            if slopes is not None:
                some = _Entries(targets[at], log_sums[at], torch.ones_like(logps[at]))
                slopes[at] = _by_logits_(logits, None, some, scaling) @ weight
        ctx.frozen, ctx.scaling, ctx.rows = frozen, scaling, rows
        ctx.save_for_backward(*((slopes,) if slopes is not None else (hidden, weight, bias, targets, log_sums)))
        ctx.kept = None if frozen else logits
        return logps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (slopes,) = ctx.saved_tensors
            return (slopes * grad[:, None]).to(slopes.dtype), None, None, None, None, None
        hidden, weight, bias, targets, log_sums = ctx.saved_tensors
        several = len(hidden) > ctx.rows  # chunks add up in float32
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=grad.dtype if several else weight.dtype)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=grad.dtype)
        kept, ctx.kept = ctx.kept, None  # a second backward pass would find it changed
        for at in reversed(_spans(len(hidden), ctx.rows)):
            live = _live(grad[at])
            rows = at if live is None else live + at.start
            if kept is None:
                logits, live = _logits(hidden[rows], weight, bias, ctx.scaling), None
            else:
                logits, kept = kept, None
            by_logits = _by_logits_(logits, live, _Entries(targets[rows], log_sums[rows], grad[rows]), ctx.scaling)
            if d_bias is not None:
                d_bias += by_logits.sum(0, dtype=grad.dtype)
            d_hidden[rows] = by_logits @ weight
            if d_weight.dtype == by_logits.dtype:
                d_weight.addmm_(by_logits.T, hidden[rows])
            else:
                d_weight += by_logits.T @ hidden[rows]
            del logits, by_logits
        return d_hidden, d_weight.to(weight.dtype), None if d_bias is None else d_bias.to(bias.dtype), None, None, None


@dataclasses.dataclass(frozen=True)
class _Entries:
    """Targets, log-sums of logits, and gradients by log-probability of some entries, each (E,)."""

    targets_E: Tensor
    log_sums_E: Tensor
    grad_E: Tensor


def _live(grad_E: Tensor) -> Tensor | None:
    """Which entries have a gradient: tokens that both sides of a pair share often have none. None: all count.

    On a GPU nobody asks, for the answer would have to be waited for.
    """
    return grad_E.nonzero()[:, 0] if grad_E.device.type == "cpu" else None


def _spans(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scaling: LogitScaling) -> Tensor:
    """The model's logits, rounded as its own forward rounds them."""
    return scaling.apply(nn.functional.linear(hidden, weight, bias))


def _log_sums(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Log Σ exp of each row, in `dtype`."""
    found = torch.empty(len(logits), dtype=dtype, device=logits.device)
    for at, room in _wide(len(logits), logits, dtype):
        part = room.copy_(logits[at])
        most = part.amax(1, keepdim=True)
        found[at] = part.sub_(most).exp_().sum(1).log_().add_(most[:, 0])
    return found


def _by_logits_(logits: Tensor, live: Tensor | None, some: _Entries, scaling: LogitScaling) -> Tensor:
    """Turn logits into the gradient by head(hidden), grad · (onehot − p) · slope, in place, and return it.

    Of the `live` rows alone, one after the other from the first row on, where they are given.
    """
    count, dtype = len(some.grad_E), some.grad_E.dtype
    for at, room in _wide(count, logits, dtype):
        # A row is never below the place that it goes to.
        part = room.copy_(logits[at if live is None else _rows(live[at])])
        slope = scaling.slope(part)
        grad = some.grad_E[at, None]
        by_logits = part.sub_(some.log_sums_E[at, None]).exp_().mul_(-grad)
        by_logits.scatter_add_(1, some.targets_E[at, None], grad)
        logits[at] = by_logits if isinstance(slope, float) and slope == 1.0 else by_logits.mul_(slope)
    return logits[:count]


def _rows(live: Tensor) -> slice | Tensor:
    """Rows in rising order, as a slice (which copies nothing) where they follow one another."""
    ends = live.numpy()  # there are such rows on a CPU alone
    first, last = int(ends[0]), int(ends[-1])
    return slice(first, last + 1) if last - first == len(live) - 1 else live


def _wide(count: int, logits: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield so many rows at a time as may be in `dtype`, with room for them: the same again and again, so that it
    stays in a CPU's cache.
    """
    elements = WIDE_ELEMENTS.get(logits.device.type, WIDE_ELEMENTS["cuda"])
    spans = _spans(count, max(1, elements // logits.shape[1]))
    room = torch.empty(spans[0].stop if spans else 0, logits.shape[1], dtype=dtype, device=logits.device)
    for at in spans:
        yield at, room[: at.stop - at.start]
