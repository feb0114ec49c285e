"""Rows from all over a source: of every file the beginning, the middle and the end, as far as one can go there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Reason
from ratchet.pairs.packed import open_unpacked
from ratchet.pairs.read import read_span
from ratchet.pairs.read_table import group_starts
from ratchet.pairs.span import SourceRow, Span, damage
from ratchet.plan.data import Source

# Enough that a kind of row which makes up 1 % of a file is seen, and read in well under a second.
_ROWS = 1000
_LEAST = 10
# Rows differ by a factor of thousands: of long ones fewer are held, down to the least.
_CHARACTERS = 8 << 20
_TAIL_BYTES = 256 << 10
_LINE_BREAK = 10
# A file may begin with many broken rows. Beyond these it is not what `path:` says that it is.
_LOOK = 10_000


def spread_rows(source: Source, spans: list[Span]) -> list[SourceRow]:
    """Return readable rows of all files, in order. Raises DataError where there is none, or a file is damaged."""
    files = [list(group) for _, group in itertools.groupby(spans, key=lambda span: (span.path, span.file))]
    most = max(_ROWS // len(files), 3 * _LEAST)
    found: dict[tuple[str, int], SourceRow] = {}
    bad: dict[tuple[str, int], SourceRow] = {}
    for parts in files:
        places = _places(parts, most)
        for place in places:
            rows = itertools.islice(read_span(place, source), _LOOK)
            taken = characters = 0
            for row in rows:
                if row.value is None:
                    bad.setdefault((row.file, row.row), row)
                else:
                    found[row.file, row.row] = row
                    taken += 1
                    characters += _characters(row.value)
                enough = taken >= _LEAST and characters * len(places) * len(files) >= _CHARACTERS
                if enough or taken >= most // len(places):
                    break
    if not found:
        first = "\n".join(f"  {row.file}:{row.row}: {row.reason}: {row.detail}" for row in [*bad.values()][:5])
        raise DataError(
            f"none of the {len(bad):,} rows looked at can be read\n{first}",
            where=spans[0].path or spans[0].file,
            fix="write it as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
            if {row.reason for row in bad.values()} == {Reason.NOT_UTF8}
            else "give one JSON object a line (.jsonl), an array of objects (.json), or a table (.csv, .parquet)",
            code="data.no-layout",
        )
    return list(found.values())


def _characters(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str | bytes) else 1


def _places(spans: list[Span], most: int) -> list[Span]:
    """Return where a file's rows are looked at, `most` in all: what is read from its head on is one place."""
    first, middle, last = spans[0], spans[len(spans) // 2], spans[-1]
    if first.form == "lines" and first.stop:
        half = _from(middle, middle.start if len(spans) > 1 else (middle.start + middle.stop) // 2)
        places = (first, half, _tail(last, most // 3))
        return [place for place in dict.fromkeys(places) if place is not None]
    return _groups(first) if first.form == "parquet" else list(dict.fromkeys((first, middle, last)))


def _tail(span: Span, lines: int) -> Span | None:
    """Return about the last `lines` lines of a span."""
    with damage(span), open_unpacked(span.path) as file:
        file.stream.seek(start := max(span.stop - _TAIL_BYTES, span.start))
        ends = [at for at, byte in enumerate(file.stream.read(span.stop - start)) if byte == _LINE_BREAK]
    return _from(span, start + ends[-lines - 1] + 1 if len(ends) > lines else start)


def _from(span: Span, at: int) -> Span | None:
    """Return the lines of a span that begin at or after byte `at`, or None where there are none."""
    if at <= span.start:
        return span
    with damage(span), open_unpacked(span.path) as file:
        file.stream.seek(span.start)
        before = file.stream.read(at - span.start)
        rest = b"" if before.endswith(b"\n") else file.stream.readline()
    start, lines = at + len(rest), before.count(b"\n") + rest.count(b"\n")
    return None if start >= span.stop else dataclasses.replace(span, start=start, rows_before=span.rows_before + lines)


def _groups(first: Span) -> list[Span]:
    """Return the first, the middle and the last row group of a Parquet file."""
    with damage(first):
        starts = group_starts(first)
    groups = dict.fromkeys((0, (len(starts) - 1) // 2, len(starts) - 2))
    return [
        dataclasses.replace(first, start=starts[at], stop=starts[at + 1], rows_before=starts[at])
        for at in groups
        if starts[at] < starts[at + 1]
    ]
