"""Chains of a token forest under a sliding window: cut so that no more is computed than the window needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ratchet.model.tree import Chain, Index, Span

_PIECE = 512
"""Rows of a piece at most: a piece of as many rows as its window computes twice what these see."""


def windowed(chains: Sequence[Chain], window: int) -> tuple[Chain, ...]:
    """Return the chains in pieces, each with those rows above it that some row of it sees.

    A row sees `window` rows, itself included. Rows that see all of their path are one piece, whose mask is as ever.
    """
    return tuple(piece for chain in chains for piece in _pieces(chain, window))


def depths(chains: Sequence[Chain], rows: int) -> Index:
    """Return the depth of each of `rows` rows. Rows that are of no chain are a path from the root."""
    depth_T = np.arange(rows)
    for chain in chains:
        depth_T[chain.start : chain.stop] = np.arange(chain.above, chain.above + chain.stop - chain.start)
    return depth_T


def _pieces(chain: Chain, window: int) -> Iterator[Chain]:
    start = chain.start
    while start < chain.stop:
        above = chain.above + start - chain.start
        most = window - above if above < window else min(window, _PIECE)
        stop = min(start + most, chain.stop)
        path = (*chain.ancestors, (chain.start, start)) if start > chain.start else chain.ancestors
        yield dataclasses.replace(chain, start=start, stop=stop, ancestors=_last(path, window - 1), window=window)
        start = stop


def _last(path: Sequence[Span], rows: int) -> tuple[Span, ...]:
    """Return the last `rows` rows of a path."""
    found: list[Span] = []
    for first, stop in reversed(path):
        if rows <= 0:
            break
        found.append((max(first, stop - rows), stop))
        rows -= stop - found[-1][0]
    return tuple(reversed(found))
