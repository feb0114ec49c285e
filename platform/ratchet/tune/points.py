"""The points of a sweep space: a pure function of the space, so that a sweep that goes on has the same ones.

A point gives every key of the space a value; a trial is a run of the plan at a point, with one of the space's seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.plan.distributions import Distribution, size_of, value_at, value_drawn
from ratchet.plan.space import Space
from ratchet.store.fingerprint import fingerprint

_UNIT = 2.0**-53
"""The spacing of the 53-bit fractions that one raw draw gives."""


@dataclasses.dataclass(frozen=True)
class SeededPoint:
    """One run of the plan: a value for each dotted key, and a seed (None: the plan's own seeds)."""

    values: Mapping[str, Any]
    seed: int | None = None

    @functools.cached_property
    def point_id(self) -> str:
        """Names the point: the same values, in whatever order of keys, have the same."""
        return f"p{fingerprint(self.values)[:8]}"

    @property
    def trial_id(self) -> str:
        """Names the trial; a name that a plan may have."""
        return f"t{self.point_id[1:]}" + ("" if self.seed is None else f"-s{self.seed}")


def trials_in_turn(space: Space) -> Iterator[SeededPoint]:
    """Yield the trials of a grid or random search in turn: each point with each seed, up to `budget.trials`.

    Raises ValueError for tpe, whose points depend on how the trials before them came out.
    """
    most, number = space.budget.trials, 0
    for point in points(space):
        for seed in space.seeds or (None,):
            if most is not None and number >= most:
                return
            yield SeededPoint(point, seed)
            number += 1


def trial_count(space: Space) -> int | None:
    """Return how many trials there are at most, or None where only `budget.hours` ends the sweep."""
    found = [space.budget.trials] if space.budget.trials is not None else []
    if (size := _size(space)) is not None:
        found.append(size * len(space.seeds or (None,)))
    return min(found, default=None)


def points(space: Space) -> Iterator[dict[str, Any]]:
    """Yield the points of a grid or random search, each once. Raises ValueError for tpe."""
    if space.search.by == "tpe":
        raise ValueError("the points of tpe depend on the trials before them")
    yield from _combinations(space.keys) if space.search.by == "grid" else _drawn(space)


def unseen_of(space: Space, seen: int) -> Iterator[dict[str, Any]]:
    """Yield different points of a space, whatever its search, one more than `seen`, or all where there are fewer.

    So one of them is not among `seen` points, unless these are all. Where some key has no end of values
    they are drawn, and else counted out.
    """
    found = _drawn(space) if _size(space) is None else _combinations(space.keys)
    return itertools.islice(found, seen + 1)


def _combinations(keys: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    sizes = [_finite(one) for one in keys.values()]
    for index in range(math.prod(sizes)):
        yield _combination(keys, sizes, index)


def _combination(keys: Mapping[str, Distribution], sizes: Sequence[int], index: int) -> dict[str, Any]:
    """Return one combination. Each index is shifted by those before it, so that neighbours differ in every key they
    can. They then differ in the first stage that any key changes, and do not wait for each other there.
    """
    found, shift = {}, 0
    for (key, one), size in zip(keys.items(), sizes, strict=True):
        index, digit = divmod(index, size)
        shift += digit
        found[key] = value_at(one, shift % size)
    return found


def _drawn(space: Space) -> Iterator[dict[str, Any]]:
    size, seen, number = _size(space), set[str](), 0
    while size is None or len(seen) < size:
        point = drawn(space, number)
        number += 1
        if (name := SeededPoint(point).point_id) not in seen:
            seen.add(name)
            yield point


def drawn(space: Space, number: int) -> dict[str, Any]:
    """Return draw `number`, from 0, of a random search: a pure function of the keys, `search.seed` and the number.

    Each key has a stream of its own, so another key beside it changes nothing; `grid` keys' combinations come in turn.
    """
    gridded = {key: one for key, one in space.keys.items() if one.kind == "grid"}
    sizes = [_finite(one) for one in gridded.values()]
    found = _combination(gridded, sizes, number % math.prod(sizes))
    for key, one in space.keys.items():
        if one.kind != "grid":
            found[key] = value_drawn(one, _fraction(space.search.seed, number, key))
    return {key: found[key] for key in space.keys}


def _fraction(seed: int, number: int, key: str) -> float:
    """Return a number in [0, 1) of (seed, number, key): Philox's raw bits, which no version of numpy may change."""
    # A stream for each key: another key beside it, or another order of keys, changes nothing.
    stream = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    # Raw bits: the way from bits to numbers of numpy's Generator may change between versions.
    bits = np.random.Philox(
        key=np.array([seed, number], dtype=np.uint64), counter=np.array([0, 0, 0, stream], dtype=np.uint64)
    )
    # 53 of the 64 bits, as many as a float holds.
    return int(bits.random_raw() >> np.uint64(11)) * _UNIT


def _size(space: Space) -> int | None:
    sizes = [size_of(one) for one in space.keys.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _finite(one: Distribution) -> int:
    size = size_of(one)
    if size is None:
        raise ValueError(f"a grid cannot hold a {one.kind} key: it has no end of values")
    return size
