"""Floating-point operations: those that run, by torch's own counter, and those of plain passes on paper.

A matrix product of (m, k) and (k, n) is 2·m·k·n. Only matrix products count; norms, rotations and softmax
are left out. The embedding is a look-up. The paper shows that the counter misses nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import Sizes

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Work:
    """What passes over some pairs compute, padding included.

    `tokens` go through the layers and `head_rows` through the head. `attended` are the (query, key)
    pairs that causal attention over `tokens` needs, and `attended_computed` those that the kernel works
    on: with an explicit mask that is the whole square. `layers_again` says that the backward pass
    computes the layers a second time, and `head_again` how many rows of the head.
    """

    tokens: int
    head_rows: int
    attended: int
    attended_computed: int
    layers_again: bool = False
    head_again: int = 0


@dataclasses.dataclass(frozen=True)
class Flops:
    """`layers`, `attention` and `head` are what the mathematics asks for; `recomputed` and `masked` come on top."""

    layers: int
    attention: int
    head: int
    recomputed: int
    masked: int

    @property
    def model(self) -> int:
        """Without anything done twice or thrown away."""
        return self.layers + self.attention + self.head

    @property
    def executed(self) -> int:
        """All that the machine does."""
        return self.model + self.recomputed + self.masked


def layer_parameters(of: Sizes) -> int:
    """Return the weights of all layers that matrix products use."""
    query = of.hidden * of.heads * of.head_dim
    key_value = of.hidden * of.key_value_heads * of.head_dim
    return of.layers * (2 * query + 2 * key_value + 3 * of.hidden * of.intermediate)


def training_flops(of: Sizes, work: Work) -> Flops:
    """Count a forward and a backward pass: the backward pass is twice the forward."""
    forward = _forward(of, work)
    masked = 3 * forward.masked
    # Torch stops a layer's second pass once all is there that its backward pass needs: its last product is not.
    last = 2 * of.layers * of.hidden * of.intermediate * work.tokens
    recomputed = (forward.layers - last + forward.attention + forward.masked) * work.layers_again
    recomputed += 2 * of.hidden * of.vocab * work.head_again
    return Flops(3 * forward.layers, 3 * forward.attention, 3 * forward.head, recomputed, masked)


def scoring_flops(of: Sizes, work: Work) -> Flops:
    """Count a forward pass."""
    return _forward(of, work)


def total(parts: Iterable[Work]) -> Work:
    """Add up the work of several passes of the same kind."""
    parts = list(parts)
    sums = (sum(getattr(part, name) for part in parts) for name in _COUNTS)
    return Work(**dict(zip(_COUNTS, sums, strict=True)), layers_again=parts[0].layers_again)


_COUNTS = ("tokens", "head_rows", "attended", "attended_computed", "head_again")


def _forward(of: Sizes, work: Work) -> Flops:
    pair = 4 * of.layers * of.heads * of.head_dim  # query times key, and weight times value
    return Flops(
        layers=2 * layer_parameters(of) * work.tokens,
        attention=pair * work.attended,
        head=2 * of.hidden * of.vocab * work.head_rows,
        recomputed=0,
        masked=pair * (work.attended_computed - work.attended),
    )


def counted(action: Callable[[], T]) -> tuple[T, int]:
    """Run `action`; return its result, and the floating-point operations that torch counts meanwhile.

    Kernels that torch has no formula for are counted here. Kernels from outside torch are not seen.
    """
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        result = action()
    return result, int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Torch's flash kernel on a CPU computes a triangle without a mask, and the whole rectangle with one."""
    (batch, heads, own, width), seen = query, key[2]
    pairs = own * seen if kwargs.get("attn_mask") is not None else own * (own + 1) // 2
    return 4 * batch * heads * width * pairs


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * _attention(query, key, value, **kwargs)


def _product_in_place(total: Any, left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.addmm_: _product_in_place,
}
