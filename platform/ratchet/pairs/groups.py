"""Prompts that share a side of the split though their wordings differ: near ones, and those of one dialogue.

Two prompts belong together where they are near each other (`sketches`), or are the first and the last question of one
dialogue; and so does what belongs to either. A group falls by the smallest of its keys, so neither the order of rows
nor how they are divided changes a side.

A group of more than 64 prompts, or than 1 in 50 of all, is one template filled differently, or dialogues that end with
`go on`. To hold out all of it or nothing would leave no share to speak of. So each of its prompts falls by its own key
or with a few, and `PromptSides.divided` counts them.

Memory: 48 bytes a prompt, and 100 while groups are found. Sketches lie in a file.

    _N  prompts    _M  those that are held out    _S  those with a sketch    _E  dialogues' first and last questions
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.pairs.ids import held_out
from ratchet.pairs.sketches import BANDS, BINS, Sketches, are_near, bands_of
from ratchet.pairs.unique import Digests, UniqueIds, digests_of, unique_ids

_MOST, _LEAST, _SHARE = 64, 8, 50
_Keys = npt.NDArray[np.bytes_]
"""Keys of prompts, 16 bytes each: they compare as their hex digits do."""
_Places = npt.NDArray[np.int64]


def largest_group(prompts: int) -> int:
    """Return how many of so many prompts may belong together."""
    return min(_MOST, max(_LEAST, prompts // _SHARE))


@dataclasses.dataclass(frozen=True)
class PromptSides:
    """Which prompts are held out; how many have another `together` with them, and how many are of `divided` groups."""

    held_out_M2: Digests
    together: int
    divided: int

    @property
    def held_out(self) -> set[str]:
        """The keys of all prompts that are held out."""
        digits = np.ascontiguousarray(self.held_out_M2).tobytes().hex()
        return {digits[at : at + 32] for at in range(0, len(digits), 32)}


class PromptGroups:
    """Gathers the prompts of pairs; `prompt_groups` makes one."""

    def __init__(self, known: UniqueIds, sketches: Path) -> None:
        self._known, self._path, self._file = known, sketches, sketches.open("wb")
        self._keys = [np.zeros(0, "S16")]
        self._sketched = [np.zeros(0, "S16")]
        self._edges = [np.zeros(0, "S32")]

    def add(self, pairs: pa.Table) -> None:
        """Add the prompts of a table of pairs with the columns of `ITEM_SCHEMA`."""
        self._add(digests_of(pairs.column("prompt_key")), pairs.column("sketch"))
        talks = pairs.filter(pc.is_valid(pairs.column("last_key")))
        if len(talks):
            first_E2, last_E2 = (digests_of(talks.column(name)) for name in ("prompt_key", "last_key"))
            self._add(last_E2, talks.column("last_sketch"))
            edges_E4 = np.concatenate([first_E2, last_E2], 1)[(first_E2 != last_E2).any(1)]
            self._edges.append(np.unique(edges_E4.view("S32")[:, 0]))

    def _add(self, keys_N2: Digests, sketches: pa.ChunkedArray) -> None:
        new_N = self._known.add(keys_N2)
        sketched_N = new_N & pc.is_valid(sketches).to_numpy()
        self._keys.append(_keys(keys_N2[new_N]))
        self._sketched.append(_keys(keys_N2[sketched_N]))
        self._file.writelines(sketches.filter(pa.array(sketched_N)).to_pylist())

    def sides(self, seed: int, share: float, trained: frozenset[str] = frozenset()) -> PromptSides:
        """Return the sides of all prompts that were added. Groups that have a key of `trained` are trained on."""
        keys_N = np.sort(np.concatenate(self._keys))
        most, forest = largest_group(len(keys_N)), _Forest(len(keys_N))
        _join_dialogues(forest, np.unique(np.concatenate(self._edges)), keys_N, most)
        self._file.flush()
        sketched = np.searchsorted(keys_N, np.concatenate(self._sketched))
        filled_N = np.zeros(len(keys_N), np.bool_)
        if len(sketched) > 1:
            sketches = np.memmap(self._path, np.uint8, "r", shape=(len(sketched), BINS))
            filled_N[sketched[_join_near(forest, sketched, sketches, most)]] = True
        root_N = forest.of(np.arange(len(keys_N)))
        size_N = np.bincount(root_N, minlength=len(keys_N))[root_N]
        group_N = np.where(size_N > most, np.arange(len(keys_N)), root_N)
        shown = np.unique(group_N[np.isin(keys_N, np.array([bytes.fromhex(key) for key in trained], "S16"))])
        falls = [at for at in np.unique(group_N).tolist() if held_out(seed, share, keys_N[at].ljust(16, b"\0").hex())]
        out_N = np.isin(group_N, np.setdiff1d(np.array(falls, np.int64), shown))
        together, divided = (size_N > 1) & (size_N <= most), (size_N > most) | filled_N
        counts = (int(np.count_nonzero(some)) for some in (together, divided))
        return PromptSides(keys_N[out_N].view(np.uint64).reshape(-1, 2), *counts)

    def close(self) -> None:
        """Remove the file of sketches."""
        self._file.close()
        self._path.unlink()


@contextlib.contextmanager
def prompt_groups(folder: Path) -> Iterator[PromptGroups]:
    """Gather prompts; what need not be in memory lies in files of `folder` that are gone afterwards."""
    with unique_ids(folder / "prompts") as known:
        groups = PromptGroups(known, folder / "sketches")
        try:
            yield groups
        finally:
            groups.close()


class _Forest:
    """Sets of prompts that belong together, each named by its smallest place."""

    def __init__(self, count: int) -> None:
        self._above_N = np.arange(count)

    def of(self, places: _Places) -> _Places:
        """Return the name of each place's set."""
        while not np.array_equal(above := self._above_N[places], places):
            places = above
        return places

    def join(self, left: _Places, right: _Places) -> None:
        """Join the sets of each two places."""
        while len(left):
            left, right = self.of(left), self.of(right)
            apart = left != right
            left, right = left[apart], right[apart]
            # Where one set meets several, the smallest is above it now, and the others follow in the next round.
            np.minimum.at(self._above_N, np.maximum(left, right), np.minimum(left, right))


