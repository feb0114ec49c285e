"""Tokens that a stage's pairs take, padded, packed and shared in each order, and what a setting would save."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

Counted = Literal["counted", "sampled", "plain", "characters"]
"""`counted`: all pairs, as training has them. `sampled`: some prompts of them. `plain`: by the tokenizer, without the
chat template's tokens. `characters`: without a tokenizer, at four characters a token.
"""
_HOW: Final[dict[Counted, str]] = {
    "counted": "counted on all {pairs} pairs",
    "sampled": "about, from a sample of {pairs} pairs",
    "plain": "about, without the chat template's tokens, on {pairs} pairs",
    "characters": "about, by characters (no tokenizer is here yet), on {pairs} pairs",
}
WORTH_SAYING: Final = 1.1
"""How many times fewer tokens a setting must take to be named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenUse:
    """Tokens a pair of stages with the same data, batch and order.

    `padded`: as TRL pads a batch of `batch` pairs. `packed`: without padding, nothing shared. `by_pairs` and
    `by_prompts`: what training computes with each `shuffle`. `several` is the share of pairs whose prompt has more.
    """

    stages: tuple[str, ...]
    shuffle: Literal["pairs", "prompts"]
    batch: int
    pairs: int
    how: Counted
    padded: float
    packed: float
    by_pairs: float
    by_prompts: float
    several: float

    @property
    def planned(self) -> float:
        """Tokens a pair with the plan's order."""
        return self.by_prompts if self.shuffle == "prompts" else self.by_pairs

    @property
    def saves(self) -> float:
        """How many times fewer tokens it is where the pairs of a prompt stay together."""
        return self.planned / self.by_prompts


def use_in_words(use: TokenUse) -> list[str]:
    """Return one or two plain lines: what was counted, and the key to set where that saves something."""
    how = _HOW[use.how].format(pairs=f"{use.pairs:,}")
    line = (
        f"{', '.join(use.stages)}: {use.planned:,.0f} tokens a pair with shuffle: {use.shuffle}; "
        f"{use.by_prompts:,.0f} with the pairs of a prompt together, {use.packed:,.0f} packed without sharing, "
        f"{use.padded:,.0f} padded ({how})"
    )
    if not use.several:
        return [f"{line}; no prompt has two pairs, so the order changes none of these"]
    if use.saves < WORTH_SAYING:
        return [line]
    keys = ", ".join(f"stages.{stage}.shuffle" for stage in use.stages)
    return [line, f"set {keys} to prompts: {use.saves:.1f}× fewer tokens, as the pairs of a prompt share it in a batch"]
