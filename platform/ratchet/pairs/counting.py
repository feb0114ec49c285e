"""What the counters of `quality` share: a count with the first places, and shares in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from ratchet.documents.data_report import DataAnalysis, DataPlace
from ratchet.pairs.pair import PreferencePair

_PLACES = 5
_SHOWN = 100
_FEW = 0.01
"""Share of pairs up to which a fault of texts is a note."""
_NORMAL_95 = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""


@dataclasses.dataclass
class PlacedCount:
    """How many pairs were found, and where the first of them stand."""

    count: int = 0
    found: list[DataPlace] = dataclasses.field(default_factory=list)

    def add(self, pair: PreferencePair, text: str = "") -> None:
        """Count a pair; `text` shows what is meant and is cut."""
        self.count += 1
        if len(self.found) < _PLACES:
            self.found.append(DataPlace(pair.file, pair.row, text[:_SHOWN]))

    @property
    def places(self) -> tuple[DataPlace, ...]:
        return tuple(self.found)


def of_all(count: int, of: int, what: str = "pairs") -> str:
    """Return `3 of 1,200 pairs (0.3%)`."""
    return f"{count:,} of {of:,} {what}" + (f" ({count / of:.1%})" if of else "")


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % score interval of a share of `count` draws (Wilson 1927).

    Draws of a half, for ties, vary less than a coin does: the interval is then wider than need be.
    """
    if not count:
        return 0.0, 1.0
    square = _NORMAL_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = _NORMAL_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def found_of(pairs: int, looked_for: Iterable[tuple[str, PlacedCount, str, str]]) -> Iterator[DataAnalysis]:
    """Yield an analysis for each tally of (code, tally, what such pairs do, remedy) that found something.

    One with a remedy warns, where more than 1 % of pairs show it: a handful is worth knowing, and no decision.
    """
    for code, found, what, do in looked_for:
        if found.count:
            warns = bool(do) and found.count > _FEW * pairs
            yield DataAnalysis(
                code=code,
                gravity="warns" if warns else "notes",
                count=found.count,
                of=pairs,
                counted="pairs",
                says=f"{of_all(found.count, pairs)} {what}",
                do=do if warns else "",
                places=found.places,
            )
