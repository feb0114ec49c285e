"""How pairs are divided into forward passes, and these among workers. Pure functions.

The unit is a prompt with its pairs, because they share tokens, or a pair whose rows are padded; a pair is
never cut. Whatever the division, scores and a step's gradient are the same up to rounding.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ratchet.model.batch import Packing, branches_of, footprint
from ratchet.model.tree import LEAST_SHARED
from ratchet.pairs.pair import Ids, TokenisedPair

Rows = npt.NDArray[np.int64]
OPENING = 4
"""Tokens at the end of a prompt that may differ once an answer follows, as `<think>` and a line break do."""
Role = Literal["score", "keep", "return"]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Table rows that stay together, the tokens that a forward pass over them computes, and the width of its
    padded rows (0: they are laid out as a forest).
    """

    rows: tuple[int, ...]
    cost: int
    width: int = 0


@dataclasses.dataclass(frozen=True)
class Micro:
    """Rows of one forward pass, and the tokens that it computes. `weight` is 0 for a stand-in that only keeps workers
    in step.

    `trunk` numbers a prompt that stays across passes of its worker. A pass that scores sees the first `before` tokens
    of it. ``keep`` computes its tokens from `before` to `stop` for them, without a graph; ``return`` does so again
    with one, for the gradients that they brought. `rows` of these two is a row with that prompt.
    """

    rows: Rows
    weight: float
    cost: int = 0
    role: Role = "score"
    trunk: int | None = None
    before: int = 0
    stop: int = 0


def units(
    pair_of: Callable[[int], TokenisedPair], rows: Rows, packing: Packing, budget: int, *, chosen_only: bool = False
) -> list[Unit]:
    """Return `rows` as units of at most `budget` tokens; a pair that is longer is a unit by itself.

    Pairs whose prompts go on from one another, as those of a dialogue do, are together too, shorter prompts first.
    """
    pairs = {int(row): pair_of(int(row)) for row in rows}
    shared = [
        row
        for row, pair in pairs.items()
        if packing.sharing != "none" and packing.as_forest(branches_of([pair], chosen_only=chosen_only)[0])
    ]
    first_of = openings([pairs[row].prompt for row in shared])
    group_of = {row: first.tobytes() for row, first in zip(shared, first_of, strict=True)}
    groups: dict[bytes, list[int]] = {}
    for row in pairs:
        groups.setdefault(group_of.get(row, b"%d" % row), []).append(row)
    for group in groups.values():
        # Stable: pairs of one prompt keep their order.
        group.sort(key=lambda row: (len(pairs[row].prompt), pairs[row].prompt.tobytes()))

    def measured(some: Sequence[int]) -> tuple[int, int]:
        return footprint([pairs[row] for row in some], packing, chosen_only=chosen_only)

    def fits(group: list[int], start: int, stop: int) -> bool:
        return measured(group[start:stop])[0] <= budget

    return [
        Unit(tuple(some), *measured(some))
        for group in groups.values()
        for some in filled(group, functools.partial(fits, group))
    ]


def openings(prompts: Sequence[Ids]) -> list[Ids]:
    """Return for each prompt the shortest of them that it goes on from: itself, where there is none.

    A template ends a prompt with what opens an answer, and may write that otherwise once the answer is there: so much
    at its end may differ.
    """
    # Without what may differ, so that the shortest comes first. Big-endian bytes sort as numbers do.
    keys = [prompt[: max(len(prompt) - OPENING, 0)].astype(">u4").tobytes() for prompt in prompts]
    found: list[Ids] = list(prompts)
    order = sorted(range(len(prompts)), key=lambda place: (keys[place], len(prompts[place])))
    for before, place in itertools.pairwise(order):
        if continues(found[before], prompts[place]):
            found[place] = found[before]
    return found


def continues(first: Ids, other: Ids) -> bool:
    """Say whether one prompt goes on from another, or is equal to it."""
    least = max(len(first) - OPENING, LEAST_SHARED)
    return np.array_equal(first, other) or (least <= len(other) and np.array_equal(first[:least], other[:least]))


