"""About how many pairs a source has, and how long they are, before it is read: rows counted, the first ones looked at.

Rows are counted where that is quick: lines, Parquet's own figure, generated rows. Of what must be unpacked or parsed
the first `_LOOK_BYTES` are read, and the rest is taken to be like them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ratchet.pairs.checks import characters_of
from ratchet.pairs.forms import KINDS, rows_of
from ratchet.pairs.packed import open_unpacked
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.source import SourceReading, make_reading, pairs_of
from ratchet.pairs.span import Span, damage
from ratchet.pairs.style import Style
from ratchet.pairs.tokens import Policy, tokenise
from ratchet.plan.base import is_url
from ratchet.plan.data import Source
from ratchet.store.fingerprint import settled_state

# Enough for a share to within some 7 %, and read in a blink.
LOOK = 50
"""Rows that are looked at."""
_LOOK_BYTES = 8 << 20
CHARACTERS_A_TOKEN = 4
"""The usual figure for English prose with a vocabulary of some 50,000."""


@dataclasses.dataclass(frozen=True)
class First:
    """The pairs of a source's first rows, and how many rows these were."""

    pairs: tuple[PreferencePair, ...]
    rows: int

    @property
    def tokens(self) -> float:
        """Tokens of a pair, both sides, at four characters a token: for a model whose tokenizer is not there yet."""
        return sum(map(characters_of, self.pairs)) / CHARACTERS_A_TOKEN / max(len(self.pairs), 1)

    def tokenised(self, tokenizer: Any, style: Style, policy: Policy) -> tuple[float, float]:
        """Return the share of the pairs that a length policy keeps, and the mean tokens of those."""
        if not self.pairs:
            return 1.0, 0.0
        table = pairs_table(self.pairs)
        found = tokenise(table, tokenizer, style, policy).to_pylist()
        kept = [row for row in found if row["reason"] is None]
        tokens = sum(len(row[key]) for row in kept for key in ("prompt", "chosen", "rejected"))
        return len(kept) / len(self.pairs), tokens / max(len(kept), 1)


def estimate_pairs(source: Source) -> int:
    """Return about how many pairs a source has, its held-out ones too; one on the hub counts as none.

    Raises DataError where a file is absent or damaged, PlanError where the source asks for what its rows cannot give.
    """
    if source.hub is not None:
        return 0
    rows, first = estimate_rows(source), first_pairs(source)
    rows = min(rows, source.max_rows or rows)
    return round(rows * len(first.pairs) / max(first.rows, 1))


def estimate_rows(source: Source) -> int:
    """Return about how many rows a source has. Raises DataError."""
    rows, spans = 0, plan_spans(source)
    for span, after in itertools.zip_longest(spans, spans[1:]):
        if after is not None and after.path == span.path and after.rows_before:
            rows += after.rows_before - span.rows_before  # they were counted to divide the file
            continue
        with damage(span):
            rows += _rows(span, source)
    return rows


def known_reading(source: Source, system: str | None) -> SourceReading:
    """Return how a source is read, found once while its files stay as they are. Raises what `make_reading` does."""
    spans = plan_spans(source)
    paths = dict.fromkeys(span.path for span in spans if span.path)
    states = tuple(None if is_url(path) else settled_state(Path(path)) for path in paths)
    return make_reading(source, spans, system) if None in states else _reading_of(source, system, states)


@functools.lru_cache(maxsize=64)
def _reading_of(source: Source, system: str | None, states: Hashable) -> SourceReading:
    return make_reading(source, plan_spans(source), system)


def first_pairs(source: Source) -> First:
    """Return what a source's first rows give; nothing of one on the hub. Raises DataError, PlanError."""
    if source.hub is not None:
        return First((), 0)
    spans, reading = plan_spans(source), known_reading(source, None)
    rows = list(itertools.islice((row for span in spans for row in read_span(span, source)), LOOK))
    items = [item for row in rows for item in pairs_of(row, reading)]
    return First(tuple(item for item in items if isinstance(item, PreferencePair)), len(rows))


def _rows(span: Span, source: Source) -> int:
    if span.form == "generate":
        return span.stop - span.start
    known = KINDS[span.form].count(span)
    return _extrapolated(span, source) if known is None else known


def _extrapolated(span: Span, source: Source) -> int:
    """Count the rows of the first bytes; where the file goes on, take the rest to be like them."""
    read = KINDS[span.form].text
    if read is None:
        return sum(1 for _ in rows_of(span, source))
    count = 0
    with open_unpacked(span.path) as file:
        for count, _ in enumerate(read(span, source, file), 1):
            # Of the packed bytes: how far the content goes is not known before its end.
            if _LOOK_BYTES <= file.raw.tell() < file.size:
                return round(count * file.size / file.raw.tell())
    return count
