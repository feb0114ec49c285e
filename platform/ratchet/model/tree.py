"""Sequences that begin alike, laid out so that no token is computed twice. numpy alone.

Sorted by their tokens, neighbours share the longest prefixes, and that order is a radix tree in
depth-first order. Each sequence adds one *chain*: the tokens that it does not share with the one
before. A chain's tokens see the rows of its ancestors and each other causally, nothing else.

Legend: _T rows of the layout (one distinct token each), _E scored entries, _C (entry, sequence)
incidences, _S sequences.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Index = npt.NDArray[np.int64]
Sharing = Literal["auto", "prompt", "none"]
Span = tuple[int, int]

LEAST_SHARED = 8
"""Fewer common tokens than these are computed again: a fork costs attention a mask and copies of keys."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """One sequence: token ids, int32, shape (length,); the answer starts at `start` (at least 1)."""

    ids: Ids
    start: int


@dataclasses.dataclass(frozen=True)
class Chain:
    """Rows `start` to `stop`, and the rows of its ancestors, from the root down."""

    start: int
    stop: int
    ancestors: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Forest:
    """Trees in one row.

    Row j holds token `ids_T[j]` at depth `depth_T[j]`, and its subtree ends before row `end_T[j]`:
    row i sees row j exactly where j ≤ i < end_T[j]. Entry e scores `targets_E[e]` from the hidden
    state of row `rows_E[e]`; entry `entry_C[c]` belongs to sequence `sequence_C[c]`, so a shared
    answer token is scored once and counts for each of its sequences.
    """

    ids_T: Index
    depth_T: Index
    end_T: Index
    chains: tuple[Chain, ...]
    rows_E: Index
    targets_E: Index
    entry_C: Index
    sequence_C: Index


def lay_out(branches: Sequence[Branch], sharing: Sharing = "auto", least: int = LEAST_SHARED) -> Forest:
    """Return the forest of `branches`, in which each distinct prefix of `least` tokens or more stands once.

    ``prompt`` shares nothing of an answer, ``none`` nothing at all. Any sequence may be a prefix of
    another or equal to it.
    """
    order, shared = _order(branches, sharing, least)
    path: list[tuple[int, int, int]] = []  # segments of the current root-to-leaf path: depth, length, first row
    chains: list[Chain] = []
    rows_of: dict[int, Index] = {}
    total = sum(len(branches[s].ids) - common for s, common in zip(order, shared, strict=True))
    end_T = np.full(total, total, np.int64)
    row = 0
    for s, common in zip(order, shared, strict=True):
        path = _cut(path, common, row, end_T)
        new = len(branches[s].ids) - common
        if new:
            chains.append(Chain(row, row + new, tuple((first, first + length) for _, length, first in path)))
            path.append((common, new, row))
            row += new
        rows_of[s] = np.concatenate([np.arange(first, first + length) for _, length, first in path])
    return _forest(branches, order, shared, rows_of, tuple(chains), end_T)


def rows_laid_out(branches: Sequence[Branch], sharing: Sharing = "auto", least: int = LEAST_SHARED) -> int:
    """Return how many rows `lay_out` takes, without making them."""
    order, shared = _order(branches, sharing, least)
    return sum(len(branches[s].ids) - common for s, common in zip(order, shared, strict=True))


def _order(branches: Sequence[Branch], sharing: Sharing, least: int) -> tuple[list[int], list[int]]:
    """Return the sequences in depth-first order, and what each shares with the previous sequence."""
    if sharing == "none":
        return list(range(len(branches))), [0] * len(branches)
    if sharing == "prompt":
        key = [branch.ids[: branch.start].astype(">u4").tobytes() for branch in branches]
    else:
        key = [branch.ids.astype(">u4").tobytes() for branch in branches]  # big-endian bytes sort as numbers do
    order = sorted(range(len(branches)), key=lambda s: (key[s], s))
    shared = [0]
    for before, s in itertools.pairwise(order):
        if sharing == "prompt":
            common = branches[s].start if key[s] == key[before] else 0
        else:
            common = _common(branches[before].ids, branches[s].ids)
        shared.append(common if common >= least else 0)
    return order, shared


def _common(left: Ids, right: Ids) -> int:
    """Return the length of the longest common prefix."""
    n = min(len(left), len(right))
    differs = np.flatnonzero(left[:n] != right[:n])
    return int(differs[0]) if len(differs) else n


def _cut(path: list[tuple[int, int, int]], depth: int, row: int, end_T: Index) -> list[tuple[int, int, int]]:
    """Return the path above `depth`; what hangs below it has its last descendant before `row`."""
    kept = []
    for at, length, first in path:
        stay = min(max(depth - at, 0), length)
        end_T[first + stay : first + length] = row
        if stay:
            kept.append((at, stay, first))
    return kept


def _forest(
    branches: Sequence[Branch],
    order: Sequence[int],
    shared: Sequence[int],
    rows_of: dict[int, Index],
    chains: tuple[Chain, ...],
    end_T: Index,
) -> Forest:
    total = len(end_T)
    ids_T, depth_T, parent_T = (np.zeros(total, np.int64) for _ in range(3))
    for s, common in zip(order, shared, strict=True):
        rows = rows_of[s]
        ids_T[rows[common:]] = branches[s].ids[common:]
        depth_T[rows[common:]] = np.arange(common, len(rows))
        parent_T[rows[1:]] = rows[:-1]
    owned = [rows_of[s][branch.start :] for s, branch in enumerate(branches)]
    tokens_E, entry_C = np.unique(np.concatenate(owned), return_inverse=True)
    return Forest(
        ids_T=ids_T,
        depth_T=depth_T,
        end_T=end_T,
        chains=chains,
        rows_E=parent_T[tokens_E],
        targets_E=ids_T[tokens_E],
        entry_C=entry_C.astype(np.int64),
        sequence_C=np.repeat(np.arange(len(branches)), [len(rows) for rows in owned]),
    )
