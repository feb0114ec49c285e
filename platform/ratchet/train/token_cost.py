"""What the tokens of a stage's batches come to: padded, packed, and shared in each order. numpy alone, no torch.

Legend: _N rows of the table.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from ratchet.model.tree import LEAST_SHARED, Branch, Sharing, rows_laid_out
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.table import Repeats
from ratchet.train.batches import Course, Rows, epoch_order, global_batches

Shuffle = Literal["pairs", "prompts"]


@dataclasses.dataclass(frozen=True)
class TokenCost:
    """Tokens a pair that one epoch computes, over `pairs` pairs.

    `padded`: a batch's rows are as wide as its longest, as TRL pads. `packed`: no padding, nothing shared. `shared` has
    the mean for each `shuffle`. `several` is the share of pairs whose prompt has another pair.
    """

    pairs: int
    padded: float
    packed: float
    shared: Mapping[Shuffle, float]
    several: float


@dataclasses.dataclass(frozen=True)
class CostedRows:
    """Pairs to count: row i is `pair_of(i)`, and rows with the same number in `prompt_of_N` have the same prompt.

    `sampled` says that they stand for many more, so that two pairs of a prompt hardly meet in a batch by chance.
    `repeats` says which rows are copies, and `dialogue_of_N` which come together in either order.
    """

    pair_of: Callable[[int], TokenisedPair]
    prompt_of_N: Rows
    sampled: bool = False
    repeats: Repeats | None = None
    dialogue_of_N: Rows | None = None


@dataclasses.dataclass(frozen=True)
class BatchRoom:
    """How a batch is divided and shared: its pairs, tokens of a pass (None: as many as there are), and workers."""

    batch: int
    budget: int | None = None
    workers: int = 1
    sharing: Sharing = "auto"


def token_cost(
    rows: CostedRows, room: BatchRoom, seed: int, *, chosen_only: bool = False, least: int = LEAST_SHARED
) -> TokenCost:
    """Count the tokens of the first epoch, with the batches that training has; there must be a pair.

    With `chosen_only` rejected answers are left out (sft). Shared beginnings of fewer than `least` tokens count twice.
    Where a batch is divided, prompts fall into its passes in another way than training puts them.
    """
    branches = [_branches(rows.pair_of(i), chosen_only) for i in range(len(rows.prompt_of_N))]
    lengths = [[len(branch.ids) for branch in sides] for sides in branches]
    count = len(branches)
    _, each = np.unique(rows.prompt_of_N, return_counts=True)
    several = int(each[each > 1].sum())

    def shared(order: Shuffle) -> float:
        passes = (
            one
            for batch in _batches(rows, room, seed, order)
            for one in _passes(batch, rows.prompt_of_N, branches, room)
        )
        held = ([branch for row in one for branch in branches[row]] for one in passes)
        return sum(rows_laid_out(one, room.sharing, least) for one in held) / count

    by_pairs = shared("pairs")
    return TokenCost(
        pairs=count,
        padded=sum(_padded(lengths, batch) for batch in _batches(rows, room, seed, "pairs")) / count,
        packed=sum(map(sum, lengths)) / count,
        # Without a prompt of two pairs the orders are one.
        shared={"pairs": by_pairs, "prompts": shared("prompts") if several else by_pairs},
        several=several / count,
    )


def _branches(pair: TokenisedPair, chosen_only: bool) -> list[Branch]:
    answers = [pair.chosen] if chosen_only or not len(pair.rejected) else [pair.chosen, pair.rejected]
    return [Branch(np.concatenate([pair.prompt, answer]), len(pair.prompt)) for answer in answers]


def _batches(rows: CostedRows, room: BatchRoom, seed: int, order: Shuffle) -> Iterator[Rows]:
    count, prompt_of_N = len(rows.prompt_of_N), rows.prompt_of_N
    if order == "pairs" and rows.sampled and rows.dialogue_of_N is None:
        apart = _apart(epoch_order(count, seed, 1), prompt_of_N)
        yield from (apart[start : start + room.batch] for start in range(0, count, room.batch))
        return
    together = prompt_of_N if order == "prompts" else rows.dialogue_of_N
    for batch in global_batches(Course(count, room.batch, 1, seed), 0, together, rows.repeats):
        yield batch.rows


def _apart(shuffled_N: Rows, prompt_of_N: Rows) -> Rows:
    """Return shuffled rows with the pairs of a prompt far apart: the first of each prompt, then the second of each."""
    seen: collections.Counter[int] = collections.Counter()
    turn_N = []
    for prompt in prompt_of_N[shuffled_N].tolist():
        turn_N.append(seen[prompt])
        seen[prompt] += 1
    apart: Rows = shuffled_N[np.argsort(turn_N, kind="stable")]
    return apart


def _padded(lengths: Sequence[Sequence[int]], batch: Rows) -> int:
    sides = [length for row in batch.tolist() for length in lengths[row]]
    widest: int = max(sides)
    return len(sides) * widest


def _passes(
    batch: Rows, prompt_of_N: Rows, branches: Sequence[Sequence[Branch]], room: BatchRoom
) -> Iterator[list[int]]:
    """Yield the rows of each pass over a batch. The pairs of a prompt stay together where the budget allows."""
    rows = batch[np.argsort(prompt_of_N[batch], kind="stable")].tolist()
    whole = sum(_longest(branches[row]) for row in rows)
    if room.workers == 1 and (room.budget is None or whole <= room.budget):
        yield rows
        return
    held = [
        part
        for _, group in itertools.groupby(rows, key=lambda row: int(prompt_of_N[row]))
        for part in _parts(list(group), branches, room.budget or whole)
    ]
    costs = [rows_laid_out([branch for row in part for branch in branches[row]], room.sharing) for part in held]
    most = -(-sum(costs) // room.workers)
    for one in _filled(costs, most if room.budget is None else min(most, room.budget)):
        yield [row for place in one for row in held[place]]


def _parts(group: list[int], branches: Sequence[Sequence[Branch]], budget: int) -> Iterator[list[int]]:
    """Yield the pairs of a prompt in as many parts as the budget asks for, each as large as it allows."""
    answers = [_longest(branches[row]) - branches[row][0].start for row in group]
    for part in _filled(answers, max(budget - branches[group[0]][0].start, 1)):
        yield [group[place] for place in part]


def _filled(costs: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the places of `costs` in order, as many together as come to at most `most`, or one."""
    held: list[int] = []
    left = most
    for place, cost in enumerate(costs):
        if held and cost > left:
            yield held
            held, left = [], most
        held.append(place)
        left -= cost
    if held:
        yield held


def _longest(sides: Sequence[Branch]) -> int:
    """Return the tokens that a pair takes at most: its prompt once, and its answers."""
    return sum(len(branch.ids) for branch in sides) - (len(sides) - 1) * sides[0].start
