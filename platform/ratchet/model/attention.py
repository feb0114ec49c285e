"""Attention over a token forest, behind transformers' own interface: model code stays as it is.

A model under the implementation `NAME` computes as ever, unless its forward is given `tree=`, a
`TreePlan`: then row i sees row j exactly where the forest says so. On a CPU each chain is one call
of torch's flash kernel, on a GPU the forest is one FlexAttention block mask. Where neither kernel can
(soft-capped scores, unequal head sizes) each chain is one call of `dense`, attention by its definition;
over the whole row it is the reference.

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
from ratchet.model.last_layer import is_last, scored_chains
from ratchet.model.tree import Chain
from ratchet.model.trunk import Sight

NAME = "token_tree"
PASS = (1, 1, 1, 1)
"""Shape of the stand-in mask: transformers hands a mask of four dimensions through as it is."""

FLOAT32_UP_TO: Mapping[torch.dtype, float] = {torch.bfloat16: 2**15, torch.float16: math.inf}
"""Own rows times head size up to which a chain's backward pass on a CPU runs in float32, by precision: torch's kernel
is so much slower below float32 that the casts pay. Found by trying (docs/performance.md)."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class TreePlan:
    """What attention needs to know of a `Forest`; masks are made once and serve all layers.

    The first `kept` rows of keys are those of a path that was computed before: they have no queries. `scored_K` are the
    rows whose hidden states are read, int64, rising; without them all are.
    """

    def __init__(
        self, chains: tuple[Chain, ...], end_T: Tensor, scored_K: Tensor | None = None, *, kept: int = 0
    ) -> None:
        self.chains, self.end_T, self.scored_K, self.kept = chains, end_T, scored_K, kept
        self._masks: dict[tuple[int, torch.dtype], Tensor | None] = {}

    def to(self, device: torch.device | str) -> TreePlan:
        """Return the plan on `device`; from pinned memory the copy does not wait."""
        scored_K = None if self.scored_K is None else self.scored_K.to(device, non_blocking=True)
        return TreePlan(self.chains, self.end_T.to(device, non_blocking=True), scored_K, kept=self.kept)

    def mask(self, k: int, dtype: torch.dtype) -> Tensor | None:
        """Return chain k's additive mask (1, 1, own rows, ancestors and own rows); None is plain causal."""
        if (k, dtype) not in self._masks:
            self._masks[k, dtype] = _chain_mask(self.chains[k], dtype)
        return self._masks[k, dtype]

    def own(self, queries_BHTD: Tensor, chain: Chain) -> Tensor:
        """Return a chain's own rows of what has a row for each query: a view."""
        return queries_BHTD.narrow(2, chain.start - self.kept, chain.stop - chain.start)

    @functools.cached_property
    def last(self) -> TreePlan:
        """The plan of the last layer."""
        if self.scored_K is None:
            return self
        return TreePlan(scored_chains(self.chains, (self.scored_K + self.kept).tolist()), self.end_T, kept=self.kept)

    @functools.cached_property
    def sees(self) -> list[Tensor]:
        """Whom each chain's rows see, bool, shape (own rows, ancestors and own rows)."""
        sizes = [(chain.stop - chain.start, chain.above) for chain in self.chains]
        device = self.end_T.device
        return [torch.ones(own, above + own, dtype=torch.bool, device=device).tril(above) for own, above in sizes]

    @functools.cached_property
    def dense(self) -> Tensor:
        """Who sees whom, bool, shape (queries, keys)."""
        row = torch.arange(len(self.end_T), device=self.end_T.device)
        query = row[self.kept :, None]
        return (row[None] <= query) & (query < self.end_T[None])

    @functools.cached_property
    def blocks(self) -> Any:
        """The forest as a FlexAttention block mask."""
        # Uncompiled code writes out all rows by all rows on the way.
        return self.block_mask(compiled=self.end_T.is_cuda)

    def block_mask(self, *, compiled: bool) -> Any:
        """Return the block mask."""
        end_T, rows, kept = self.end_T, len(self.end_T), self.kept

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query + kept) & (query + kept < end_T[key])

        return _mask_maker(compiled)(sees, None, None, rows - kept, rows, device=end_T.device)


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
    scaled-dot-product attention, or `dense` where scores are soft-capped, which that leaves out.
    """
    softcap, sinks = extras.get("softcap"), extras.get("s_aux")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if tree is None:
        return _without_tree(module, query, key, value, attention_mask, scaling, dropout, extras)
    if dropout or sinks is not None or extras.get("position_bias") is not None:
        raise ModelError("attention with dropout, sinks or a position bias", fix="run it unshared")
    query, key, value = _one_dtype(query, key, value)
    if sight is not None:
        key, value = sight.joined(module, key, value)
    if softcap is not None or value.shape[-1] != query.shape[-1]:
        out = _ChainDense.apply(query, key, value, tree, scale, softcap)  # type: ignore[no-untyped-call]
    elif query.is_cuda:
        out = _flex()(query, key, value, block_mask=tree.blocks, scale=scale, enable_gqa=key.shape[1] != query.shape[1])
    else:
        plan = tree.last if is_last(module) else tree
        out = _ChainAttention.apply(query, key, value, plan, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def dense(
    query: Tensor, key: Tensor, value: Tensor, sees_TT: Tensor, scale: float, softcap: float | None = None
) -> Tensor:
    """Attention by its definition, shape (B, H, T, D): softmax in float32 at least over the keys that are seen."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~sees_TT, -math.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(value.dtype) @ value


