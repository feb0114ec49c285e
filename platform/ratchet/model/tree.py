"""Sequences that begin alike, laid out so that no token is computed twice. numpy alone.

Sorted by their tokens, neighbours share the longest prefixes, and that order is a radix tree in
depth-first order. Each sequence adds one *chain*: the tokens that it does not share with the one
before. A chain's tokens see the rows of its ancestors and each other causally, nothing else.

A forest of any size is computed in passes: a pass sees of earlier ones a single path from the root, whose keys and
values are kept (`cut_passes`). Training, scoring and evaluation lay out their sequences here.

Legend: _T rows of the layout (one distinct token each), _E scored entries, _C (entry, sequence)
incidences, _S sequences, _K rows that are kept.
"""

from __future__ import annotations

import dataclasses
import functools
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
    """Rows `start` to `stop`, and the rows of its ancestors, from the root down. With `window` a row sees the last so
    many of these and the rows before it, itself included.
    """

    start: int
    stop: int
    ancestors: tuple[Span, ...]
    window: int | None = None

    @functools.cached_property
    def above(self) -> int:
        """The rows of its ancestors."""
        return sum(stop - first for first, stop in self.ancestors)

    @functools.cached_property
    def lead(self) -> int:
        """Rows that a CPU's kernel puts before the chain's own: all above, where these are fewer; their queries are 0.

        Rows and keys are then alike, and causal: the kernel computes a triangle and not, with a mask, a rectangle.
        """
        return self.above if self.above < self.stop - self.start and not self.banded else 0

    @functools.cached_property
    def banded(self) -> bool:
        """Whether some row does not see all that are above it."""
        return self.window is not None and self.above + self.stop - self.start > self.window

    @property
    def attended(self) -> int:
        """How many pairs of a row and a key that kernel computes."""
        own, above = self.stop - self.start, self.above
        masked = self.banded or (above and not self.lead)
        return own * (above + own) if masked else (above + own) * (above + own + 1) // 2


@dataclasses.dataclass(frozen=True)
class Forest:
    """Trees in one row.

    Row j holds token `ids_T[j]` at depth `depth_T[j]`, and its subtree ends before row `end_T[j]`:
    row i sees row j exactly where j ≤ i < end_T[j]. Entry e scores `targets_E[e]` from the hidden
    state of row `rows_E[e]`; entry `entry_C[c]` belongs to sequence `sequence_C[c]`, so a shared
    answer token is scored once and counts for each of its sequences. `times_T` sequences have the token of row j.
    """

    ids_T: Index
    depth_T: Index
    end_T: Index
    chains: tuple[Chain, ...]
    rows_E: Index
    targets_E: Index
    entry_C: Index
    sequence_C: Index
    times_T: Index


@dataclasses.dataclass(frozen=True)
class Trunks:
    """Trees in one row, of which nothing is scored: rows as of a `Forest`, and those of each sequence from the root."""

    ids_T: Index
    depth_T: Index
    end_T: Index
    chains: tuple[Chain, ...]
    rows_of: tuple[Index, ...]


@dataclasses.dataclass(frozen=True)
class Pass:
    """Rows `start` to `stop` of a layout, which are computed together.

    Of earlier passes they see the rows `kept_K` alone, one path from the root: kept_K[d] is at depth d. `chains` and
    `end_KT` number the kept rows first, from 0, and then the pass's own. `end_KT` says of both where their subtree
    ends within the pass.
    """

    start: int
    stop: int
    kept_K: Index
    chains: tuple[Chain, ...]
    end_KT: Index


def lay_out(branches: Sequence[Branch], sharing: Sharing = "auto", least: int = LEAST_SHARED) -> Forest:
    """Return the forest of `branches`, in which each distinct prefix of `least` tokens or more stands once.

    ``prompt`` shares nothing of an answer, ``none`` nothing at all. Any sequence may be a prefix of
    another or equal to it.
    """
    return _scored(branches, _rows([branch.ids for branch in branches], *_order(branches, sharing, least)))


def lay_trunks(sequences: Sequence[Ids], least: int = LEAST_SHARED) -> Trunks:
    """Return the layout of `sequences`, none of them empty, that shares as `lay_out` does and scores nothing."""
    return _rows(sequences, *_order([Branch(ids, len(ids)) for ids in sequences], "auto", least))


