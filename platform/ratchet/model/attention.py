"""Attention over a token forest, behind transformers' own interface: model code stays as it is.

A model under the implementation `NAME` computes as ever, unless its forward is given `tree=`, a
`TreePlan`: then row i sees row j exactly where the forest says so. On a CPU each chain is one call
of torch's flash kernel, on a GPU the forest is one FlexAttention block mask. Where neither kernel can
(soft-capped scores, unequal head sizes) each chain is one call of `dense`, attention by its definition;
over the whole row it is the reference.

A head may have a sink: a logit of its own in the softmax's denominator, without a value (gpt-oss). No kernel knows it.
With L, the logarithm of a row's sum of exponentials, and a sink s, a kernel's output is multiplied by
e^L / (e^L + e^s). Given that output and log(e^L + e^s) for L, the kernel's backward pass is that of the whole: the
sink is a column of value 0.

Legend: _BHTD batch (1 here), heads, rows, head size; _TT rows by rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ratchet.errors import ModelError
from ratchet.model.chain_rows import add_seen_rows, led_rows, own_rows, rows_like, seen_rows
from ratchet.model.last_layer import is_last
from ratchet.model.tree import Chain
from ratchet.model.tree_plan import TreePlan
from ratchet.model.trunk import Sight

NAME = "token_tree"
PASS = (1, 1, 1, 1)
"""Shape of the stand-in mask: transformers hands a mask of four dimensions through as it is."""

FLOAT32_UP_TO: Mapping[torch.dtype, float] = {torch.bfloat16: 2**15, torch.float16: math.inf}
"""Own rows times head size up to which a chain's backward pass on a CPU runs in float32, by precision: torch's kernel
is so much slower below float32 that the casts pay. Found by trying (docs/performance.md)."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def register() -> None:
    """Make `NAME` known to transformers; more than once does no harm."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreePlan | None = None,
    sight: Sight | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: (1, H, T, D) in, (1, T, H, D) out. Raises ModelError.

    Fewer key than query heads (grouped queries) are allowed. Without `tree` this is torch's
    scaled-dot-product attention, or `dense` where scores are soft-capped or heads have sinks, which that leaves out.
    """
    softcap, sinks = extras.get("softcap"), extras.get("s_aux")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if tree is None:
        return _without_tree(module, query, key, value, attention_mask, scaling, dropout, extras)
    if dropout or extras.get("position_bias") is not None:
        raise ModelError("attention with dropout or a position bias", fix="run it unshared")
    tree = (tree.last if is_last(module) and not query.is_cuda else tree).within(extras.get("sliding_window"))
    query, key, value = _one_dtype(query, key, value)
    if sight is not None:
        key, value = sight.joined(module, key, value)
    if softcap is not None or value.shape[-1] != query.shape[-1]:
        out = _ChainDense.apply(query, key, value, sinks, tree, scale, softcap)  # type: ignore[no-untyped-call]
    elif query.is_cuda:
        out = over_blocks(_flex(), query, key, value, sinks, tree, scale)
    else:
        out = _ChainAttention.apply(query, key, value, sinks, tree, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees_TT: Tensor,
    scale: float,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Attention by its definition, shape (B, H, T, D): softmax in float32 at least over the keys that are seen, and
    over each head's sink where there are some.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~sees_TT, -math.inf)
    keys = scores.shape[-1]
    if sinks_H is not None:
        scores = torch.cat([scores, sinks_H.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights[..., :keys].to(value.dtype) @ value


def over_blocks(
    flex: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks_H: Tensor | None,
    plan: TreePlan,
    scale: float,
) -> Tensor:
    """Attention by FlexAttention, which `flex` is, shape (B, H, T, D)."""
    asked = {"block_mask": plan.blocks, "scale": scale, "enable_gqa": key.shape[1] != query.shape[1]}
    if sinks_H is None:
        return flex(query, key, value, **asked)  # type: ignore[no-any-return]
    from torch.nn.attention.flex_attention import AuxRequest

    out, more = flex(query, key, value, **asked, return_aux=AuxRequest(lse=True))
    return _with_sinks(out, more.lse, sinks_H)[0]


def _with_sinks(out_BHTD: Tensor, log_sum_BHT: Tensor, sinks_H: Tensor) -> tuple[Tensor, Tensor]:
    """Return a kernel's output and logarithms of sums with each head's sink among what its rows see."""
    with_sinks = torch.logaddexp(log_sum_BHT, sinks_H.to(log_sum_BHT.dtype)[:, None])
    return (out_BHTD * (log_sum_BHT - with_sinks).exp()[..., None]).to(out_BHTD.dtype), with_sinks


class _ChainAttention(torch.autograd.Function):
    """One flash call for each chain: its rows against its ancestors' rows and, causally, its own."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, plan: TreePlan, scale: float
    ) -> Tensor:
        joined, sums = rows_like(query), []
        for chain in plan.chains:
            mask, queries = plan.mask(chain, query.dtype), led_rows(plan.own(query, chain), chain)
            out, log_sum = _flash(
                queries, seen_rows(key, chain), seen_rows(value, chain), 0.0, mask is None, attn_mask=mask, scale=scale
            )
            if sinks is not None:
                out, log_sum = _with_sinks(out, log_sum, sinks)
            plan.own(joined, chain).copy_(own_rows(out, chain))
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, sinks, joined, *sums)
        ctx.plan, ctx.scale = plan, scale
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, *sums = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)  # a prompt's keys add up over all its answers
        d_query, d_key, d_value = rows_like(query), rows_like(key, wide), rows_like(value, wide)
        d_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=torch.promote_types(sinks.dtype, wide))
        for chain, log_sum in zip(ctx.plan.chains, sums, strict=True):
            dtype = _backward_dtype(query, chain)
            mask = ctx.plan.mask(chain, dtype)
            d_out, queries, outs = (led_rows(ctx.plan.own(some, chain).to(dtype), chain) for some in (grad, query, out))
            keys, values = seen_rows(key, chain).to(dtype), seen_rows(value, chain).to(dtype)
            d_own, d_keys, d_values = _flash_backward(
                d_out, queries, keys, values, outs, log_sum, 0.0, mask is None, attn_mask=mask, scale=ctx.scale
            )
            ctx.plan.own(d_query, chain).copy_(own_rows(d_own, chain))
            add_seen_rows(d_key, d_keys, chain)
            add_seen_rows(d_value, d_values, chain)
            if d_sinks is not None:
                weights = (sinks.to(log_sum.dtype)[:, None] - log_sum).exp()
                d_sinks -= ((d_out.to(wide) * outs.to(wide)).sum(-1) * weights).sum((0, 2))
        d_sinks = None if d_sinks is None else d_sinks.to(sinks.dtype)
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), d_sinks, None, None


class _ChainDense(torch.autograd.Function):
    """One call of `dense` for each chain, and another in the backward pass: no scores are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        plan: TreePlan,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, sinks)
        ctx.plan, ctx.options = plan, (scale, softcap)
        joined = query.new_zeros(*query.shape[:3], value.shape[3])
        for chain, sees in zip(plan.chains, plan.sees, strict=True):
            rows = plan.own(query, chain), seen_rows(key, chain), seen_rows(value, chain)
            plan.own(joined, chain).copy_(dense(*rows, sees, scale, softcap, sinks))
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)  # as above
        d_query, d_key, d_value = rows_like(query), rows_like(key, wide), rows_like(value, wide)
        d_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=torch.promote_types(sinks.dtype, wide))
        for chain, sees in zip(ctx.plan.chains, ctx.plan.sees, strict=True):
            rows = ctx.plan.own(query, chain), seen_rows(key, chain), seen_rows(value, chain)
            inputs = tuple(some.detach().requires_grad_() for some in (*rows, *(() if sinks is None else (sinks,))))
            with torch.enable_grad():
                out = dense(inputs[0], inputs[1], inputs[2], sees, *ctx.options, *inputs[3:])
            parts = torch.autograd.grad(out, inputs, ctx.plan.own(grad, chain))
            ctx.plan.own(d_query, chain).copy_(parts[0])
            add_seen_rows(d_key, parts[1], chain)
            add_seen_rows(d_value, parts[2], chain)
            if d_sinks is not None:
                d_sinks += parts[3]
        d_sinks = None if d_sinks is None else d_sinks.to(sinks.dtype)
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), d_sinks, None, None, None


