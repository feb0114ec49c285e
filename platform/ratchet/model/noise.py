"""How far rounding moves a model's scores, measured on the model itself: the same answers in two layouts.

Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ratchet.model.batch import PADDED, Device, collate
from ratchet.model.forward import Scorer, SideScores
from ratchet.pairs.pair import TokenisedPair

SPREAD = 10.0
"""How many times the measured rounding one answer may be off: 5.5 times was seen, of 140 answers."""
_LEAST = 2.0**-6
"""Rounding that is taken for granted, in units of the precision: a third of the least that was measured."""
_JUMP = 4.0
"""How many times the middle difference one of them may count for what rounding does to most answers."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Settings that say how many experts a layer has."""
_SINGLE = torch.finfo(torch.float32).eps


@dataclasses.dataclass(frozen=True)
class Noise:
    """Squares of the differences that were seen (nats²), and the tokens of the answers that were scored twice.

    `each` has every answer's own difference in nats by the root of its tokens.
    """

    squares: float = 0.0
    tokens: float = 0.0
    each: tuple[float, ...] = ()

    def a_token(self, dtype: torch.dtype) -> float:
        """Return an answer's typical difference in nats by the root of its tokens."""
        # The tokens' differences add up as a random walk.
        seen = math.sqrt(self.squares / self.tokens) if self.tokens else 0.0
        return max(seen, _LEAST * torch.finfo(dtype).eps)

    def without_jumps(self) -> Noise:
        """Return what rounding does to most answers: a difference far beyond theirs counts as four of them.

        In a model with experts such a difference is a choice that rounding turned.
        """
        moved = [one for one in self.each if one > 0.0]
        if not moved:
            return self
        most = _JUMP * statistics.median(moved)
        return Noise(sum(min(one, most) ** 2 for one in self.each), float(len(self.each)))

    def allowed(self, dtype: torch.dtype, tokens_B: Tensor, logps_B: Tensor) -> Tensor:
        """Return how far rounding may take each answer's score, shape (B,), nats; sums are rounded in float32."""
        walk_B = (SPREAD * self.a_token(dtype) + 16 * _SINGLE) * tokens_B.double().sqrt()
        return walk_B + 4 * _SINGLE * logps_B.detach().double().abs()


def combine_noise(parts: Iterable[Noise]) -> Noise:
    """Return several measurements as one."""
    found = list(parts)
    each = tuple(one for part in found for one in part.each)
    return Noise(sum(part.squares for part in found), sum(part.tokens for part in found), each)


@torch.no_grad()
def measure_noise(
    scorer: Scorer, pairs: Sequence[TokenisedPair], scores: SideScores, device: Device, *, chosen_only: bool = False
) -> Noise:
    """Score each answer of `pairs` alone and without sharing, and return how far it is from `scores`.

    Makes two forward passes a pair (`chosen_only`: one).
    """
    sides = [(pair.chosen, scores.chosen_B[i]) for i, pair in enumerate(pairs)]
    if not chosen_only:
        sides += [(pair.rejected, scores.rejected_B[i]) for i, pair in enumerate(pairs)]
    squares = tokens = 0.0
    each: list[float] = []
    # As many passes whatever the pairs are: other workers are in step with this one.
    for k, (answer, known) in enumerate(sides):
        prompt = pairs[k % len(pairs)].prompt
        batch = collate([TokenisedPair("", prompt, answer, answer[:0])], PADDED).to(device)
        off = abs(float(scorer(batch)[0] - known))
        squares += off**2
        tokens += len(answer)
        each.append(off / math.sqrt(max(1, len(answer))))
    return Noise(squares, tokens, tuple(each))


def routes(config: Any) -> bool:
    """Whether a model's tokens go to experts: rounding may turn such a choice, and move a score by a jump."""
    text = config.get_text_config()
    return any((getattr(text, key, None) or 0) > 1 for key in EXPERTS)
