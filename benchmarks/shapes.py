"""Made-up preference pairs as token ids: with the lengths of real sets of preferences, or of three plain shapes.

`DRAWN` has the lengths of public rows, as `rows.py` counted them; their tokens are random. A prompt's
own pairs come together. The plain shapes are made from a few numbers. Their `long answers` are much
longer than those of AlpacaEval, and pad more.

Everything is drawn with integers from a raw Philox stream, so one seed gives one set of pairs on
every machine and under every version of numpy. Ids 0 to 3 are left to special tokens; an answer ends
with END as a real one does, and no other token of it is special.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from benchmarks.rows import Group, read_lengths
from ratchet.pairs.pair import Ids, TokenisedPair

PAD: Final = 0
END: Final = 3
FIRST_ID: Final = 4

MAX_LENGTH: Final = 1024
"""No pair has more tokens of prompt and longer answer."""

# Lengths at the 0th, 10th, …, 100th percentile, much like UltraFeedback's: a long tail, means of about 170 and 250.
PROMPT_DECILES: Final = (12, 22, 34, 50, 72, 98, 134, 184, 268, 440, 820)
ANSWER_DECILES: Final = (8, 40, 80, 125, 175, 225, 275, 325, 390, 490, 720)

WRONG_ANSWERS: Final = 3


class Draw:
    """Integers from a stream that a seed and a number decide."""

    def __init__(self, seed: int, number: int) -> None:
        self._stream = np.random.Philox(key=np.array([seed, number], dtype=np.uint64))

    def below(self, bound: int) -> int:
        """Return an integer from 0 to `bound` - 1."""
        return int(self._stream.random_raw()) % bound

    def between(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def along(self, deciles: tuple[int, ...]) -> int:
        """Return an integer with these deciles, evenly spread between neighbours."""
        step = self.below(len(deciles) - 1)
        return self.between(deciles[step], deciles[step + 1])

    def ids(self, count: int, vocab: int) -> Ids:
        """Return `count` ids that are not special."""
        raw = np.asarray(self._stream.random_raw(count), dtype=np.uint64)
        return (raw % np.uint64(vocab - FIRST_ID)).astype(np.int32) + FIRST_ID

    def answer(self, count: int, vocab: int) -> Ids:
        """Return `count` ids of which the last is END."""
        return np.append(self.ids(count - 1, vocab), np.int32(END))


def long_answers(count: int, vocab: int, seed: int = 0) -> list[TokenisedPair]:
    """Return pairs whose answers differ from their first token or soon after; lengths have a long tail."""
    pairs = []
    for i in range(count):
        draw = Draw(seed, i)
        chosen, rejected = (draw.answer(draw.along(ANSWER_DECILES), vocab) for _ in range(2))
        common = min((0, 0, 0, 1, 2, 3)[draw.below(6)], len(chosen) - 2, len(rejected) - 2)
        rejected[:common] = chosen[:common]
        _differ(chosen, rejected, common, vocab)
        room = MAX_LENGTH - max(len(chosen), len(rejected))
        prompt = draw.ids(min(draw.along(PROMPT_DECILES), room), vocab)
        pairs.append(pair_of(prompt, chosen, rejected))
    return pairs


def near_twins(count: int, vocab: int, seed: int = 0) -> list[TokenisedPair]:
    """Return pairs whose answers are the same but for one edit of one to four tokens in the middle."""
    pairs = []
    for i in range(count):
        draw = Draw(seed, i)
        prompt = draw.ids(draw.between(40, 80), vocab)
        chosen = draw.answer(draw.between(80, 160), vocab)
        rejected = chosen.copy()
        start = draw.between(len(chosen) // 3, 2 * len(chosen) // 3)
        edited = draw.between(1, 4)
        rejected[start : start + edited] = draw.ids(edited, vocab)
        for place in (start, start + edited - 1):
            _differ(chosen, rejected, place, vocab)
        pairs.append(pair_of(prompt, chosen, rejected))
    return pairs


def one_right_three_wrong(count: int, vocab: int, seed: int = 0) -> list[TokenisedPair]:
    """Return pairs of long prompts and short answers: three neighbours share prompt and chosen answer."""
    pairs: list[TokenisedPair] = []
    while len(pairs) < count:
        draw = Draw(seed, len(pairs))
        prompt = draw.ids(draw.between(540, 660), vocab)
        chosen = draw.answer(draw.between(30, 50), vocab)
        wrong = [draw.answer(draw.between(30, 50), vocab) for _ in range(WRONG_ANSWERS)]
        for i, rejected in enumerate(wrong):
            rejected[0] = FIRST_ID + (chosen[0] - FIRST_ID + 1 + i) % (vocab - FIRST_ID)
            pairs.append(pair_of(prompt, chosen, rejected))
    return pairs[:count]


def drawn_from(name: str) -> Shape:
    """Return what makes pairs with the lengths of a set of `lengths.json`, prompt by prompt."""

    def make(count: int, vocab: int, seed: int = 0) -> list[TokenisedPair]:
        groups = [group for group in read_lengths()[name] if fits(group)]
        pairs: list[TokenisedPair] = []
        while len(pairs) < count:
            draw = Draw(seed, len(pairs))
            pairs += like(groups[draw.below(len(groups))], draw, vocab)
        return pairs[:count]

    return make


def fits(group: Group) -> bool:
    """Return whether all pairs of a prompt are short enough."""
    return group.prompt + max(group.chosen, *(length for length, _, _ in group.rejected)) <= MAX_LENGTH


def like(group: Group, draw: Draw, vocab: int) -> list[TokenisedPair]:
    """Return the pairs of one made-up prompt, with the lengths of `group` and as much in common."""
    prompt, chosen = draw.ids(group.prompt, vocab), draw.answer(group.chosen, vocab)
    pairs = []
    for length, start, end in group.rejected:
        rejected = draw.answer(length, vocab)
        rejected[:start], rejected[length - end :] = chosen[:start], chosen[len(chosen) - end :]
        if start < min(len(chosen), length) - end:  # else one is the other with tokens left out
            _differ(chosen, rejected, start, vocab)
        pairs.append(pair_of(prompt, chosen, rejected))
    return pairs


Shape = Callable[[int, int, int], list[TokenisedPair]]
DRAWN: Mapping[str, Shape] = {
    name: drawn_from(name) for name in ("AlpacaEval", "GSM8K twins", "ARC, one against three")
}
PLAIN: Mapping[str, Shape] = {
    "long answers": long_answers,
    "near twins": near_twins,
    "one right, three wrong": one_right_three_wrong,
}
MORE: Mapping[str, Shape] = {name: drawn_from(name) for name in ("LLaMA-Factory's demo", "HH-RLHF harmless")}
SHAPES: Mapping[str, Shape] = {**DRAWN, **MORE, **PLAIN}


def pair_of(prompt: Ids, chosen: Ids, rejected: Ids) -> TokenisedPair:
    """Return the pair with the id that its tokens decide."""
    digest = hashlib.sha256()
    for side in (prompt, chosen, rejected):
        digest.update(f"{len(side)}:".encode() + side.astype("<i4").tobytes())
    return TokenisedPair(digest.hexdigest()[:32], prompt, chosen, rejected)


def _differ(chosen: Ids, rejected: Ids, place: int, vocab: int) -> None:
    """Make the two answers differ at `place`."""
    if rejected[place] == chosen[place]:
        rejected[place] = FIRST_ID + (chosen[place] - FIRST_ID + 1) % (vocab - FIRST_ID)
