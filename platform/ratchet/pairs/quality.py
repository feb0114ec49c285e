"""What the pairs of a source look like, in one pass and flat memory: a `DataAnalysis` for each thing looked for.

Each analysis is defined in the module of its counter. None needs torch, Ray, weights or a tokenizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.checks import Reason
from ratchet.pairs.pair import PreferencePair, Skipped


class PairLook:
    """Counters of one source's items; `add` each, then take the `analyses`."""

    def __init__(self) -> None:
        self._read = 0
        self._ties = 0

    def add(self, item: PreferencePair | Skipped) -> None:
        """Count a pair, or a row that gave none."""
        self._read += 1
        if isinstance(item, Skipped):
            self._ties += item.reason == Reason.TIE.value

    def analyses(self) -> tuple[DataAnalysis, ...]:
        """Return what was found so far; what needs pairs with two answers is absent where there are none."""
        return (_ties(self._ties, self._read),)


@contextlib.contextmanager
def pair_look() -> Iterator[PairLook]:
    """Make the counters of one source; what they keep on disk is gone afterwards."""
    yield PairLook()


def _ties(count: int, read: int) -> DataAnalysis:
    """Rows with equal scores: they name no better answer, so they are never trained on."""
    return DataAnalysis(
        code="ties",
        gravity="notes",
        count=count,
        of=read,
        counted="rows",
        says=f"{count:,} of {read:,} rows have equal scores and are left out" if count else "no row has equal scores",
    )
