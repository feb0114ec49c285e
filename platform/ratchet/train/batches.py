"""Which pairs each step trains on. Pure functions.

The order depends on the seed and the epoch alone, so a run that stops and goes on, or runs on other
hardware, trains on the same pairs in the same steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ratchet.pairs.table import Repeats

Rows = npt.NDArray[np.int64]

_WORD = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Course:
    """How far a training step goes: `rows` pairs, `epochs` times, `batch` at a time."""

    rows: int
    batch: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the last takes what is left."""
        return -(-self.rows // self.batch)

    @property
    def total_steps(self) -> int:
        """Optimiser steps in all."""
        whole = self.epochs * self.steps_per_epoch
        return whole if self.max_steps is None else min(whole, self.max_steps)


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """The table rows of one optimiser step; `step` and `epoch` count from 1.

    `progress` is the epochs trained once the step is done, as a fraction.
    """

    step: int
    epoch: int
    rows: Rows
    progress: float


def epoch_order(
    n: int, seed: int, epoch: int, together_of_N: Rows | None = None, repeats: Repeats | None = None
) -> Rows:
    """Return a permutation of range(n), int64, shape (n,), that `seed`, `epoch` and the other two decide.

    Rows with the same number in `together_of_N` come one after the other, in their own order; where
    no two have the same, and without it, all rows are shuffled. Of a row that is repeated c times, each c-th part of
    the epoch has about one copy: they are as far apart as can be.

    Sorts words of a Philox stream keyed by both: raw streams of numpy's bit generators keep their
    values across versions, which its permutations do not promise.
    """
    words = np.random.Philox(key=np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64)).random_raw(n)
    if together_of_N is None and repeats is not None:
        together_of_N = repeats.of_N
    if together_of_N is not None:
        _, first, of_N = np.unique(together_of_N, return_index=True, return_inverse=True)
        words = words[first][of_N]
        if repeats is not None:
            # Rows that come together are repeated together: each time in the next part of the epoch.
            most = np.zeros(len(first), np.uint64)
            np.maximum.at(most, of_N, repeats.count_N.astype(np.uint64))
            count_N = most[of_N]
            part_N = np.where(count_N > 1, np.uint64(_WORD) // count_N + np.uint64(1), np.uint64(0))
            words = words // count_N + repeats.number_N.astype(np.uint64) * part_N
    # Stable: the pairs of a prompt share one word, and so stay in their own order.
    return np.argsort(words, kind="stable").astype(np.int64)


def global_batches(
    course: Course, after: int = 0, together_of_N: Rows | None = None, repeats: Repeats | None = None
) -> Iterator[GlobalBatch]:
    """Yield the batches of steps `after` + 1 to the last; each row stands exactly once in an epoch.

    `together_of_N` keeps rows together and `repeats` copies apart, as in `epoch_order`.
    """
    order, drawn = np.zeros(0, np.int64), 0
    for step in range(after + 1, course.total_steps + 1):
        epoch, place = divmod(step - 1, course.steps_per_epoch)
        if epoch + 1 != drawn:
            order, drawn = epoch_order(course.rows, course.seed, epoch + 1, together_of_N, repeats), epoch + 1
        end = min((place + 1) * course.batch, course.rows)
        yield GlobalBatch(step, epoch + 1, order[place * course.batch : end], epoch + end / course.rows)
