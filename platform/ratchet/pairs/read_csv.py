"""Rows of tables as text: CSV and TSV, with quotes and line breaks in fields, as spreadsheets and pandas write them.

Every cell is a text, and an empty one is null: what `007` or `1e5` means, only the layout can say. It takes a
text for a number where it asks for one, such as a score.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import TextIO

from ratchet.errors import DataError
from ratchet.pairs.checks import BROKEN, Reason
from ratchet.pairs.packed import Opened
from ratchet.pairs.read_json import longest_row
from ratchet.pairs.span import SourceRow, Span
from ratchet.plan.data import Source

_DELIMITERS = ",;\t|"
_EXCELS = re.compile(r"sep=(.)\s*", re.IGNORECASE)


class _Lines:
    """Lines of a file, which may be given back, with the number of the next one."""

    def __init__(self, file: TextIO, span: Span, limit: int) -> None:
        self._file, self._span, self._limit = file, span, limit
        self._back: list[str] = []
        self.taken: list[str] = []
        self.number = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else self._file.readline(self._limit)
        if not line:
            raise StopIteration
        if len(line) >= self._limit:
            raise DataError(
                f"line {self.number} has more than {self._limit} characters: this is no table of texts",
                where=f"{self._span.path}:{self.number}",
                fix="give CSV with one record a line, or raise max_characters",
                code="data.form",
            )
        self.number += 1
        self.taken.append(line)
        return line

    def give_back_all_but_one(self) -> None:
        """Have the lines of the last record read again, its first one apart."""
        self._back += reversed(self.taken[1:])
        self.number -= len(self.taken) - 1


def read_csv(span: Span, source: Source, file: Opened) -> Iterator[SourceRow]:
    """Yield a row for each record below the header, under the number of its first line.

    A record with too many or too few fields is a bad row; after a quote that is out of place, the next line is
    tried by itself. Raises DataError for a header that names no columns, or one twice.
    """
    limit = longest_row(source)
    csv.field_size_limit(limit)  # of the whole process; by itself 128 KiB, and answers may be longer
    text = io.TextIOWrapper(file.stream, "utf-8-sig", "ratchet-broken", newline="")
    try:
        yield from _records(_Lines(text, span, limit), span)
    finally:
        # Else it would close the file, which is not its own.
        text.detach()


def _records(lines: _Lines, span: Span) -> Iterator[SourceRow]:
    delimiter, names = _header(lines, span)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.number
        lines.taken.clear()
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            # A quote that never closes would take all that follows along.
            lines.give_back_all_but_one()
            yield SourceRow(span.file, start, None, Reason.NOT_CSV, str(error))
            continue
        if any(record):
            yield _row(span.file, start, names, record)


def _header(lines: _Lines, span: Span) -> tuple[str, list[str]]:
    """Return the delimiter and the names of the columns. Raises DataError."""
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith(('{"', "[{", "[\n")):
        raise DataError(
            "the file is JSON", where=span.path, fix="let its name end in .jsonl or .json", code="data.form"
        )
    if said := _EXCELS.fullmatch(first):
        first = next(lines, "")
    # A column's name may have a line break in it, between quotes.
    while first.count('"') % 2 and (more := next(lines, "")):
        first += more
    fields = {one: _fields(first, one) for one in ([said[1]] if said else _DELIMITERS)}
    most = max(len(found) for found in fields.values())
    likely = [one for one, found in fields.items() if len(found) == most]
    if len(likely) > 1 and most > 1:
        raise _bad_header(span, "its columns may be divided by " + " or by ".join(map(repr, likely)))
    names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(fields[likely[0]])]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _bad_header(span, f"it names a column twice: {', '.join(twice)}")
    return likely[0], names


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(line.splitlines(keepends=True), delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _bad_header(span: Span, what: str) -> DataError:
    return DataError(
        f"the first line does not name the columns: {what}",
        where=f"{span.path}:1",
        fix="write the columns' names as the first line, each once, with one delimiter",
        code="data.form",
    )


def _row(file: str, number: int, names: list[str], record: list[str]) -> SourceRow:
    if len(record) != len(names):
        detail = f"{len(record)} fields, and the header has {len(names)}"
        return SourceRow(file, number, None, Reason.NOT_CSV, detail)
    if any(BROKEN in cell for cell in record):
        return SourceRow(file, number, None, Reason.NOT_UTF8, "a cell")
    return SourceRow(file, number, {name: cell or None for name, cell in zip(names, record, strict=True)})
