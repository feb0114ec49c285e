"""Rows of JSON: one object a line, an array, objects over many lines, rows under a key, or a table by columns."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ijson

from ratchet.errors import DataError
from ratchet.pairs.checks import Reason
from ratchet.pairs.encoding import Repaired
from ratchet.pairs.fields import json_type
from ratchet.pairs.packed import Opened, open_unpacked
from ratchet.pairs.span import SourceRow, Span, damaged
from ratchet.plan.data import Source

# A line may hold other fields, and `\ud83d\ude00` writes one character in 12 bytes.
_SLACK = 16 << 20
_ESCAPED = 12
_MOST_COLUMNS = 1 << 30
# What json.loads ends in: for short lines it takes twice as long to come there.
_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
_BY_ROWS = 'write one row a line: `to_json(…, orient="records", lines=True)` in pandas'
# A text ends at its line's end, as JSON has no line break in one; brackets inside of it count for nothing.
_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\]]')


def longest_row(source: Source) -> int:
    """Return how many bytes a row may have that is held in memory: far above `max_characters`, whatever is escaped."""
    return _SLACK + _ESCAPED * source.max_characters


def read_lines(span: Span, source: Source, file: Opened) -> Iterator[SourceRow]:
    """Yield a row for each line that is not blank. A line far above `max_characters` is not held in memory."""
    limit = longest_row(source)
    if span.start:
        file.stream.seek(span.start)
    at, number = span.start, span.rows_before
    while (span.stop == 0 or at < span.stop) and (line := file.stream.readline(limit)):
        number += 1
        at += len(line)
        size = len(line)
        while not line.endswith(b"\n") and size >= limit and (more := file.stream.readline(limit)):
            line, size, at = more, size + len(more), at + len(more)
        if size > limit:
            yield _too_long(span, number, size)
        elif (value := _object_of(line)) is not None:
            yield SourceRow(span.file, number, value)
        elif line.strip():
            row = _parsed(span.file, number, line)
            if row.reason == Reason.NOT_JSON and not line.endswith(b"\n"):
                row = dataclasses.replace(row, detail=f"the file ends in this row, and may be cut off: {row.detail}")
            yield row


def _too_long(span: Span, number: int, size: int) -> SourceRow:
    return SourceRow(span.file, number, None, Reason.TOO_LONG, f"a line of {size} bytes")


def _object_of(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line is; None where it is none, or where there is more to say of it."""
    try:
        text = line.decode().rstrip(" \t\r\n")
        value, end = _scan(text, 0)
    except (ValueError, RecursionError, StopIteration):
        return None
    return value if end == len(text) and type(value) is dict else None


def _parsed(file: str, number: int, line: bytes) -> SourceRow:
    if b"\0" in line:
        return SourceRow(file, number, None, Reason.NUL, f"byte {line.index(0) + 1}")
    try:
        # Windows' editors put a byte order mark before the first line.
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return SourceRow(file, number, None, Reason.NOT_UTF8, f"byte {error.start + 1}")
    except (ValueError, RecursionError) as error:
        return SourceRow(file, number, None, Reason.NOT_JSON, str(error)[:200])
    return as_row(file, number, value)


def as_row(file: str, number: int, value: Any) -> SourceRow:
    """Return a value as a row: a bad one where it is no object."""
    if isinstance(value, Mapping):
        return SourceRow(file, number, value)
    return SourceRow(file, number, None, Reason.WRONG_TYPE, f"{json_type(value)}, not an object")


def read_array(span: Span, source: Source, file: Opened) -> Iterator[SourceRow]:
    """Yield the items of a JSON array, or of the one under the span's key; from a syntax error on, one bad row.

    Raises DataError where that rest is a larger share of the file than `max_bad_share`, or the file was cut off.
    """
    number = 0
    try:
        items = ijson.items(Repaired(file.stream), f"{span.key}.item" if span.key else "item", use_float=True)
        for number, value in enumerate(items, 1):
            yield as_row(span.file, number, value)
    except ijson.JSONError as error:
        # ijson's message holds the text around the fault, over several lines.
        what = " ".join(str(error).split())[:160]
        if not _ends_with(span.path, b"}" if span.form == "document" else b"]"):
            # How much is lost cannot be known.
            raise damaged(span.path, f"the JSON has no end after item {number}") from error
        if file.left > source.max_bad_share:
            raise _breaks_off(span, f"item {number}", number + 1, file.left, what) from error
        yield SourceRow(span.file, number + 1, None, Reason.NOT_JSON, f"the array breaks off: {what}")


