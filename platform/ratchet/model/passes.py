"""The forward passes of some rows, where a prompt's answers need several: the prompt stays across them. Pure functions.

`divide` alone repeats a prompt in each pass of its answers. Here it is computed by passes of its own (`trunk`), and
answers by passes that see it: wherever that makes a step of all workers cheaper. All workers make passes of the same
kind at the same time, since an engine gathers weights in each, and adds up gradients in each that has a graph.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ratchet.model.batch import Packing, SequenceBatch, collate, collate_trunk, computed_tokens
from ratchet.model.divide import Micro, Rows, Unit, bins_of, divide_units, filled, stand_in, units
from ratchet.model.tree import LEAST_SHARED, Span
from ratchet.model.trunk import Sight, Trunk
from ratchet.pairs.pair import TokenisedPair

PAYS = 0.95
"""Prompts stay across passes where that takes at most this share of the tokens: there are more passes then."""
_GRAPH = 3
"""What a pass with a graph costs, in passes without: the backward pass is two products for each of the forward's."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A prompt and answers of it for one worker: a row with the prompt, how many of its tokens stay, and for each
    pass of answers its rows and the tokens that it computes.
    """

    row: int
    kept: int
    leaves: tuple[tuple[tuple[int, ...], int], ...]


def divide_passes(
    pair_of: Callable[[int], TokenisedPair],
    rows: Rows,
    packing: Packing,
    budget: int,
    world: int,
    *,
    chosen_only: bool = False,
    backward: bool = True,
) -> list[list[Micro]]:
    """Return each worker's forward passes over `rows`: as `divide_units` has them, or with prompts that stay.

    Without `backward` no pass brings gradients. A pass computes at most `budget` tokens with a graph, but for a pair
    that is longer. Passes of answers that see a prompt compute fewer by its length, down to half of `budget`.
    """
    parts = units(pair_of, rows, packing, budget, chosen_only=chosen_only)
    best = divide_units(parts, world, budget)
    prompts, others = _by_prompt(parts, pair_of, packing)
    if not prompts:
        return best
    least, spare = PAYS * _seconds(best, backward), stand_in(parts)
    whole = [_part(group, pair_of, packing, budget, chosen_only) for group in prompts]
    bins = bins_of(others, world, budget)
    # Cut finer, a prompt is computed by more workers, and these are busier alike.
    cuts = {1, world, world // math.gcd(len(whole), world), *(2**k for k in range(world.bit_length() - 1))}
    for cut in sorted(cuts):
        most = math.ceil(max(len(part.leaves) for part in whole) / cut)
        tried = _in_step([piece for part in whole for piece in _cut(part, most)], bins, spare, world, budget, backward)
        if (taken := _seconds(tried, backward)) < least:
            best, least = tried, taken
    return best


def batches(
    micros: Sequence[Micro],
    pair_of: Callable[[int], TokenisedPair],
    packing: Packing,
    *,
    chosen_only: bool = False,
    pin: bool = False,
) -> Iterator[tuple[Micro, SequenceBatch]]:
    """Yield one worker's passes with their batches, on the CPU. A trunk is held here up to its last pass."""
    trunks: dict[int | None, Trunk] = {}
    last = {micro.trunk: k for k, micro in enumerate(micros)}
    times = _sequences(micros, pair_of, chosen_only=chosen_only)
    for k, micro in enumerate(micros):
        sight = None
        if micro.trunk is not None:
            sight = Sight(trunks.setdefault(micro.trunk, Trunk()), micro.before, own=micro.role != "score")
        if last[micro.trunk] == k:
            trunks.pop(micro.trunk, None)
        if sight is not None and sight.own:
            prompt, count = pair_of(int(micro.rows[0])).prompt, times[micro.trunk]
            yield micro, collate_trunk(prompt, micro.stop, sight, times=count, whole=packing.whole, pin=pin)
        else:
            pairs = [pair_of(int(row)) for row in micro.rows]
            yield micro, collate(pairs, packing, chosen_only=chosen_only, pin=pin, sight=sight)


def _sequences(
    micros: Sequence[Micro], pair_of: Callable[[int], TokenisedPair], *, chosen_only: bool
) -> Counter[int | None]:
    """Return how many sequences see each trunk: none where a worker only keeps others in step."""
    found: Counter[int | None] = Counter()
    for micro in micros:
        if micro.trunk is not None and micro.role == "score":
            rejected = 0 if chosen_only else sum(len(pair_of(int(row)).rejected) > 0 for row in micro.rows)
            found[micro.trunk] += len(micro.rows) + rejected
    return found