def filled(group: list[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Return a group's rows in their order, as many together as `fits(start, stop)` allows, and one at least."""
    found: list[list[int]] = []
    start = 0
    while start < len(group):
        stop = _furthest(start, len(group), functools.partial(fits, start))
        found.append(group[start:stop])
        start = stop
    return found


def divide_units(parts: Sequence[Unit], world: int, budget: int) -> list[list[Micro]]:
    """Return each worker's forward passes: as many for each, about as long at the same time.

    Forests: longest processing time first (Graham 1969) into as few passes of at most `budget` tokens as that finds.
    Padded rows: cut by width, the dearest pass as cheap as can be. Over all workers each row stands once with weight 1;
    a worker without rows repeats the cheapest unit with weight 0.
    """
    bins = bins_of(parts, world, budget)
    # Every worker must take part in every collective.
    bins += [stand_in(parts)] * (-len(bins) % world)
    passes = [bins[start : start + world] for start in range(0, len(bins), world)]
    # Back and forth over the workers: the first would else have the dearest pass each time.
    return [[row[rank if k % 2 == 0 else world - 1 - rank] for k, row in enumerate(passes)] for rank in range(world)]


def bins_of(parts: Sequence[Unit], world: int, budget: int) -> list[Micro]:
    """Return the passes of all workers over `parts`, dearest first, as `divide_units` deals them."""
    bins = _forests([part for part in parts if not part.width], world, budget)
    bins += _by_width([part for part in parts if part.width], len(bins), world, budget)
    bins.sort(key=lambda held: -_cost(held))
    return [Micro(np.sort([row for part in held for row in part.rows]), 1.0, _cost(held)) for held in bins]


def stand_in(parts: Sequence[Unit]) -> Micro:
    """Return the cheapest unit as a pass that counts for nothing."""
    cheapest = min(parts, key=lambda part: (part.cost, part.rows))
    return Micro(np.array(cheapest.rows, np.int64), 0.0, cheapest.cost)


def _cost(held: Sequence[Unit]) -> int:
    """What a pass over units of one kind computes at most: forests add up, padded rows are as wide as the widest."""
    width = max(part.width for part in held)
    return sum(part.cost // part.width for part in held) * width if width else sum(part.cost for part in held)


def _forests(parts: Sequence[Unit], world: int, budget: int) -> list[list[Unit]]:
    each = max(1, -(-sum(part.cost for part in parts) // (world * budget)))
    while True:
        bins = [held for held in _longest_first(parts, world * each) if held]
        if all(_cost(held) <= budget or len(held) == 1 for held in bins):
            return bins
        # Longest first may overfill a pass: then there is one more for each worker.
        each += 1


def _by_width(parts: Sequence[Unit], beside: int, world: int, budget: int) -> list[list[Unit]]:
    """Return the units cut by width into passes, as few as can be but enough, with `beside` others, for all workers.

    The dearest is as cheap as that number allows.
    """
    if not parts:
        return []
    widest = sorted(parts, key=lambda part: (-part.width, part.rows))
    least = len(_cut(widest, budget))
    count = min(least + -(beside + least) % world, len(widest))
    cap = bisect.bisect_left(range(budget), True, key=lambda cap: len(_cut(widest, cap)) <= count)
    bins = _cut(widest, cap)
    while len(bins) < count:
        dearest = max((held for held in bins if len(held) > 1), key=_cost)
        at = min(range(1, len(dearest)), key=lambda k: max(_cost(dearest[:k]), _cost(dearest[k:])))
        bins.remove(dearest)
        bins += [dearest[:at], dearest[at:]]
    return bins


def _cut(widest_first: Sequence[Unit], cap: int) -> list[list[Unit]]:
    """Return the units in order, as many together as compute at most `cap` tokens."""
    bins: list[list[Unit]] = []
    room = 0
    for part in widest_first:
        sequences = part.cost // part.width
        if sequences > room:
            bins.append([])
            room = cap // part.width
        bins[-1].append(part)
        room -= sequences
    return bins


def _longest_first(parts: Sequence[Unit], bins: int) -> list[list[Unit]]:
    """Return the units of each bin, dearest first."""
    heap: list[tuple[int, int, list[Unit]]] = [(0, k, []) for k in range(bins)]
    for part in sorted(parts, key=lambda part: (-part.cost, part.rows)):
        cost, k, held = heapq.heappop(heap)
        held.append(part)
        heapq.heappush(heap, (cost + part.cost, k, held))
    return [held for _, _, held in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def _furthest(start: int, end: int, fits: Callable[[int], bool]) -> int:
    """Return the furthest stop up to `end` that fits, start + 1 at least; where one fits, all below do."""
    low, high = start + 1, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def filling(
    longest_first: Iterable[TokenisedPair], packing: Packing, tokens: int, *, chosen_only: bool = False
) -> list[TokenisedPair]:
    """Return the first pairs that together compute about `tokens`, one at least: what a budget is tried with."""
    held: list[TokenisedPair] = []
    total = 0
    for pair in longest_first:
        total += footprint([pair], packing, chosen_only=chosen_only)[0]
        if held and total > tokens:
            break
        held.append(pair)
    return held