def cut_passes(layout: Forest | Trunks, budget: int) -> list[Pass]:
    """Return the layout in passes of at most `budget` rows, as equal as can be, none of them computed twice.

    A pass may end anywhere, also within a chain: what the next one sees of it is kept.
    """
    total = len(layout.end_T)
    edges = np.linspace(0, total, max(1, -(-total // budget)) + 1).astype(np.int64)
    return [_pass(layout, int(start), int(stop)) for start, stop in itertools.pairwise(edges)]


def _pass(layout: Forest | Trunks, start: int, stop: int) -> Pass:
    # What a row of the pass sees before `start`, the first row sees too: the order is depth-first.
    kept_K = np.flatnonzero(layout.end_T[:start] > start)
    moved = len(kept_K) - start
    chains = []
    for chain in layout.chains:
        if chain.stop <= start or chain.start >= stop:
            continue
        first, end = max(chain.start, start), min(chain.stop, stop)
        above = chain.ancestors if first == chain.start else (*chain.ancestors, (chain.start, first))
        deep = sum(min(last, start) - begin for begin, last in above if begin < start)
        spans = [(0, deep)] if deep else []
        spans += [(max(begin, start) + moved, last + moved) for begin, last in above if last > start]
        chains.append(Chain(first + moved, end + moved, tuple(spans)))
    end_KT = np.minimum(np.concatenate([layout.end_T[kept_K], layout.end_T[start:stop]]), stop) + moved
    return Pass(start, stop, kept_K, tuple(chains), end_KT)


def divide_groups(groups: Sequence[Sequence[Ids]], budget: int, least: int = LEAST_SHARED) -> list[list[int]]:
    """Return groups of sequences, by their places, together while they take `budget` rows at most, one group at least.

    All sequences of a group begin alike. Groups that begin alike stand beside each other, whatever their order was.
    """
    heads = [min(group, key=len) for group in groups]
    order = sorted(range(len(groups)), key=lambda place: (_as_key(heads[place]), place))
    found: list[list[int]] = []
    room = 0
    for at, place in enumerate(order):
        own = rows_laid_out([Branch(ids, len(ids)) for ids in groups[place]], "auto", least)
        common = _common(heads[order[at - 1]], heads[place]) if at else 0
        new = own - (common if common >= least else 0)
        if found and new <= room:
            found[-1].append(place)
            room -= new
        else:
            found.append([place])
            room = budget - own
    return found


def _rows(sequences: Sequence[Ids], order: Sequence[int], shared: Sequence[int]) -> Trunks:
    path: list[tuple[int, int, int]] = []  # segments of the current root-to-leaf path: depth, length, first row
    chains: list[Chain] = []
    rows_of: dict[int, Index] = {}
    total = sum(len(sequences[s]) - common for s, common in zip(order, shared, strict=True))
    end_T = np.full(total, total, np.int64)
    ids_T, depth_T = np.zeros(total, np.int64), np.zeros(total, np.int64)
    row = 0
    for s, common in zip(order, shared, strict=True):
        path = _cut(path, common, row, end_T)
        new = len(sequences[s]) - common
        if new:
            chains.append(Chain(row, row + new, tuple((first, first + length) for _, length, first in path)))
            path.append((common, new, row))
            ids_T[row : row + new] = sequences[s][common:]
            depth_T[row : row + new] = np.arange(common, common + new)
            row += new
        rows_of[s] = np.concatenate([np.arange(first, first + length) for _, length, first in path])
    return Trunks(ids_T, depth_T, end_T, tuple(chains), tuple(rows_of[s] for s in range(len(sequences))))


def without_trunk(forest: Forest, before: int) -> Forest:
    """Return the forest without its first `before` rows, which stand above all others and are computed elsewhere.

    Row numbers of chains and `end_T` stay those of the whole forest; `rows_E` are those of what is left. No entry is
    scored from a row that is left out, so `before` is less than every prompt's length.
    """
    if not before:
        return forest
    first, *others = forest.chains
    return dataclasses.replace(
        forest,
        ids_T=forest.ids_T[before:],
        depth_T=forest.depth_T[before:],
        chains=(Chain(before, first.stop, ((0, before),)), *others),
        rows_E=forest.rows_E - before,
        times_T=forest.times_T[before:],
    )


def stretch(prompt: Ids, start: int, stop: int, times: int = 1) -> Forest:
    """Return the rows `start` to `stop` of a prompt of `times` sequences below its others. Its one entry scores the
    token that follows.
    """
    return Forest(
        ids_T=prompt[start:stop].astype(np.int64),
        depth_T=np.arange(start, stop),
        end_T=np.full(stop, stop, np.int64),
        chains=(Chain(start, stop, ((0, start),) if start else ()),),
        rows_E=np.array([stop - start - 1]),
        targets_E=prompt[stop : stop + 1].astype(np.int64),
        entry_C=np.zeros(1, np.int64),
        sequence_C=np.zeros(1, np.int64),
        times_T=np.full(stop - start, times, np.int64),
    )


def rows_laid_out(branches: Sequence[Branch], sharing: Sharing = "auto", least: int = LEAST_SHARED) -> int:
    """Return how many rows `lay_out` takes, without making them."""
    order, shared = _order(branches, sharing, least)
    return sum(len(branches[s].ids) - common for s, common in zip(order, shared, strict=True))


def _order(branches: Sequence[Branch], sharing: Sharing, least: int) -> tuple[list[int], list[int]]:
    """Return the sequences in depth-first order, and what each shares with the previous sequence."""
    if sharing == "none":
        return list(range(len(branches))), [0] * len(branches)
    if sharing == "prompt":
        key = [_as_key(branch.ids[: branch.start]) for branch in branches]
    else:
        key = [_as_key(branch.ids) for branch in branches]
    order = sorted(range(len(branches)), key=lambda s: (key[s], s))
    shared = [0]
    for before, s in itertools.pairwise(order):
        if sharing == "prompt":
            common = branches[s].start if key[s] == key[before] else 0
        else:
            common = _common(branches[before].ids, branches[s].ids)
        shared.append(common if common >= least else 0)
    return order, shared


def _as_key(ids: Ids) -> bytes:
    return ids.astype(">u4").tobytes()  # big-endian bytes sort as numbers do


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


def _scored(branches: Sequence[Branch], laid: Trunks) -> Forest:
    parent_T = np.zeros(len(laid.end_T), np.int64)
    for rows in laid.rows_of:
        parent_T[rows[1:]] = rows[:-1]
    owned = [rows[branch.start :] for rows, branch in zip(laid.rows_of, branches, strict=True)]
    tokens_E, entry_C = np.unique(np.concatenate(owned), return_inverse=True)
    return Forest(
        ids_T=laid.ids_T,
        depth_T=laid.depth_T,
        end_T=laid.end_T,
        chains=laid.chains,
        rows_E=parent_T[tokens_E],
        targets_E=laid.ids_T[tokens_E],
        entry_C=entry_C.astype(np.int64),
        sequence_C=np.repeat(np.arange(len(branches)), [len(rows) for rows in owned]),
        times_T=np.bincount(np.concatenate(laid.rows_of), minlength=len(laid.end_T)).astype(np.int64),
    )
