"""Rows of a source, in flat memory: of JSON lines, JSON arrays, Parquet, folders saved by `datasets`, or made here.

Rows are numbered from 1 within their file, whatever the spans: by line in JSON lines, by item
elsewhere. What cannot be read as an object becomes a `SourceRow` with the reason; a file that ends
too early stops the run, because what it lost cannot be counted.
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from ratchet.errors import DataError
from ratchet.pairs.checks import BROKEN, Reason
from ratchet.pairs.fields import json_type
from ratchet.pairs.files import Span, damage, empty, unpacked
from ratchet.pairs.hub import hub_rows
from ratchet.plan.data import Generated, Source

VERSION = 1
GENERATED_VERSION = 2
"""Both are in the identity of pairs: raise one when the same files, or the same seed, would give other rows."""
# Rows that are Python objects at one time: a text column of a big batch takes many times its Arrow size.
_BATCH = 256
# A line may hold other fields, and `\ud83d\ude00` writes one character in 12 bytes.
_SLACK = 16 << 20
_ESCAPED = 12


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One row as read. `value` is None where it is no object; then `reason` and `detail` say why."""

    file: str
    row: int
    value: Mapping[str, Any] | None
    reason: str = ""
    detail: str = ""


def read_span(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the rows of a span. Raises DataError where the file is damaged, or holds no row at all."""
    if span.form == "generate" and source.generate is not None:
        for at, value in enumerate(generated_rows(source.generate, span.start, span.stop), span.rows_before + 1):
            yield SourceRow(span.file, at, value)
        return
    if span.form == "hub" and source.hub is not None:
        rows: Iterator[SourceRow] = (
            SourceRow(span.file, at, value) for at, value in enumerate(hub_rows(source.hub), 1)
        )
    else:
        rows = _READERS[span.form](span, source)
    # Counted here and not before: only reading shows whether a file that is not empty holds a row.
    some = False
    with damage(span):
        for row in rows:
            some = True
            yield row
    part = span.form == "lines" and span.stop and (span.start or span.stop < Path(span.path).stat().st_size)
    if not some and not part:
        raise empty(span)


def _read_lines(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield a row for each line that is not blank. A line far above `max_characters` is not held in memory."""
    limit = _SLACK + _ESCAPED * source.max_characters
    with open(span.path, "rb") as raw:
        file = unpacked(raw, span)
        file.seek(span.start)
        at, number = span.start, span.rows_before
        while (span.stop == 0 or at < span.stop) and (line := file.readline(limit)):
            number += 1
            at += len(line)
            size = len(line)
            while not line.endswith(b"\n") and size >= limit and (more := file.readline(limit)):
                line, size, at = more, size + len(more), at + len(more)
            if size > limit:
                yield SourceRow(span.file, number, None, Reason.TOO_LONG, f"a line of {size} bytes")
            elif line.strip():
                yield _parsed(span.file, number, line)


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
    return _object(file, number, value)


def _object(file: str, number: int, value: Any) -> SourceRow:
    if isinstance(value, Mapping):
        return SourceRow(file, number, value)
    return SourceRow(file, number, None, Reason.WRONG_TYPE, f"{json_type(value)}, not an object")


# Once in each process: codecs keeps error handlers by name.
codecs.register_error("ratchet-broken", lambda error: (BROKEN, cast(UnicodeDecodeError, error).end))


class _Repaired:
    """A binary stream for ijson, which would stop at the first byte that is not UTF-8: such bytes become BROKEN."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8-sig")("ratchet-broken")

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        while block := self._stream.read(size):
            if text := self._decoder.decode(block):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()


def _read_array(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the items of a JSON array; from a syntax error on, the rest is one bad row.

    Raises DataError where that rest is a larger share of the file than `max_bad_share`.
    """
    number = 0
    with open(span.path, "rb") as raw:
        try:
            for number, value in enumerate(ijson.items(_Repaired(unpacked(raw, span)), "item", use_float=True), 1):
                yield _object(span.file, number, value)
        except ijson.JSONError as error:
            # ijson's message holds the text around the fault, over several lines.
            what = " ".join(str(error).split())[:160]
            left = 1 - raw.tell() / max(Path(span.path).stat().st_size, 1)
            if left > source.max_bad_share:
                raise DataError(
                    f"the JSON breaks off after item {number}, with {left:.0%} of the file still to come: {what}",
                    where=f"{span.path}:{number + 1}",
                    fix="mend the file, or write one object a line: there a broken row harms no other",
                    code="data.damaged",
                ) from error
            yield SourceRow(span.file, number + 1, None, Reason.NOT_JSON, f"the array breaks off: {what}")


def _read_parquet(span: Span, source: Source) -> Iterator[SourceRow]:
    with pq.ParquetFile(span.path, pre_buffer=False) as file:
        # One group at a time: of several at once, all are held in memory.
        groups = (file.iter_batches(_BATCH, row_groups=[group]) for group in range(span.start, span.stop))
        yield from _table_rows(span, itertools.chain.from_iterable(groups))


def _read_arrow(span: Span, source: Source) -> Iterator[SourceRow]:
    with pa.OSFile(span.path) as file, ipc.open_stream(file) as reader:
        yield from _table_rows(span, reader)


def _table_rows(span: Span, batches: Iterable[pa.RecordBatch]) -> Iterator[SourceRow]:
    number = span.rows_before
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            part = batch.slice(start, _BATCH)
            yield from _batch_rows(span, part, number)
            number += part.num_rows


def _batch_rows(span: Span, batch: pa.RecordBatch, before: int) -> Iterator[SourceRow]:
    """Yield a batch's rows; one with bytes that are not UTF-8 costs that row, not the batch."""
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not check UTF-8 when it reads; turning a column into texts fails as a whole.
        values = [_lone_row(batch.slice(at, 1)) for at in range(batch.num_rows)]
    for at, value in enumerate(values, before + 1):
        yield SourceRow(span.file, at, value, *(() if value is not None else (Reason.NOT_UTF8, "a text field")))


def _lone_row(batch: pa.RecordBatch) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], batch.to_pylist()[0])
    except UnicodeDecodeError:
        return None