def _backward_dtype(query_BHTD: Tensor, chain: Chain) -> torch.dtype:
    """The precision of a chain's backward pass, by its own queries; its gradients are cast back."""
    rows, size, dtype = chain.stop - chain.start, query_BHTD.shape[3], query_BHTD.dtype
    return torch.float32 if rows * size <= FLOAT32_UP_TO.get(dtype, 0) else dtype


def _one_dtype(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast in its precision (rotary embeddings leave float32 queries and keys behind)."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _without_tree(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    extras: dict[str, Any],
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask is not None and tuple(mask.shape) == PASS and query.shape[2] > 1:
        raise ModelError("the tree did not reach attention", fix="run it unshared")
    softcap, sinks = extras.get("softcap"), extras.get("s_aux")
    # torch's own attention leaves both out.
    if softcap is not None or sinks is not None:
        rows, columns = query.shape[2], key.shape[2]
        causal = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
        scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
        sees = causal if mask is None else mask
        return dense(query, key, value, sees, scale, softcap, sinks).transpose(1, 2), None
    out: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, **extras
    )
    return out


@functools.cache
def _flex() -> Callable[..., Tensor]:
    """FlexAttention, compiled once."""
    from torch.nn.attention.flex_attention import flex_attention

    # Row counts vary, so its shapes are dynamic.
    return torch.compile(flex_attention, dynamic=True)
