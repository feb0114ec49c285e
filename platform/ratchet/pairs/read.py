"""Rows from files: JSON lines, JSON arrays, Parquet and folders saved by `datasets`, in flat memory.

A source is planned as spans, each read on its own, so that many tasks can share a long file. Rows
are numbered from 1 within their file, whatever the spans: by line in JSON lines, by item
elsewhere. What cannot be read as an object becomes a `SourceRow` with the reason; a file that ends
before its time stops the run, because what it lost cannot be counted.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import ijson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from ratchet.errors import DataError
from ratchet.pairs.checks import BROKEN, Reason
from ratchet.pairs.fields import json_type
from ratchet.pairs.files import SourceFile, source_files
from ratchet.pairs.generate import generated_rows
from ratchet.pairs.hub import hub_label, hub_rows
from ratchet.plan.data import Source

VERSION = 1
SPAN_BYTES = 32 << 20
SPAN_ROWS = 20_000
_BLOCK = 1 << 20
_BATCH = 256
_SLACK = 16 << 20
_ESCAPED = 12
_MEND = "make the file again or fetch it again; nothing of it was used"

Form = Literal["lines", "array", "parquet", "arrow", "hub", "generate"]


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One row as read. `value` is None where it is no object; then `reason` and `detail` say why."""

    file: str
    row: int
    value: Mapping[str, Any] | None
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a source: bytes of lines, row groups of Parquet, rows of a generated one, or a whole file.

    `rows_before` rows of the same file come before it.
    """

    file: str
    path: str
    form: Form
    start: int = 0
    stop: int = 0
    rows_before: int = 0


def plan_spans(source: Source, span_bytes: int = SPAN_BYTES, span_rows: int = SPAN_ROWS) -> list[Span]:
    """Divide a source into spans, in order. Raises DataError for files that are absent, empty or of no known kind."""
    if source.hub is not None:
        return [Span(hub_label(source.hub), "", "hub")]
    if (spec := source.generate) is not None:
        starts = range(0, spec.rows, span_rows)
        return [
            Span(f"generate:{spec.kind}", "", "generate", start, min(start + span_rows, spec.rows), start)
            for start in starts
        ]
    return [span for file in source_files(source) for span in _file_spans(file, span_bytes)]


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
    some = False
    with damage(span):
        for row in rows:
            some = True
            yield row
    part = span.form == "lines" and span.stop and (span.start or span.stop < Path(span.path).stat().st_size)
    if not some and not part:
        raise DataError(
            "the file holds no rows", where=span.path or span.file, fix="take it out of `path:`, or fill it"
        )


@contextlib.contextmanager
def damage(span: Span) -> Iterator[None]:
    """Turn what the libraries raise on a damaged file into a DataError that names it."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise DataError(f"the file is damaged or cut off: {error}", where=span.path, fix=_MEND) from error
    except OSError as error:
        if error.errno is None:  # Arrow reports a short file as an OSError without a number
            raise DataError(f"the file is damaged or cut off: {error}", where=span.path, fix=_MEND) from error
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=span.path,
            fix="check that every node sees it, and its rights",
        ) from error


def _file_spans(file: SourceFile, span_bytes: int) -> list[Span]:
    path, whole = file.path, Span(file.label, str(file.path), file.form)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), fix="take it out of `path:`, or fill it")
    if file.form == "parquet":
        return _parquet_spans(whole, span_bytes)
    if file.form == "arrow":
        _check_ending(whole)
    if file.form == "array":
        with damage(whole), _opened(whole) as stream:
            while not (head := (block := stream.read(_BLOCK)).lstrip(b"\xef\xbb\xbf \t\r\n")) and block:
                pass
        if not head.startswith((b"[", b"{")):
            what = "an array, nor one object a line" if head else "anything: the file is empty"
            raise DataError(f"the file holds neither {what}", where=str(path), fix="give JSON or JSON lines")
        if head.startswith(b"{"):
            whole = dataclasses.replace(whole, form="lines")
    if whole.form == "lines" and path.suffix != ".gz":
        return _line_spans(whole, path.stat().st_size, span_bytes)
    return [whole]