class _ChainAttention(torch.autograd.Function):
    """One flash call for each chain: its rows against its ancestors' rows and, causally, its own."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, scale: float) -> Tensor:
        joined, sums = rows_like(query), []
        for k, chain in enumerate(plan.chains):
            mask, queries = plan.mask(k, query.dtype), led_rows(plan.own(query, chain), chain)
            out, log_sum = _flash(
                queries, seen_rows(key, chain), seen_rows(value, chain), 0.0, mask is None, attn_mask=mask, scale=scale
            )
            plan.own(joined, chain).copy_(own_rows(out, chain))
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, joined, *sums)
        ctx.plan, ctx.scale = plan, scale
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *sums = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)  # a prompt's keys add up over all its answers
        d_query, d_key, d_value = rows_like(query), rows_like(key, wide), rows_like(value, wide)
        for k, (chain, log_sum) in enumerate(zip(ctx.plan.chains, sums, strict=True)):
            dtype = _backward_dtype(query, chain)
            mask = ctx.plan.mask(k, dtype)
            d_out, queries, outs = (led_rows(ctx.plan.own(some, chain).to(dtype), chain) for some in (grad, query, out))
            keys, values = seen_rows(key, chain).to(dtype), seen_rows(value, chain).to(dtype)
            d_own, d_keys, d_values = _flash_backward(
                d_out, queries, keys, values, outs, log_sum, 0.0, mask is None, attn_mask=mask, scale=ctx.scale
            )
            ctx.plan.own(d_query, chain).copy_(own_rows(d_own, chain))
            add_seen_rows(d_key, d_keys, chain)
            add_seen_rows(d_value, d_values, chain)
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None


class _ChainDense(torch.autograd.Function):
    """One call of `dense` for each chain, and another in the backward pass: no scores are kept."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, scale: float, softcap: float | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.plan, ctx.options = plan, (scale, softcap)
        outs = [
            dense(plan.own(query, chain), seen_rows(key, chain), seen_rows(value, chain), sees, scale, softcap)
            for chain, sees in zip(plan.chains, plan.sees, strict=True)
        ]
        return torch.cat(outs, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        wide = torch.promote_types(key.dtype, torch.float32)  # as above
        d_query, d_key, d_value = rows_like(query), rows_like(key, wide), rows_like(value, wide)
        for chain, sees in zip(ctx.plan.chains, ctx.plan.sees, strict=True):
            rows = ctx.plan.own(query, chain), seen_rows(key, chain), seen_rows(value, chain)
            inputs = tuple(some.detach().requires_grad_() for some in rows)
            with torch.enable_grad():
                out = dense(inputs[0], inputs[1], inputs[2], sees, *ctx.options)
            parts = torch.autograd.grad(out, inputs, ctx.plan.own(grad, chain))
            ctx.plan.own(d_query, chain).copy_(parts[0])
            add_seen_rows(d_key, parts[1], chain)
            add_seen_rows(d_value, parts[2], chain)
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _backward_dtype(query_BHTD: Tensor, chain: Chain) -> torch.dtype:
    """The precision of a chain's backward pass, by its own queries; its gradients are cast back."""
    rows, size, dtype = chain.stop - chain.start, query_BHTD.shape[3], query_BHTD.dtype
    return torch.float32 if rows * size <= FLOAT32_UP_TO.get(dtype, 0) else dtype


def _chain_mask(chain: Chain, dtype: torch.dtype) -> Tensor | None:
    if not chain.ancestors or chain.lead:
        return None
    own, above = chain.stop - chain.start, chain.above
    return torch.full((own, above + own), -math.inf, dtype=dtype).triu(above + 1)[None, None]


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
    # torch's own attention leaves the soft cap out.
    if (softcap := extras.get("softcap")) is not None:
        rows, columns = query.shape[2], key.shape[2]
        causal = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
        scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
        return dense(query, key, value, causal if mask is None else mask, scale, softcap).transpose(1, 2), None
    out: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, **extras
    )
    return out


@functools.cache
def _mask_maker(compiled: bool) -> Callable[..., Any]:
    """Torch's maker of block masks; compiled once, for any row count."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True) if compiled else create_block_mask


@functools.cache
def _flex() -> Callable[..., Tensor]:
    """FlexAttention, compiled once."""
    from torch.nn.attention.flex_attention import flex_attention

    # Row counts vary, so its shapes are dynamic.
    return torch.compile(flex_attention, dynamic=True)
