"""What the pairs of a source look like, in one pass and flat memory: a `DataAnalysis` for each thing looked for.

Each is defined in the docstring of its counter. None needs torch, Ray, weights or a tokenizer.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.answer_looks import EchoLook, LengthLook, TwinLook
from ratchet.pairs.checks import Reason
from ratchet.pairs.counting import of_all
from ratchet.pairs.ids import table_on_disk
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.repeats import RepeatLook
from ratchet.pairs.text_looks import EncodingLook, MarkLook, ScriptLook


class Look(Protocol):
    """A counter: pairs in, one by one, and analyses out."""

    def add(self, pair: PreferencePair) -> None: ...

    def analyses(self) -> Iterator[DataAnalysis]: ...


class PairLook:
    """Counters of one source's items, before equal pairs are left out: `add` each, then take the `analyses`."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = looks
        self._read = self._ties = 0

    def add(self, item: PreferencePair | Skipped) -> None:
        """Count a pair, or a row that gave none."""
        self._read += 1
        if isinstance(item, Skipped):
            self._ties += item.reason == Reason.TIE.value
            return
        for look in self._looks:
            look.add(item)

    def analyses(self) -> tuple[DataAnalysis, ...]:
        """Return what was found so far; what needs two answers is absent where there are none."""
        found = (one for look in self._looks for one in look.analyses())
        return (_ties(self._ties, self._read), *found)


@contextlib.contextmanager
def pair_look(*more: Look) -> Iterator[PairLook]:
    """Make the counters of one source, and add `more`; what they keep on disk is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="ratchet-look-") as folder,
        table_on_disk(Path(folder) / "seen.sqlite", "id TEXT PRIMARY KEY") as base,
    ):
        repeats = RepeatLook(base)
        yield PairLook(
            (TwinLook(), repeats, LengthLook(), EchoLook(), MarkLook(), EncodingLook(), ScriptLook(), *more),
        )


def _ties(count: int, read: int) -> DataAnalysis:
    """Rows with equal scores: they name no better answer, so they are never trained on."""
    return DataAnalysis(
        code="ties",
        gravity="notes",
        count=count,
        of=read,
        counted="rows",
        says=f"{of_all(count, read, 'rows')} have equal scores and are left out",
    )