def _line_spans(whole: Span, size: int, span_bytes: int) -> list[Span]:
    """Cut after the first line break at or past each `span_bytes`, counting the lines before each cut."""
    cuts, lines, at, wanted = [(0, 0)], 0, 0, span_bytes
    with damage(whole), open(whole.path, "rb") as file:
        while size > span_bytes and (block := file.read(_BLOCK)):
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


def _parquet_spans(whole: Span, span_bytes: int) -> list[Span]:
    spans, first, size, rows, before = [], 0, 0, 0, 0
    with damage(whole), pq.ParquetFile(whole.path) as file:
        meta = file.metadata
        if meta.num_rows == 0:
            raise DataError("the file holds no rows", where=whole.path, fix="take it out of `path:`, or fill it")
        for group in range(meta.num_row_groups):
            size += meta.row_group(group).total_byte_size
            rows += meta.row_group(group).num_rows
            if size >= span_bytes or group == meta.num_row_groups - 1:
                spans.append(dataclasses.replace(whole, start=first, stop=group + 1, rows_before=before))
                first, size, before = group + 1, 0, rows
    return spans


def _check_ending(whole: Span) -> None:
    """Raise DataError unless an Arrow stream has its end mark: without it, a stream cut between batches looks whole."""
    with open(whole.path, "rb") as file:
        file.seek(max(-8, -Path(whole.path).stat().st_size), 2)
        if file.read() != b"\xff\xff\xff\xff\0\0\0\0":
            raise DataError("the file is damaged or cut off: no end mark", where=whole.path, fix=_MEND)


def _opened(span: Span) -> BinaryIO:
    if span.path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(span.path, "rb"))
    return open(span.path, "rb")


def _read_lines(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield a row for each line that is not blank. A line far above `max_characters` is not held in memory."""
    limit = _SLACK + _ESCAPED * source.max_characters
    with _opened(span) as file:
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
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if span.path.endswith(".gz") else raw
        try:
            for number, value in enumerate(ijson.items(_Repaired(stream), "item", use_float=True), 1):
                yield _object(span.file, number, value)
        except ijson.JSONError as error:
            what = " ".join(str(error).split())[:160]
            left = 1 - raw.tell() / max(Path(span.path).stat().st_size, 1)
            if left > source.max_bad_share:
                raise DataError(
                    f"the JSON breaks off after item {number}, with {left:.0%} of the file still to come: {what}",
                    where=f"{span.path}:{number + 1}",
                    fix="mend the file, or write one object a line: there a broken row harms no other",
                ) from error
            yield SourceRow(span.file, number + 1, None, Reason.NOT_JSON, f"the array breaks off: {what}")


def _read_parquet(span: Span, source: Source) -> Iterator[SourceRow]:
    number = span.rows_before
    with pq.ParquetFile(span.path, pre_buffer=False) as file:
        for group in range(span.start, span.stop):  # one at a time: several at once are all held
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                yield from _batch_rows(span, batch, number)
                number += batch.num_rows


def _read_arrow(span: Span, source: Source) -> Iterator[SourceRow]:
    number = 0
    with pa.OSFile(span.path) as file, ipc.open_stream(file) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, _BATCH):
                part = batch.slice(start, _BATCH)
                yield from _batch_rows(span, part, number)
                number += part.num_rows


def _batch_rows(span: Span, batch: pa.RecordBatch, before: int) -> Iterator[SourceRow]:
    """Yield a batch's rows; one with bytes that are not UTF-8 costs that row, not the batch."""
    try:
        values = batch.to_pylist()
    except UnicodeDecodeError:
        values = [_lone_row(batch.slice(at, 1)) for at in range(batch.num_rows)]
    for at, value in enumerate(values, before + 1):
        yield SourceRow(span.file, at, value, *(() if value is not None else (Reason.NOT_UTF8, "a text field")))


def _lone_row(batch: pa.RecordBatch) -> dict[str, Any] | None:
    try:
        return cast(dict[str, Any], batch.to_pylist()[0])
    except UnicodeDecodeError:
        return None


_READERS = {"lines": _read_lines, "array": _read_array, "parquet": _read_parquet, "arrow": _read_arrow}
