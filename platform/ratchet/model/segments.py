"""A token forest cut at its forks, for layers that carry a state from row to row. numpy alone.

A segment is rows of one path without a fork between them; its state begins where its parent's ends. Segments of one
level do not depend on one another, and are computed together as far as their lengths allow.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ratchet.model.tree import Chain, Index

_ALIKE = 0.75
"""Leaves are computed together where each has at least this share of the longest's rows: the rest is padding."""
_SHORT = 16
"""Leaves that differ by no more rows than these are computed together whatever their lengths are."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop`, below the segment `parent`, by its number. Others begin where an `inner` one ends.

    With `ahead` that row stands before them, and is computed again.
    """

    start: int
    stop: int
    parent: int | None
    ahead: int | None
    level: int
    inner: bool

    @property
    def rows(self) -> int:
        return self.stop - self.start + (self.ahead is not None)


@dataclasses.dataclass(frozen=True)
class SegmentGroup:
    """Segments of one level that are computed together: all are inner and of one length, or none is inner.

    `rows_SL` are their rows; where one is shorter than the longest its last row is repeated. `parents` are the group of
    each one's parent and the place there; None for a level without.
    """

    numbers: tuple[int, ...]
    rows_SL: Index
    parents: tuple[tuple[int, int], ...] | None
    inner: bool


def segments_of(chains: Sequence[Chain]) -> list[Segment]:
    """Return the segments of a forest, parents before children.

    For a single row below a state layers of transformers have another way, which writes into the state. So none ends
    another's segment: what begins after it begins a row sooner.
    """
    forks = {chain.ancestors[-1][1] for chain in chains if chain.ancestors}
    found: list[Segment] = []
    ending: dict[int, tuple[int | None, int | None]] = {}
    for chain in chains:
        edges = [chain.start, *sorted(fork for fork in forks if chain.start < fork < chain.stop), chain.stop]
        parent, ahead = ending[chain.ancestors[-1][1]] if chain.ancestors else (None, None)
        for start, stop in itertools.pairwise(edges):
            level = 0 if parent is None else found[parent].level + 1
            single = parent is not None and ahead is None and stop - start == 1
            ends = stop in forks or stop < chain.stop
            found.append(Segment(start, stop, parent, ahead, level, ends and not single))
            parent, ahead = (parent, start) if single else (len(found) - 1, None)
            ending[stop] = parent, ahead
    return found


def groups_of(segments: Sequence[Segment]) -> list[SegmentGroup]:
    """Return the segments in groups, a level after the other."""
    place_of: dict[int, tuple[int, int]] = {}
    groups: list[SegmentGroup] = []
    for level in range(1 + max((segment.level for segment in segments), default=-1)):
        numbers = [number for number, segment in enumerate(segments) if segment.level == level]
        for some in _together(numbers, segments):
            inner = segments[some[0]].inner
            width = max([2 if level else 1, *(segments[number].rows for number in some)])
            rows_SL = np.stack([_padded(segments[number], width) for number in some])
            parents = [segments[number].parent for number in some]
            above = None if not level else tuple(place_of[parent] for parent in parents if parent is not None)
            place_of |= {number: (len(groups), place) for place, number in enumerate(some)}
            groups.append(SegmentGroup(tuple(some), rows_SL, above, inner))
    return groups


def _together(numbers: Sequence[int], segments: Sequence[Segment]) -> Iterator[list[int]]:
    order = sorted(numbers, key=lambda number: (not segments[number].inner, -segments[number].rows, number))
    some: list[int] = []
    for number in order:
        one = segments[number]
        if some:
            longest = segments[some[0]]
            alike = one.rows >= _ALIKE * longest.rows or longest.rows - one.rows <= _SHORT
            if one.inner != longest.inner or (one.rows != longest.rows if one.inner else not alike):
                yield some
                some = []
        some.append(number)
    if some:
        yield some


def _padded(segment: Segment, width: int) -> Index:
    first = segment.start if segment.ahead is None else segment.start - 1
    rows_L = np.minimum(np.arange(first, first + width), segment.stop - 1)
    if segment.ahead is not None:
        rows_L[0] = segment.ahead
    return rows_L
