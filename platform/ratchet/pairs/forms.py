"""The forms of files, one row each: how such a file is divided, read, counted, and looked at in several places."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping

from ratchet.pairs.encoding import check_encoding
from ratchet.pairs.packed import Opened, open_unpacked
from ratchet.pairs.read_csv import read_csv
from ratchet.pairs.read_json import read_array, read_columns, read_lines, read_spread
from ratchet.pairs.read_table import arrow_spans, count_arrow, group_starts, parquet_spans, read_arrow, read_parquet
from ratchet.pairs.span import FileForm, SourceRow, Span, damage
from ratchet.plan.base import is_url
from ratchet.plan.data import Source

_BLOCK = 1 << 20


def _whole(span: Span, span_bytes: int) -> list[Span]:
    return [span]


def _csv_spans(whole: Span, span_bytes: int) -> list[Span]:
    """Return the whole file, as a quoted cell may go over lines. Raises DataError where it is not UTF-8."""
    with damage(whole), open_unpacked(whole.path) as file:
        check_encoding(file.stream.read(_BLOCK), whole.path)
    return [whole]


def _from_the_beginning(span: Span, draw: random.Random, count: int) -> Iterator[Span]:
    yield span


@dataclasses.dataclass(frozen=True)
class FileKind:
    """A form of files. It is read as text (`text`), or by the library of its tables (`table`), never both.

    `divide` gives spans of about so many bytes. `count` says how many rows a span has where that is quick, or None.
    `spots` gives parts of a whole file that begin at drawn places.
    """

    text: Callable[[Span, Source, Opened], Iterator[SourceRow]] | None = None
    table: Callable[[Span, Source], Iterator[SourceRow]] | None = None
    divide: Callable[[Span, int], list[Span]] = _whole
    count: Callable[[Span], int | None] = lambda span: None
    spots: Callable[[Span, random.Random, int], Iterator[Span]] = _from_the_beginning


def rows_of(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the rows of a span of a file."""
    kind = KINDS[span.form]
    if kind.table is not None:
        yield from kind.table(span, source)
    elif kind.text is not None:
        with open_unpacked(span.path) as file:
            yield from kind.text(span, source, file)


def _line_spans(whole: Span, span_bytes: int) -> list[Span]:
    """Cut after the first line break at or past each `span_bytes`, counting the lines before each cut."""
    # To count its lines, all of a file at a URL would be fetched.
    if is_url(whole.path):
        return [whole]
    cuts, lines, at, wanted = [(0, 0)], 0, 0, span_bytes
    with damage(whole), open_unpacked(whole.path) as file:
        # Nobody can start to read in the middle of a packed file.
        if file.packed:
            return [whole]
        size = file.size
        while size > span_bytes and (block := file.stream.read(_BLOCK)):
            while wanted < at + len(block) and (end := block.find(b"\n", max(wanted - at - 1, 0))) >= 0:
                cuts.append((at + end + 1, lines + block.count(b"\n", 0, end + 1)))
                wanted = cuts[-1][0] + span_bytes
            lines += block.count(b"\n")
            at += len(block)
    cuts = [cut for cut in cuts if cut[0] < size]
    stops = [start for start, _ in cuts[1:]] + [size]
    return [
        dataclasses.replace(whole, start=start, stop=stop, rows_before=before)
        for (start, before), stop in zip(cuts, stops, strict=True)
    ]


def _count_lines(span: Span) -> int | None:
    with open_unpacked(span.path) as file:
        if file.packed or is_url(span.path):
            return None
        count, left, last = 0, (span.stop or file.size) - span.start, b"\n"
        file.stream.seek(span.start)
        while left > 0 and (block := file.stream.read(min(_BLOCK, left))):
            count, left, last = count + block.count(b"\n"), left - len(block), block[-1:]
    return count + (last != b"\n")


def _line_spots(span: Span, draw: random.Random, count: int) -> Iterator[Span]:
    with damage(span), open_unpacked(span.path) as file:
        if file.packed or is_url(span.path):
            yield span
            return
        places = []
        for place in sorted(draw.randrange(file.size) for _ in range(count)):
            file.stream.seek(place)
            file.stream.readline()
            places.append(file.stream.tell())
        size = file.size
    # From the beginning where the last line was drawn.
    yield from (dataclasses.replace(span, start=place if place < size else 0, stop=size) for place in places)


def _group_spots(span: Span, draw: random.Random, count: int) -> Iterator[Span]:
    starts = group_starts(span)
    for group in sorted(draw.sample(range(len(starts) - 1), min(count, len(starts) - 1))):
        start, stop = starts[group], starts[group + 1]
        yield dataclasses.replace(span, start=start, stop=stop, rows_before=start)


KINDS: Mapping[FileForm | str, FileKind] = {
    "lines": FileKind(text=read_lines, divide=_line_spans, count=_count_lines, spots=_line_spots),
    "array": FileKind(text=read_array),
    "objects": FileKind(text=read_spread),
    "document": FileKind(text=read_array),
    "columns": FileKind(text=read_columns),
    "csv": FileKind(text=read_csv, divide=_csv_spans),
    "parquet": FileKind(
        table=read_parquet, divide=parquet_spans, count=lambda span: span.stop - span.start, spots=_group_spots
    ),
    "arrow": FileKind(table=read_arrow, divide=arrow_spans, count=count_arrow),
}
