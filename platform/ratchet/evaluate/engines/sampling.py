"""How each row of a batch is drawn by its own rules: temperature, nucleus, seed, length and stop texts.

Drawing is adding Gumbel noise to logits / temperature and taking the largest (Gumbel 1954; Maddison et
al. 2014): the same distribution as sampling, and with a generator for each row no row's draw hangs on
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from ratchet.serving.requests import Sampling

COLDEST = 1e-4
"""Below this temperature an answer is greedy, as in FastChat."""


class Draw(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Turns each row's logits so that the greedy choice is that row's draw."""

    def __init__(self, asked: Sequence[Sampling]) -> None:
        self.asked = asked
        # On the CPU, so that the draw does not depend on the device.
        self.generators = [torch.Generator().manual_seed(sampling.seed or 0) for sampling in asked]

    def __call__(self, input_ids: Tensor, scores_SV: Tensor) -> Tensor:
        """Return scores [S, V] whose largest entry of a row is its next token."""
        drawn_SV = scores_SV.float().clone()
        for row, (sampling, generator) in enumerate(zip(self.asked, self.generators, strict=True)):
            if sampling.temperature < COLDEST:
                continue
            warm_V = drawn_SV[row] / sampling.temperature
            if sampling.top_p < 1.0:
                warm_V = _nucleus(warm_V, sampling.top_p)
            uniform_V = torch.rand(warm_V.shape, generator=generator, dtype=torch.float64)
            noise_V = -torch.log(-torch.log(uniform_V.clamp(min=1e-300, max=1 - 1e-16)))
            drawn_SV[row] = warm_V + noise_V.to(warm_V)
        return drawn_SV


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    """Rule out all but the most likely tokens that together reach `top_p` (Holtzman et al. 2020)."""
    ordered_V, order_V = logits_V.sort(descending=True)
    before_V = ordered_V.softmax(-1).cumsum(-1) - ordered_V.softmax(-1)
    return logits_V.masked_fill(
        torch.zeros_like(logits_V, dtype=torch.bool).scatter(0, order_V, before_V >= top_p), -torch.inf
    )


class Done(StoppingCriteria):  # type: ignore[misc]
    """Ends a row at its own length, or once one of its stop texts stands in it."""

    def __init__(self, asked: Sequence[Sampling], tokenizer: Any, width: int) -> None:
        self.asked, self.tokenizer, self.width = asked, tokenizer, width
        self.over = [False] * len(asked)

    def __call__(self, input_ids_ST: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows [S] are over."""
        made = input_ids_ST.shape[1] - self.width
        for row, sampling in enumerate(self.asked):
            if not self.over[row]:
                self.over[row] = made >= sampling.max_tokens or self._stopped(input_ids_ST[row], sampling.stop)
        return torch.tensor(self.over, device=input_ids_ST.device)

    def _stopped(self, ids_T: Tensor, stop: Sequence[str]) -> bool:
        if not stop:
            return False
        # The end is enough: what came before was looked at when it came.
        reach = max(map(len, stop)) + 8
        text = self.tokenizer.decode(ids_T[max(self.width, len(ids_T) - reach) :], skip_special_tokens=True)
        return any(one in text for one in stop)


def cut_answers(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [at for one in stop if (at := text.find(one)) >= 0]
    return text[: min(ends)] if ends else text