def _by_prompt(
    parts: Sequence[Unit], pair_of: Callable[[int], TokenisedPair], packing: Packing
) -> tuple[list[list[Unit]], list[Unit]]:
    """Return the units of each prompt that has several and may stay, and all others."""
    groups: dict[bytes, list[Unit]] = {}
    if packing.sharing != "none" and packing.why_repeated is None:
        for part in parts:
            # A dialogue has several prompts, of which none is that of all its answers.
            prompts = {pair_of(row).prompt.tobytes() for row in part.rows}
            if not part.width and len(prompts) == 1:
                groups.setdefault(prompts.pop(), []).append(part)
    several = [
        group for group in groups.values() if len(group) > 1 and len(pair_of(group[0].rows[0]).prompt) > LEAST_SHARED
    ]
    held = {part.rows for group in several for part in group}
    return several, [part for part in parts if part.rows not in held]


def _part(
    group: Sequence[Unit], pair_of: Callable[[int], TokenisedPair], packing: Packing, budget: int, chosen_only: bool
) -> _Part:
    """Return a prompt with all its answers.

    Its last token goes with the answers: the hidden state that predicts their first tokens is then their own.
    """
    rows = [row for unit in group for row in unit.rows]
    pairs = {row: pair_of(row) for row in rows}
    kept = len(pairs[rows[0]].prompt) - 1
    # The kept keys, values and gradients take memory too: less than a graph of so many tokens.
    room = max(budget - kept, budget // 2)

    def cost(some: Sequence[int]) -> int:
        return computed_tokens([pairs[row] for row in some], packing, chosen_only=chosen_only) - kept

    leaves = filled(rows, lambda start, stop: cost(rows[start:stop]) <= room)
    return _Part(rows[0], kept, tuple((tuple(some), cost(some)) for some in leaves))


def _cut(part: _Part, most: int) -> list[_Part]:
    """Return a part as several of about `most` passes of answers, two at least where there are two."""
    count = len(part.leaves)
    pieces = max(1, min(math.ceil(count / most), count // 2))
    ends = [count * k // pieces for k in range(pieces + 1)]
    return [dataclasses.replace(part, leaves=part.leaves[a:b]) for a, b in itertools.pairwise(ends)]


def _in_step(
    parts: Sequence[_Part], bins: Sequence[Micro], spare: Micro, world: int, budget: int, backward: bool
) -> list[list[Micro]]:
    """Return each worker's passes: prompts in rounds, one a worker at most, and other passes where a worker waits."""
    waiting, first = deque(bins), True
    small = Micro(np.array([parts[0].row], np.int64), 0.0, LEAST_SHARED, "keep", -1, 0, LEAST_SHARED)
    idle = dataclasses.replace(small, role="return") if backward else spare
    slots: list[list[Micro]] = []
    for held in itertools.zip_longest(*_dealt(parts, world)):
        made = [_passes(one, budget, backward) if one else ([], []) for one in held]
        rows = itertools.zip_longest(*(keeps for keeps, _ in made))
        slots += [[micro or small for micro in slot] for slot in rows]
        for slot in itertools.zip_longest(*(others for _, others in made)):
            # Each worker's first pass with a graph scores something, since metrics have their names from it.
            rest = spare if first else idle
            slots.append([micro or (waiting.popleft() if waiting else rest) for micro in slot])
            first = False
    while waiting:
        slots.append([waiting.popleft() if waiting else idle for _ in range(world)])
    return [[slot[rank] for slot in slots] for rank in range(world)]


def _dealt(parts: Sequence[_Part], world: int) -> list[list[tuple[int, _Part]]]:
    """Return each worker's numbered parts: those with most passes first, to the worker with fewest."""
    held: list[list[tuple[int, _Part]]] = [[] for _ in range(world)]
    heap = [(0, rank) for rank in range(world)]
    for number, part in enumerate(sorted(parts, key=lambda part: (-len(part.leaves), -part.kept, part.row))):
        passes, rank = heapq.heappop(heap)
        held[rank].append((number, part))
        heapq.heappush(heap, (passes + len(part.leaves) + 1, rank))
    return held


def _passes(numbered: tuple[int, _Part], budget: int, backward: bool) -> tuple[list[Micro], list[Micro]]:
    """Return the passes over a part's prompt without a graph, and all its passes that follow."""
    number, part = numbered
    row = np.array([part.row], np.int64)
    keeps = [Micro(row, 0.0, stop - start, "keep", number, start, stop) for start, stop in _spans(part.kept, budget)]
    leaves = [
        Micro(np.sort(np.array(rows, np.int64)), 1.0, cost, "score", number, part.kept) for rows, cost in part.leaves
    ]
    returns = [dataclasses.replace(micro, role="return") for micro in reversed(keeps)] if backward else []
    return keeps, leaves + returns


def _spans(length: int, most: int) -> list[Span]:
    """Return a length cut into as few equal spans of at most `most` as can be."""
    count = math.ceil(length / most)
    ends = [length * k // count for k in range(count + 1)]
    return list(itertools.pairwise(ends))


def _seconds(workers: Sequence[Sequence[Micro]], backward: bool) -> int:
    """How long a step takes, in tokens computed without a graph: all workers wait for the slowest in each pass."""

    def cost(micro: Micro) -> int:
        return micro.cost * (_GRAPH if backward and micro.role != "keep" else 1)

    return sum(max(map(cost, slot)) for slot in zip(*workers, strict=True))
