"""Scores and gradients as one plain forward pass for each sequence gives them, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ratchet.model.forward import PairScorer, score
from ratchet.pairs.pair import TokenisedPair
from tiny_models import EAGER, plain, tiny

EXPERTS = {"mixtral", "gpt-oss", "mimo-v2"}


def plain_model(name: str, **changes: Any) -> Any:
    """As users run it."""
    return tiny(name, attn_implementation="eager" if name in EAGER else "sdpa", **changes)


def plain_scores(model: Any, pairs: list[TokenisedPair]) -> tuple[Tensor, Tensor]:
    """In float64 throughout: transformers' eager attention takes its softmax in float32."""
    exact = nn.functional.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "softmax", lambda scores, dim, dtype=None: exact(scores, dim))
        chosen = torch.stack([plain(model, pair.prompt, pair.chosen) for pair in pairs])
        return chosen, torch.stack([plain(model, pair.prompt, pair.rejected) for pair in pairs])


def largest(ours: nn.Module, theirs: nn.Module) -> float:
    """The largest difference of a gradient, relative to the largest gradient of the model."""
    scale = max(float(weight.grad.abs().max()) for weight in theirs.parameters() if weight.grad is not None)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(float((a.grad - b.grad).abs().max()) for a, b in pairs if b.grad is not None) / scale


def assert_near_plain(
    scorer: PairScorer,
    theirs: Any,
    pairs: list[TokenisedPair],
    scores_of: Callable[[Any, list[TokenisedPair]], tuple[Tensor, Tensor]] = plain_scores,
) -> None:
    """A float32 scorer against a plain float64 model: 2e-5 of 100 nats, and 3e-5 of the largest gradient."""
    scorer.zero_grad()
    theirs.zero_grad()
    scores = score(scorer, pairs, "cpu")
    (scores.chosen_B - 0.7 * scores.rejected_B).sum().backward()
    chosen, rejected = scores_of(theirs, pairs)
    (chosen - 0.7 * rejected).sum().backward()
    for found, wanted in ((scores.chosen_B, chosen), (scores.rejected_B, rejected)):
        assert float((found - wanted).detach().abs().max()) < 2e-7 * float(wanted.detach().abs().max())
    assert largest(scorer.model, theirs) < 3e-5


def long_pairs(answer: int, prompt: int, chosen: int, rejected: int) -> list[TokenisedPair]:
    """Near twins of `answer` tokens below a prompt of 70, and one `chosen` against three `rejected` below another."""
    random = np.random.default_rng(4)
    draw = lambda n: random.integers(3, 61, n).astype(np.int32)  # noqa: E731
    first, right, second = draw(70), draw(answer), draw(prompt)
    twin = right.copy()
    twin[30] = (twin[30] - 3 + 1) % 58 + 3
    sides = [(first, right, twin), *((second, right[:chosen], draw(rejected)) for _ in range(3))]
    return [TokenisedPair(str(k), *side) for k, side in enumerate(sides)]
