"""How a model's tokens find their experts: without noise, heard in each pass, and balanced by a loss where asked.

Routers are what transformers records as `router_logits`, in any family. The loss is that of Switch Transformers
(Fedus et al. 2021, equations 4 to 6) as transformers computes it: E Σ_x f_x P_x, over the tokens of all routers
together. f_x counts how often expert x is among a token's first K, and P_x is its mean probability. A token that a
pass computes once for several sequences counts once for each, so sharing changes nothing; padding counts for nothing.

Legend: _T rows of a call, _X experts, _K choices of a token.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ratchet.errors import ModelError
from ratchet.model.parts import decoder_of
from ratchet.model.router_loss import ARGUMENTS, FUNCTION, no_router_loss

_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
_CHOICES = ("num_experts_per_tok", "num_experts_per_token")


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


@dataclasses.dataclass(frozen=True)
class Routing:
    """What the routers of one pass said of its tokens, each token as often as sequences have it.

    `chosen` counts the tokens that went to each expert, by router, float64. With a router loss `counts_X` counts the
    first K by probability, over all routers, `chances_X` adds up probabilities, with a graph, and `tokens` are their
    rows.
    """

    chosen: list[Tensor]
    counts_X: Tensor
    chances_X: Tensor
    tokens: Tensor


class Routers:
    """A model's routers, and what they say in passes over rows that are counted (`over`).

    `places` are the numbers of their layers and `sizes` their experts. `weight` is that of the router loss, 0 without
    one. Raises no error where a model has none: there are no places then.
    """

    def __init__(self, causal: Any) -> None:
        self.causal, self.weight = causal, 0.0
        self.places: list[int] = []
        self.sizes: list[int] = []
        self._known: list[int] = []
        self._rows: Mapping[int, Tensor] | None = None
        self._calls: list[tuple[int, Tensor, Tensor]] = []
        self._chosen: dict[int, Tensor] = {}
        self._choices = _first(causal, _CHOICES)
        self.names: list[str] = []
        for name, module, index in _routers(decoder_of(causal)):
            module.register_forward_hook(functools.partial(self._hear, len(self.names), index))
            self.names.append(name)

    def settle(self) -> None:
        """Keep the routers that were heard in the pass before, with their experts: others are of an unknown kind."""
        self._known = sorted(self._chosen)
        self.sizes = [len(self._chosen[one]) for one in self._known]
        numbers = [re.search(r"\d+", self.names[one]) for one in self._known]
        self.places = [k if found is None else int(found[0]) for k, found in enumerate(numbers)]

    def balance(self, asked: float | str) -> None:
        """Take the weight of the router loss: a number, or `model` for that of the configuration. Raises ModelError."""
        loss = getattr(sys.modules[type(self.causal).__module__], FUNCTION, None)
        if loss is None or [*inspect.signature(loss).parameters] != ARGUMENTS or len({*self.sizes}) != 1:
            more = "" if self.names else ": it has no routers that transformers records"
            raise no_router_loss(type(self.causal).__name__, "router_loss", more)
        weight = _first(self.causal, _WEIGHTS) if asked == "model" else asked
        if weight is None or self._choices is None:
            raise ModelError(
                "config.json names no router_aux_loss_coef",
                where="router_loss",
                fix="give the weight of the router loss as a number, such as 0.001",
                code="model.router-loss",
            )
        self.weight = float(weight)

    @contextlib.contextmanager
    def over(self, times_T: Tensor, scored_K: Tensor | None = None) -> Iterator[None]:
        """Hear a call over rows that stand for `times_T` tokens each; some routers see those of `scored_K` alone."""
        self._rows = {len(times_T): times_T}
        if scored_K is not None:
            self._rows = {len(scored_K): times_T[scored_K], **self._rows}
        try:
            yield
        finally:
            # So that nothing is heard where activations are computed again.
            self._rows = None

    def begin(self) -> None:
        """Forget the pass before."""
        self._calls.clear()
        self._chosen.clear()

    def _hear(self, place: int, index: int, _module: nn.Module, _args: Any, out: Any) -> None:
        if self._rows is None:
            return
        parts = out if isinstance(out, tuple) else (out,)
        logits_TX = parts[index]
        times_T = self._rows.get(len(logits_TX)) if logits_TX.dim() == 2 else None
        chosen_TK = next((one for one in parts if _names_experts(one, logits_TX)), None)
        if times_T is None or (chosen_TK is None and self._choices is None):
            return
        with torch.no_grad():
            if chosen_TK is None:
                chosen_TK = logits_TX.topk(int(self._choices or 0), -1).indices
            found_X = _counted(chosen_TK, times_T, logits_TX.shape[1])
        self._chosen[place] = self._chosen[place] + found_X if place in self._chosen else found_X
        if self.weight:
            # Nothing with a gradient is computed here: this may be within a layer that is computed again.
            self._calls.append((place, logits_TX, times_T))

    def take(self) -> Routing:
        """Return what was heard in the pass before, and forget it."""
        device = self.causal.get_input_embeddings().weight.device
        zeros = {one: torch.zeros(size, dtype=torch.float64, device=device) for one, size in self._sized()}
        chosen = [self._chosen.get(one, nothing) for one, nothing in zeros.items()]
        size = self.sizes[0] if self.weight else 0
        counts_X = torch.zeros(size, dtype=torch.float64, device=device)
        chances_X, tokens = counts_X, counts_X.new_zeros(())
        for _, logits_TX, times_T in self._calls:
            wide = torch.promote_types(logits_TX.dtype, torch.float32)
            odds_TX = logits_TX.softmax(-1, dtype=wide)
            with torch.no_grad():
                counts_X = counts_X + _counted(odds_TX.topk(int(self._choices or 0), -1).indices, times_T, size)
                tokens = tokens + times_T.sum()
            chances_X = chances_X + (times_T.to(wide) @ odds_TX).double()
        self.begin()
        return Routing(chosen, counts_X, chances_X, tokens)

    def _sized(self) -> list[tuple[int, int]]:
        return list(zip(self._known, self.sizes, strict=True))


def load_metrics(places: Sequence[int], loads: Sequence[Tensor]) -> dict[str, float]:
    """Return how evenly experts were used, from how often each was chosen, by router: the metrics of a step.

    ``experts/most`` and ``least`` are shares of a router's choices, of the expert that has most and least of all.
    ``experts/peak`` is the largest load in even shares; ``experts/peak/3`` that of layer 3. ``experts/entropy`` is 1
    where all have the same, a mean over routers, and ``experts/dead`` counts experts that no token went to.
    """
    shares = [load_X / load_X.sum().clamp(min=1) for load_X in loads]
    if not shares:
        return {}
    peaks = {f"experts/peak/{place}": float(one.max()) * len(one) for place, one in zip(places, shares, strict=True)}
    even = [float(torch.special.entr(one).sum()) / math.log(max(len(one), 2)) for one in shares]
    return {
        "experts/most": max(float(one.max()) for one in shares),
        "experts/least": min(float(one.min()) for one in shares),
        "experts/peak": max(peaks.values()),
        "experts/entropy": sum(even) / len(even),
        "experts/dead": float(sum(int((one == 0).sum()) for one in shares)),
        **peaks,
    }


def _counted(chosen_TK: Tensor, times_T: Tensor, experts: int) -> Tensor:
    """Return how often each expert was chosen, float64, shape (X,)."""
    weights_TK = times_T.double()[:, None].expand_as(chosen_TK)
    counts_X = torch.zeros(experts, dtype=torch.float64, device=chosen_TK.device)
    return counts_X.index_add_(0, chosen_TK.reshape(-1), weights_TK.reshape(-1))


def _names_experts(one: Any, logits_TX: Tensor) -> bool:
    """Whether a part of a router's output is the experts that it chose, shape (T, K)."""
    whole = isinstance(one, Tensor) and one.dtype == torch.int64
    return whole and one.dim() == 2 and len(one) == len(logits_TX)