def _join_dialogues(forest: _Forest, edges_E: _Keys, keys_N: _Keys, most: int) -> None:
    """Join the first and the last question of dialogues; a last one that follows more than `most` says nothing."""
    both_E2 = edges_E.view("S16").reshape(-1, 2)
    first_E, last_E = (np.searchsorted(keys_N, both_E2[:, side]) for side in (0, 1))
    few_E = np.bincount(last_E, minlength=len(keys_N))[last_E] <= most
    forest.join(first_E[few_E], last_E[few_E])


def _join_near(forest: _Forest, places_S: _Places, sketches: Sketches, most: int) -> npt.NDArray[np.bool_]:
    """Join prompts that are near each other. Return those with a band that more than `most` have: a template's."""
    filled_S = np.zeros(len(places_S), np.bool_)
    width = BINS // BANDS
    for start in range(0, BINS, width):
        band_S = bands_of(sketches[:, start : start + width])[:, 0]
        order_S = np.argsort(band_S)
        band_S = band_S[order_S]
        _, sizes = np.unique(band_S, return_counts=True)
        size_S = np.repeat(sizes, sizes)
        at = np.flatnonzero(size_S[:-1] > most)
        at = at[band_S[at] == band_S[at + 1]]
        at = at[are_near(sketches[order_S[at]], sketches[order_S[at + 1]])]
        filled_S[order_S[at]] = filled_S[order_S[at + 1]] = True
        at = np.flatnonzero((size_S > 1) & (size_S <= most))
        for far in range(1, most):
            at = at[at + far < len(band_S)]
            at = at[band_S[at] == band_S[at + far]]
            left, right = order_S[at], order_S[at + far]
            apart = forest.of(places_S[left]) != forest.of(places_S[right])
            left, right = left[apart], right[apart]
            near = are_near(sketches[left], sketches[right])
            forest.join(places_S[left[near]], places_S[right[near]])
            if not len(at):
                break
    return filled_S


def _keys(keys_N2: Digests) -> _Keys:
    return np.ascontiguousarray(keys_N2).view("S16")[:, 0]
