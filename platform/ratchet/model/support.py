"""Whether a model can take token forests: read from its configuration, then proven on a few tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model import attention
from ratchet.model.batch import PADDED, Packing, SequenceBatch, branches_of, collate, collate_trunk
from ratchet.model.load import original_length
from ratchet.model.parts import decoder_of
from ratchet.model.states import carriers, carry_states, largest_share, looks_back, states_disproof
from ratchet.model.tree import Sharing, lay_out
from ratchet.model.tree_plan import TreePlan
from ratchet.model.trunk import Sight, Trunk
from ratchet.pairs.pair import TokenisedPair
from ratchet.store.machine import out_of_memory

logger = logging.getLogger(__name__)

_Forward = Callable[[SequenceBatch], Tensor]

_OTHER_LAYERS = {
    "indexed_attention": "choose each row's keys by an index",
    "minimax_m3_sparse": "choose each row's keys by an index",
    "compressed_sparse_attention": "see keys that several tokens are compressed to",
    "heavily_compressed_attention": "see keys that several tokens are compressed to",
}
"""What layers of other kinds do that a forest does not allow for."""
_CARRYING = {"linear_attention", "mamba", "conv", "hybrid", "hybrid_sliding"}
"""Layers that carry a state from row to row: `states` copies it at forks where transformers' own cache holds it."""
_KNOWN_LAYERS = {
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "attention",
    "global",
    "local",
    "moe",
    "mlp",
}
_SHORTEST = 16
"""The sequences of the proof must fit."""
_WINDOW_TRIED = 5
"""Rows that a window is narrowed to in the proof, whose sequences are longer."""
_BATCH_ROUTING = ("expert_capacity", "moe_expert_capacity", "capacity_factor", "moe_capacity_factor")


def packing_of(causal: Any, sharing: Sharing, forward: _Forward, device: torch.device) -> Packing:
    """Return how the sequences of a causal language model are laid out, and set its attention to match.

    `forward` gives a batch's summed log-probabilities, by this model, wherever it is now; `device` is
    where it will run: another one's kernel is compared with `attention.dense` there. A model whose layers look
    beyond attention, whose routing depends on its batch, or whose forest scores are not its padded
    scores, is left as it was and runs unshared; the reason is logged and stands in the packing. So does the reason
    why its prompts do not stay across passes, where scores after a kept one are not the forest's. Sliding windows are
    tried narrow; where the forest's are not the model's, sequences that are longer than a window are padded.
    """
    reason, longest = make_up(causal)
    if reason is None:
        before = causal.config._attn_implementation
        attention.register()
        carry_states(decoder_of(causal))
        causal.set_attn_implementation(attention.NAME)
        packing = Packing(sharing, longest)
        reason = lost_states(causal, device) or _disproof(causal, packing, forward) or _kernel_disproof(causal, device)
        if reason is None:
            return _across(causal, _within(causal, packing, forward), forward)
        causal.set_attn_implementation(before)
    logger.warning("%s shares no tokens: %s", type(causal).__name__, reason)
    return Packing(sharing, why_padded=reason)


def make_up(causal: Any) -> tuple[str | None, int | None]:
    """Return what in a model's make-up forbids forests, or None, and how long a sequence of one may be (None: any).

    Sliding windows are no limit here: `narrowed` lets a caller try them.
    """
    config = causal.config.get_text_config()
    reason, longest = _reason(causal, config), _longest(config)
    if reason is None and longest is not None and longest < _SHORTEST:
        reason = f"its attention reaches {longest} tokens only"
    return reason, longest


def window_of(causal: Any) -> int | None:
    """Return how many tokens a row of a model's sliding layers sees; None where no layer slides."""
    config = causal.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    slides = any("sliding" in name for name in layers) if layers else getattr(config, "use_sliding_window", True)
    return (getattr(config, "sliding_window", None) or None) if slides else None


@contextlib.contextmanager
def narrowed(causal: Any, window: int) -> Iterator[None]:
    """Let the sliding layers of a model, whose window is `window`, see a few tokens only."""
    holders = [causal.config.get_text_config(), *causal.modules()]
    changed = [holder for holder in holders if getattr(holder, "sliding_window", None) == window]
    for holder in changed:
        holder.sliding_window = _WINDOW_TRIED
    try:
        yield
    finally:
        for holder in changed:
            holder.sliding_window = window


