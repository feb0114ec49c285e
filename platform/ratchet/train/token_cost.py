"""What the tokens of a stage's batches come to: padded, packed, and shared in each order. numpy alone, no torch.

Legend: _N rows of the table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from ratchet.model.tree import LEAST_SHARED, Branch, rows_laid_out
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.batches import Course, Rows, global_batches

Shuffle = Literal["pairs", "prompts"]
SHUFFLES: Final[tuple[Shuffle, ...]] = ("pairs", "prompts")


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
    """

    pair_of: Callable[[int], TokenisedPair]
    prompt_of_N: Rows
    sampled: bool = False


@dataclasses.dataclass(frozen=True)
class BatchRoom:
    """How a batch is divided: pairs of a batch, tokens of a pass (None: as many as there are), and workers."""

    batch: int
    budget: int | None = None
    workers: int = 1


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
    numbers, each = np.unique(rows.prompt_of_N, return_counts=True)
    return TokenCost(
        pairs=count,
        padded=sum(_padded(lengths, batch) for batch in _batches(rows, room, seed, "pairs")) / count,
        packed=sum(map(sum, lengths)) / count,
        shared={
            order: sum(
                rows_laid_out([branch for row in one for branch in branches[row]], least=least)
                for batch in _batches(rows, room, seed, order)
                for one in _passes(batch, rows.prompt_of_N, branches, room)
            )
            / count
            for order in SHUFFLES
        },
        several=float(each[each > 1].sum() / count) if len(numbers) else 0.0,
    )


def _branches(pair: TokenisedPair, chosen_only: bool) -> list[Branch]:
    answers = [pair.chosen] if chosen_only or not len(pair.rejected) else [pair.chosen, pair.rejected]
    return [Branch(np.concatenate([pair.prompt, answer]), len(pair.prompt)) for answer in answers]


def _batches(rows: CostedRows, room: BatchRoom, seed: int, order: Shuffle) -> Iterator[Rows]:
    course = Course(len(rows.prompt_of_N), room.batch, 1, seed)
    if order == "pairs" and rows.sampled:
        apart = _apart(rows.prompt_of_N)
        for batch in global_batches(Course(len(apart), room.batch, 1, seed)):
            yield apart[batch.step * room.batch - room.batch : batch.step * room.batch]
        return
    for batch in global_batches(course, 0, rows.prompt_of_N if order == "prompts" else None):
        yield batch.rows


def _apart(prompt_of_N: Rows) -> Rows:
    """Return the rows with the pairs of a prompt as far from one another as can be."""
    by_prompt: Rows = np.argsort(prompt_of_N, kind="stable")
    sorted_N = prompt_of_N[by_prompt]
    first_N = np.searchsorted(sorted_N, sorted_N)
    # The first pair of each prompt, then the second of each.
    apart: Rows = by_prompt[np.argsort(np.arange(len(sorted_N)) - first_N, kind="stable")]
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
    costs = [rows_laid_out([branch for row in part for branch in branches[row]]) for part in held]
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
