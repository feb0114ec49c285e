"""A source's rows become a folder of pairs as a run makes it, in a temporary place, and what of it is known by then."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ratchet.documents.data_report import DataPlace, SourceData
from ratchet.pairs.assemble import assemble_tables
from ratchet.pairs.hub import hub_label
from ratchet.pairs.pair_table import tables_of
from ratchet.pairs.parts import plan_parts, shown_keys
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.source import Item, SourceReading, pairs_of, span_pairs
from ratchet.pairs.span import SourceRow, Span
from ratchet.plan.data import Source

_EXAMPLES = 2
"""Rows that are shown of each reason for skipping."""
_SHOWN = 12
"""Rows that are shown of all reasons."""
_SPOT_BYTES = 1 << 20
_SPOT_ROWS = 1_000


@dataclasses.dataclass(frozen=True)
class ReadSource:
    """A source that was read: its pairs lie in `folder`, as `assemble` writes them. `whole`: all of its rows were."""

    name: str
    source: Source
    reading: SourceReading
    folder: Path
    counts: Mapping[str, Any]
    whole: bool


def read_whole(
    name: str, source: Source, system: str | None, folder: Path, rows: int | None, see: Callable[[int, Item], None]
) -> ReadSource:
    """Read a source into a folder; with `rows`, about so many of it, the first ones of places all over its files.

    `see` is called with each pair or skipped row, and its number.

    Raises DataError where files are absent or damaged, or no layout fits; PlanError where the source asks for what its
    rows cannot give.
    """
    parts = plan_parts(source, system)
    *aside, (spans, reading) = ((part.spans, part.reading) for part in parts)
    some = None if rows is None else _Some(source, rows)
    items: Iterator[Item] = (
        _items(spans, reading) if some is None else (item for row in some.rows() for item in pairs_of(row, reading))
    )
    held = (table for spans, own in aside for table in tables_of(_items(spans, own), own.source))
    tables = itertools.chain(held, tables_of(_seen(items, see), source))
    counts = dataclasses.asdict(assemble_tables(tables, folder, source, shown_keys(parts)))
    return ReadSource(name, source, reading, folder, counts, some is None or some.whole)


class _Some:
    """Rows from places all over a source's files; afterwards, whether these were all."""

    def __init__(self, source: Source, most: int) -> None:
        self._source, self._most = source, most
        self.whole = True

    def rows(self) -> Iterator[SourceRow]:
        """Yield about as many rows as were asked for."""
        # Small spans, which know how many rows stand before each: a row keeps its number.
        spans = plan_spans(self._source, _SPOT_BYTES, _SPOT_ROWS)
        step = max(1, len(spans) // self._most)
        self.whole = step == 1
        each = -(-self._most // len(spans[::step]))
        for span in spans[::step]:
            for number, row in enumerate(read_span(span, self._source)):
                if number == each:
                    self.whole = False
                    break
                yield row


def _items(spans: Sequence[Span], reading: SourceReading) -> Iterator[Item]:
    return (item for span in spans for item in span_pairs(span, reading))


def _seen(items: Iterator[Item], see: Callable[[int, Item], None]) -> Iterator[Item]:
    for number, item in enumerate(items, 1):
        see(number, item)
        yield item


def read_facts(read: ReadSource) -> SourceData:
    """Return what reading alone says of a source."""
    counts = read.counts
    return SourceData(
        name=read.name,
        where=where_of(read.source),
        layout=read.reading.called or read.reading.layout,
        demonstrations=read.reading.demonstrations,
        read_columns=read.reading.read_columns,
        unread_columns=read.reading.unread_columns,
        read=counts["read"],
        kept=counts["kept"],
        train=counts["train"],
        heldout=counts["heldout"],
        skipped=counts["skipped"],
        first_skipped=first_skipped(read.folder, counts["skipped"]),
        whole=read.whole,
    )


def where_of(source: Source) -> str:
    """Return where a source's rows come from, in words."""
    if source.hub is not None:
        return hub_label(source.hub)
    if source.generate is not None:
        return f"made here: {source.generate.rows:,} rows of {source.generate.kind}"
    return source.path if isinstance(source.path, str) else ", ".join(source.path or ())


def first_skipped(folder: Path, counts: Mapping[str, int]) -> tuple[DataPlace, ...]:
    """Return the first skipped rows of each reason, those of the most frequent one first."""
    wanted = sorted(counts, key=lambda reason: -counts[reason])[: _SHOWN // _EXAMPLES]
    found: dict[str, list[DataPlace]] = {reason: [] for reason in wanted}
    with pq.ParquetFile(folder / "skipped.parquet", pre_buffer=False) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                places = found.get(row["reason"])
                if places is not None and len(places) < _EXAMPLES:
                    said = ": ".join(filter(None, (row["reason"], row["detail"])))
                    places.append(DataPlace(row["file"], row["row"], said))
            if all(len(places) >= min(_EXAMPLES, counts[reason]) for reason, places in found.items()):
                break
    return tuple(place for places in found.values() for place in places)