_READERS = {"lines": _read_lines, "array": _read_array, "parquet": _read_parquet, "arrow": _read_arrow}


def generated_rows(spec: Generated, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield rows `start` to `stop` (from 0). Row i depends on the spec's seed and i, not on `rows`."""
    make = GENERATED[spec.kind].make
    for index in range(start, stop):
        # One generator for each row, so that spans give the same rows as one long read.
        yield make(random.Random(f"{spec.kind}:{spec.seed}:{index}"), spec.steps, spec.largest)


def _sum_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """`What is 7 + 12 - 5?` and `7 + 12 = 19. 19 - 5 = 14. The answer is 14.`"""
    question, worked, total = _sum(draw, steps, largest)
    return {"instruction": question, "output": f"{worked} The answer is {total}."}


def _quiz_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """The question with one right and three wrong answers, in any order; `answer` counts from 0."""
    question, _, total = _sum(draw, steps, largest)
    near = range(max(0, total - 10), total + 11)
    numbers = [total, *draw.sample([number for number in near if number != total], 3)]
    draw.shuffle(numbers)
    return {
        # In other words than the worked sum, so that no prompt is in both.
        "question": question.replace("What", "At once: what"),
        "choices": [f"The answer is {number}." for number in numbers],
        "answer": numbers.index(total),
    }


def _sum(draw: random.Random, steps: int, largest: int) -> tuple[str, str, int]:
    """Return the question, the calculations one by one, and the result; nothing goes below 0."""
    total = draw.randint(1, largest)
    terms, worked = [str(total)], []
    for _ in range(steps):
        change = draw.choice([number for number in range(-min(largest, total), largest + 1) if number])
        sign = "+" if change > 0 else "-"
        worked.append(f"{total} {sign} {abs(change)} = {total + change}.")
        terms += [sign, str(abs(change))]
        total += change
    return f"What is {' '.join(terms)}?", " ".join(worked), total


@dataclasses.dataclass(frozen=True)
class GeneratedRows:
    """How rows of a kind are made, from draws, a number of steps and the largest operand, and the layout they have."""

    make: Callable[[random.Random, int, int], dict[str, Any]]
    layout: str


GENERATED: Mapping[str, GeneratedRows] = {
    "arithmetic": GeneratedRows(_sum_row, "instruction"),
    "arithmetic_quiz": GeneratedRows(_quiz_row, "choices"),
}
