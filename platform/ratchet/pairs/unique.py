"""Which of many ids were there before: an exact table of digests in NumPy, 23 to 46 bytes for each id.

Up to `IN_MEMORY` slots (256 MiB, 11 million ids) it lies in memory. A larger one lies in a file that is mapped, so the
system may take its pages back, and what it costs then is disk and not memory.

    _N  ids    _U  ids that differ from each other    _S  slots
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Digests = npt.NDArray[np.uint64]
"""Ids of 16 bytes, as two numbers each: shape (N, 2)."""

IN_MEMORY = 1 << 24
_LEAST = 1 << 12
# Fuller, the search for a free slot takes long; emptier, the table takes more memory.
_FULL = 0.7
_MOVED_AT_ONCE = 1 << 16


def digests_of(ids: pa.ChunkedArray) -> Digests:
    """Return ids that are written as 32 hex digits each; none is null."""
    texts = ids.combine_chunks()
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros((0, 2), np.uint64)
    ends = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]]
    digits_N32 = np.frombuffer(data, np.uint8)[slice(*ends)].reshape(len(texts), 32)
    # `0` to `9` end in 0 to 9, `a` to `f` in 1 to 6, and these have a bit that those lack.
    values_N32 = (digits_N32 & 15) + 9 * (digits_N32 >> 6)
    return (values_N32[:, ::2] << 4 | values_N32[:, 1::2]).view(np.uint64)


class UniqueIds:
    """A set of ids that are digests: their first bytes say where they lie. `unique_ids` makes one.

    No digest of 16 zeros is known, so that is what an empty slot holds.
    """

    def __init__(self, spill: Path, in_memory: int) -> None:
        self._spill, self._in_memory = spill, in_memory
        self._slots_S2: Digests = np.zeros((_LEAST, 2), np.uint64)
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, ids_N2: Digests) -> npt.NDArray[np.bool_]:
        """Add ids, and say of each whether it is the first of its kind."""
        first_U = _firsts(ids_N2)
        self._make_room(len(first_U))
        new_N = np.zeros(len(ids_N2), np.bool_)
        new_N[first_U] = self._put(ids_N2[first_U])
        return new_N

    def has(self, ids_N2: Digests) -> npt.NDArray[np.bool_]:
        """Say of each id whether it was added."""
        found_N = np.zeros(len(ids_N2), np.bool_)
        slots_S2, last = self._slots_S2, np.uint64(len(self._slots_S2) - 1)
        at_N, left = ids_N2[:, 0] & last, np.arange(len(ids_N2))
        while len(left):
            there = slots_S2[at_N[left]]
            found_N[left] = _none(there ^ ids_N2[left])
            left = left[~found_N[left] & ~_none(there)]
            at_N[left] = (at_N[left] + np.uint64(1)) & last
        return found_N

    def close(self) -> None:
        """Forget all ids, and remove the file where there is one."""
        self._slots_S2 = np.zeros((0, 2), np.uint64)
        self._spill.unlink(missing_ok=True)

    def _make_room(self, more: int) -> None:
        size = len(self._slots_S2)
        while self._held + more > _FULL * size:
            size *= 2
        if size == len(self._slots_S2):
            return
        old_S2, self._held = self._slots_S2, 0
        # Under another name first: the old table may be such a file, and it is read while this one is filled.
        fresh = self._spill.with_suffix(".grown")
        in_file = size > self._in_memory
        self._slots_S2 = (
            np.memmap(fresh, np.uint64, "w+", shape=(size, 2)) if in_file else np.zeros((size, 2), np.uint64)
        )
        for start in range(0, len(old_S2), _MOVED_AT_ONCE):
            part_N2 = old_S2[start : start + _MOVED_AT_ONCE]
            self._put(part_N2[~_none(part_N2)])
        if in_file:
            fresh.replace(self._spill)

    def _put(self, ids_U2: Digests) -> npt.NDArray[np.bool_]:
        """Put ids that differ from each other into slots, and say which were not there."""
        slots_S2, last = self._slots_S2, np.uint64(len(self._slots_S2) - 1)
        new_U = np.zeros(len(ids_U2), np.bool_)
        at_U = ids_U2[:, 0] & last
        left = np.arange(len(ids_U2))
        while len(left):
            mine, at = ids_U2[left], at_U[left]
            free = _none(slots_S2[at])
            # Several may want one free slot. Who got it is seen below: the others look at the next one.
            slots_S2[at[free]] = mine[free]
            there = _none(slots_S2[at] ^ mine)
            new_U[left[free & there]] = True
            left = left[~there]
            at_U[left] = (at_U[left] + np.uint64(1)) & last
        self._held += int(np.count_nonzero(new_U))
        return new_U


def _firsts(ids_N2: Digests) -> npt.NDArray[np.int64]:
    """Return where each id stands first."""
    order_N = np.lexsort((ids_N2[:, 1], ids_N2[:, 0]))  # stable: of equal ids the first comes first
    sorted_N2 = ids_N2[order_N]
    differs_N = np.ones(len(ids_N2), np.bool_)
    differs_N[1:] = ~_none(sorted_N2[1:] ^ sorted_N2[:-1])
    return order_N[differs_N]


def _none(ids_N2: Digests) -> npt.NDArray[np.bool_]:
    """Say of each id whether it is all zeros."""
    none_N: npt.NDArray[np.bool_] = ids_N2[:, 0] | ids_N2[:, 1] == 0
    return none_N


@contextlib.contextmanager
def unique_ids(spill: Path, in_memory: int = IN_MEMORY) -> Iterator[UniqueIds]:
    """Keep ids; a table of more than `in_memory` slots lies in the file `spill`, which is gone afterwards."""
    ids = UniqueIds(spill, in_memory)
    try:
        yield ids
    finally:
        ids.close()