def _reason(causal: Any, config: Any) -> str | None:
    """Return what in a model's make-up forbids forests, or None."""
    layers = list(getattr(config, "layer_types", None) or ())
    carrying = [name for name in layers if name in _CARRYING]
    if len(carriers(causal)) < len(carrying):
        return f"its layers are {', '.join(sorted(set(carrying)))}, whose state is kept in a way not known here"
    if other := sorted({*layers} - _KNOWN_LAYERS - _CARRYING):
        does = {name: _OTHER_LAYERS.get(name, "are not known here") for name in other}
        parts = [(", ".join(name for name in other if does[name] == one), one) for one in dict.fromkeys(does.values())]
        return f"its layers are {', and '.join(f'{names}, which {one}' for names, one in parts)}"
    for key in _BATCH_ROUTING:
        if getattr(config, key, None):
            return f"its experts take a share of the batch ({key})"
    if found := looks_back(decoder_of(causal)):
        return f"{type(found[0]).__name__} sees rows by a convolution of its own code"
    attends = not layers or any(name not in _CARRYING or name.startswith("hybrid") for name in layers)
    # Families with states do not say of themselves that others may attend for them, though they hand on all of it.
    taken = causal._can_set_attn_implementation() and (causal._supports_attention_backend or carriers(causal))
    return "its attention is its own code" if attends and not taken else None


def _longest(config: Any) -> int | None:
    """Return how long a sequence may be: to the end of a chunk, or to where rotary scaling begins to change."""
    limits = [getattr(config, "attention_chunk_size", None), original_length(config)]
    return min((limit for limit in limits if limit), default=None)


def _disproof(causal: Any, packing: Packing, forward: _Forward) -> str | None:
    """Return how the model's scores of a small forest differ from its padded scores, or None."""

    def scores(pairs: list[TokenisedPair], device: torch.device) -> tuple[Tensor, Tensor]:
        forest_S, padded_S = (forward(collate(pairs, kind).to(device)) for kind in (packing, PADDED))
        return forest_S, padded_S

    return _difference(causal, scores, "it does not run as a forest", "its scores of shared tokens")


def _within(causal: Any, packing: Packing, forward: _Forward) -> Packing:
    """Return the packing; sequences fit a model's window where its scores under a narrow one are not the padded."""
    window = window_of(causal)
    if window is None or window <= _WINDOW_TRIED:
        return packing  # proven already

    def narrow_and_wide(pairs: list[TokenisedPair], device: torch.device, *, layout: Packing) -> tuple[Tensor, Tensor]:
        batch = collate(pairs, layout).to(device)
        with narrowed(causal, window):
            narrow_S = forward(batch)
        return narrow_S, forward(batch)

    reason: str | None = "a narrower one changes no score, so that it cannot be tried"
    ways = (functools.partial(narrow_and_wide, layout=layout) for layout in (PADDED, packing))
    # Any difference will do: where none is, the model or its forest was not told of the narrower one.
    if all(_difference(causal, way, "it does not run", "its scores", allowed=0.0) for way in ways):
        with narrowed(causal, window):
            reason = _disproof(causal, packing, forward)
    if reason is None:
        return packing
    longest = window if packing.longest is None else min(window, packing.longest)
    logger.warning("%s pads what is longer than its window of %d: %s", type(causal).__name__, window, reason)
    return dataclasses.replace(packing, longest=longest)


def _across(causal: Any, packing: Packing, forward: _Forward) -> Packing:
    """Return the packing; its prompts do not stay across passes where scores after a kept one are not the forest's."""

    def scores(pairs: list[TokenisedPair], device: torch.device) -> tuple[Tensor, Tensor]:
        twins, trunk = pairs[:2], Trunk()
        prompt = twins[0].prompt
        kept = len(prompt) - 1
        forward(collate_trunk(prompt, kept, Sight(trunk, 0, own=True)).to(device))
        seeing = collate(twins, packing, sight=Sight(trunk, kept, own=False))
        return forward(seeing.to(device)), forward(collate(twins, packing).to(device))

    if packing.sharing == "none":
        return packing
    reason = _difference(causal, scores, "its keys and values cannot be kept", "its scores after a kept prompt")
    if reason is None:
        return packing
    logger.warning("%s computes a prompt in each pass of its answers: %s", type(causal).__name__, reason)
    return dataclasses.replace(packing, why_repeated=reason)


