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
WORTH_A_WARNING: Final = 1.25
"""How many times fewer it must take for a run to warn of it."""
PAGE: Final = "docs/performance.md, Orders"
"""Where it says what the order does to a model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenUse:
    """Tokens a pair of stages with the same data, batch and order.

    `padded`: as TRL pads a batch of `batch` pairs. `packed`: without padding, nothing shared. `by_pairs` and
    `by_prompts`: what training computes with each `shuffle`. `several` is the share of pairs whose prompt has more,
    and `named` says whether the plan names its order. `if_shared` is what the plan's order would take with
    `cluster.sharing: auto`, where the plan asks for less.
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
    named: bool = False
    if_shared: float | None = None

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
        line += "; no prompt has two pairs, so the order changes none of these"
    found = [line]
    if use.if_shared is not None and use.planned >= WORTH_SAYING * use.if_shared:
        factor = use.planned / use.if_shared
        found.append(f"set cluster.sharing to auto for {factor:.1f}× fewer tokens, and the same results to rounding")
    return [*found, _to_set(use)] if use.saves >= WORTH_SAYING else found


def costly_order(use: TokenUse) -> str | None:
    """Return a warning where the order that nobody chose takes many more tokens than it must, else None."""
    if use.named or use.saves < WORTH_A_WARNING:
        return None
    each = f"{use.planned:,.0f} tokens a pair, and {use.by_prompts:,.0f} would do"
    whose = ", ".join(use.stages)
    return f"{whose}: several answers a prompt cost {each}: {_to_set(use)}; name the order, either one, to end this"


def _to_set(use: TokenUse) -> str:
    keys = ", ".join(f"stages.{stage}.shuffle" for stage in use.stages)
    return f"set {keys} to prompts for {use.saves:.1f}× fewer tokens, in batches of fewer prompts ({PAGE})"