def _ends_with(path: str, bracket: bytes) -> bool:
    """Say whether a bracket is the last of a file that is not blank."""
    end = b""
    with open_unpacked(path) as file:
        while block := file.stream.read(1 << 20):
            end = (end + block).rstrip()[-1:]
    return end == bracket


def _breaks_off(span: Span, after: str, row: int, left: float, what: str) -> DataError:
    return DataError(
        f"the JSON breaks off after {after}, with {left:.0%} of the file still to come: {what}",
        where=f"{span.path}:{row}",
        fix="mend the file, or write one object a line: there a broken row harms no other",
        code="data.damaged",
    )


def read_spread(span: Span, source: Source, file: Opened) -> Iterator[SourceRow]:
    """Yield objects that are written over many lines, one after another, each under the number of its first line.

    Commas between them are passed over. Raises DataError where one never closes and the rest of the file is a larger
    share than `max_bad_share`.
    """
    limit, depth, number, first, size, left = longest_row(source), 0, 0, 0, 0, 0.0
    held: list[bytes] = []
    while line := file.stream.readline(limit):
        number += 1
        at = 0
        if len(line) >= limit and not line.endswith(b"\n"):
            raise _breaks_off(span, f"line {number - 1}", number, file.left, f"a line of more than {limit} bytes")
        for found in _BRACKET.finditer(line):
            if found[0] in b"{[":
                if depth == 0:
                    yield from _between(span, number, line[at : found.start()])
                    at, first, size, held, left = found.start(), number, 0, [], file.left
                depth += 1
            elif found[0] in b"}]" and depth:
                depth -= 1
                if depth == 0:
                    size += found.end() - at
                    held.append(line[at : found.end()])
                    yield _too_long(span, first, size) if size > limit else _parsed(span.file, first, b"".join(held))
                    at = found.end()
        if depth:
            size += len(line) - at
            # Of one that is too long only the brackets are looked at.
            held.append(line[at:]) if size <= limit else held.clear()
        else:
            yield from _between(span, number, line[at:])
    if depth:
        what = "an object is never closed"
        if left > source.max_bad_share:
            raise _breaks_off(span, f"line {first - 1}", first, left, what)
        yield SourceRow(span.file, first, None, Reason.NOT_JSON, what)


def _between(span: Span, number: int, text: bytes) -> Iterator[SourceRow]:
    """Yield a bad row for what is between two objects and is neither blank nor a comma."""
    if rest := text.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n,"):
        yield SourceRow(span.file, number, None, Reason.NOT_JSON, f"{rest[:80]!r} between objects")


def read_columns(span: Span, source: Source, file: Opened) -> Iterator[SourceRow]:
    """Yield the rows of a table that is one object: a list or an object for each column, or rows by their names.

    Raises DataError where it is too large to be held, or its columns differ in length.
    """
    text = file.stream.read(_MOST_COLUMNS)
    if len(text) == _MOST_COLUMNS:
        raise DataError(
            f"a table written by columns must be read whole, and this one is above {_MOST_COLUMNS >> 30} GiB",
            where=span.path,
            fix=_BY_ROWS,
            code="data.form",
        )
    try:
        rows = _rows_of(json.loads(text.decode("utf-8-sig", "ratchet-broken")), span.key)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DataError(
            f"the file is one object that holds columns, and they make no table: {error}",
            where=span.path,
            fix=_BY_ROWS,
            code="data.form",
        ) from error
    for number, value in enumerate(rows, 1):
        yield as_row(span.file, number, value)


def _rows_of(table: dict[str, Any], written: str) -> list[Any]:
    """Return the rows of a table that is written as pandas does with `orient` split, index or columns."""
    if written == "index":
        return list(table.values())
    if written == "split":
        return [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
    if len({tuple(column) if isinstance(column, dict) else len(column) for column in table.values()}) > 1:
        raise ValueError("they do not have the same rows")
    columns = [list(column.values()) if isinstance(column, dict) else column for column in table.values()]
    return [dict(zip(table, values, strict=True)) for values in zip(*columns, strict=True)]