def _difference(
    causal: Any,
    scores: Callable[[list[TokenisedPair], torch.device], tuple[Tensor, Tensor]],
    fails: str,
    what: str,
    allowed: float | None = None,
) -> str | None:
    """Return how two ways to the scores of a few pairs differ, without dropout, or None. What is tried may fail.

    As much is allowed as the model's precision rounds, unless `allowed` says how many nats.
    """
    weight = causal.get_input_embeddings().weight
    was_training = causal.training
    causal.eval()
    try:
        with torch.no_grad():
            found_S, wanted_S = (some_S.double() for some_S in scores(_probe(weight.shape[0]), weight.device))
    except (TypeError, ValueError, RuntimeError, AttributeError, ModelError) as error:
        if out_of_memory(f"{type(error).__name__}: {error}"):  # which says nothing of the model
            raise
        return f"{fails} ({str(error).strip().splitlines()[0]})"
    finally:
        causal.train(was_training)
    off = float((found_S - wanted_S).abs().max())
    if allowed is None:
        allowed = float(wanted_S.abs().max()) * (1e-4 if weight.dtype in {torch.float32, torch.float64} else 0.02)
    return None if off <= allowed else f"{what} are off by {off:.3g} nats"


def _kernel_disproof(causal: Any, device: torch.device) -> str | None:
    """Compare the kernel where the model will run, if that is another device than the one it is proven on."""
    weight, config = causal.get_input_embeddings().weight, causal.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    if device == weight.device or not heads:
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    sinks = any(getattr(module, "sinks", None) is not None for module in causal.modules())
    kinds: set[tuple[bool, int | None]] = {(sinks, None), (sinks, window_of(causal) and _WINDOW_TRIED)}
    reasons = (
        kernel_disproof(heads, key_heads, size, weight.dtype, device, sinks=sinks, window=window)
        for sinks, window in sorted(kinds, key=str)
    )
    return next(filter(None, reasons), None)


def kernel_disproof(
    heads: int,
    key_heads: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    sinks: bool = False,
    window: int | None = None,
) -> str | None:
    """Return how a device's kernel, forward and backward, differs from attention by its definition, or None."""
    plan = _probe_plan().to(device)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    rows = len(plan.end_T)
    query, key, value = (random(1, count, rows, size) for count in (heads, key_heads, key_heads))
    sinks_H = random(heads) if sinks else None
    inputs = (query, key, value) if sinks_H is None else (query, key, value, sinks_H)
    wide = torch.promote_types(dtype, torch.float32)
    try:
        sees = plan.within(window).dense
        exact = attention.dense(query.to(wide), key.to(wide), value.to(wide), sees, size**-0.5, None, sinks_H)
        kernel, _ = attention.attend(
            torch.nn.Identity(), query, key, value, None, tree=plan, s_aux=sinks_H, sliding_window=window
        )
        found, wanted = (
            (out.detach(), *torch.autograd.grad(out.square().sum(), inputs)) for out in (kernel, exact.transpose(1, 2))
        )
    except RuntimeError as error:  # torch's compiler errors are of this kind too
        if out_of_memory(f"{type(error).__name__}: {error}"):  # which says nothing of the kernel
            raise
        return f"attention over a forest does not run on {device} ({str(error).strip().splitlines()[0]})"
    off = largest_share(zip(found, wanted, strict=True))
    allowed = 2e-3 if wide == dtype else 5e-2
    return None if off <= allowed else f"attention over a forest is off by {off:.3g} on {device}"


def lost_states(causal: Any, device: torch.device) -> str | None:
    """Return how a layer that carries a state loses it at the forks of a small forest, or None."""
    return states_disproof(causal, _probe_plan(), device)


def _probe_plan() -> TreePlan:
    forest = lay_out(branches_of(_probe(1000))[0], "auto")
    return TreePlan(forest.chains, torch.from_numpy(forest.end_T))


def _probe(vocabulary: int) -> list[TokenisedPair]:
    """Near twins, one chosen with two rejected, and a stranger; prompts long enough to be shared."""
    # A prime, so that the ids differ and are spread over the vocabulary.
    ids = (np.arange(1, 41) * 7919 % vocabulary).astype(np.int32)
    prompt, other = ids[:9], ids[9:19]
    return [
        TokenisedPair("twins", prompt, ids[19:25], np.concatenate([ids[19:22], ids[30:33]])),
        # Branches that part one token after the other.
        TokenisedPair("again", prompt, ids[19:25], np.concatenate([ids[19:20], ids[33:36]])),
        TokenisedPair("third", prompt, ids[19:25], np.concatenate([ids[19:21], ids[36:39]])),
        TokenisedPair("other", other, ids[25:28], ids[28:33]),
    ]