def _routers(decoder: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """Return a decoder's routers by name, each with which part of its output the logits are."""
    found: dict[tuple[int, int], tuple[str, nn.Module, int]] = {}
    for part in decoder.modules():
        recorders = (getattr(part, "_can_record_outputs", None) or {}).get("router_logits", [])
        for recorder in recorders if isinstance(recorders, list) else [recorders]:
            for name, module in _recorded(part, recorder):
                found.setdefault((id(module), recorder.index), (name, module, recorder.index))
    return list(found.values())


def _recorded(part: nn.Module, recorder: Any) -> Iterator[tuple[str, nn.Module]]:
    plain = recorder.target_class is nn.Linear
    for name, module in part.named_modules():
        # Of a plain linear module with an adapter the wrapper gives the logits; of others the module within.
        if plain and re.search(r"\.(base_layer|lora_\w+)\b", name):
            continue
        kind = getattr(module, "base_layer", module) if plain else module
        here = recorder.layer_name is None or f".{recorder.layer_name.strip('.')}." in f".{name}."
        if here and isinstance(kind, recorder.target_class):
            yield name, module


def _first(causal: Any, keys: Sequence[str]) -> Any:
    """Return the first of some settings that a model or its configuration has."""
    places = (causal, causal.config.get_text_config())
    return next((found for one in places for key in keys if (found := getattr(one, key, None)) is not None), None)
