"""Rows of Parquet and Arrow files, in flat memory: a column is read a megabyte at a time, and few rows are objects."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from ratchet.errors import DataError
from ratchet.pairs.checks import Reason
from ratchet.pairs.packed import refuse_other
from ratchet.pairs.remote import open_url
from ratchet.pairs.span import SourceRow, Span, damage, damaged, empty
from ratchet.plan.base import is_url
from ratchet.plan.data import Source

# Rows that are Python objects at one time: a text column of a big batch takes many times its Arrow size.
_BATCH = 256
# What is asked of a file at one time. Without it, a whole column of a row group is: pandas writes one group a file.
_BUFFER = 1 << 20
# To read a part of a row group, all before it is read too, though without making rows of it.
_MOST_PARTS = 8
_HEAD = 64
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@contextlib.contextmanager
def _of_kind(path: str, magic: bytes) -> Iterator[None]:
    """Where the library cannot read a file that does not begin as its kind does, say what it is instead."""
    try:
        yield
    except pa.ArrowInvalid:
        with open_url(path, "parts") if is_url(path) else open(path, "rb") as file:
            head = file.read(_HEAD)
        if not head.startswith(magic):
            refuse_other(path, head)
            if head.lstrip()[:1] in (b"{", b"["):
                raise DataError(
                    "the file is JSON", where=path, fix="let its name end in .jsonl or .json", code="data.form"
                ) from None
        raise


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    with (
        open_url(path, "parts") if is_url(path) else contextlib.nullcontext(path) as place,
        pq.ParquetFile(place, pre_buffer=False, buffer_size=_BUFFER) as file,
    ):
        yield file


def parquet_spans(whole: Span, span_bytes: int) -> list[Span]:
    """Divide a Parquet file into spans of rows: whole row groups, or parts of one that is large. Raises DataError."""
    cuts, size, before = [0], 0, 0
    with damage(whole), _of_kind(whole.path, b"PAR1"), _parquet(whole.path) as file:
        meta = file.metadata
        if meta.num_rows == 0:
            raise empty(whole)
        for group in map(meta.row_group, range(meta.num_row_groups)):
            parts = min(group.total_byte_size // span_bytes, _MOST_PARTS, group.num_rows)
            if parts > 1:
                cuts += [before + group.num_rows * part // parts for part in range(parts)]
            size, before = size + group.total_byte_size, before + group.num_rows
            if size >= span_bytes:
                cuts.append(before)
                size = 0
    cuts = sorted({*cuts, before})
    return [
        dataclasses.replace(whole, start=start, stop=stop, rows_before=start)
        for start, stop in itertools.pairwise(cuts)
    ]


def group_starts(span: Span) -> list[int]:
    """Return the first row of each row group of a Parquet file, and last the number of its rows."""
    with _parquet(span.path) as file:
        groups = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        return list(itertools.accumulate(groups, initial=0))


def read_parquet(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the rows of a span of rows."""
    with _parquet(span.path) as file:
        yield from _table_rows(span, _cut(_batches(file, span), span.start, span.stop))


def _batches(file: pq.ParquetFile, span: Span) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the batches of the row groups in which a span lies, each with the number of rows before it."""
    before = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if before < span.stop and span.start < before + rows:
            at = before
            # One group at a time: of several at once, all are held in memory.
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                yield at, batch
                at += batch.num_rows
        before += rows


def _cut(batches: Iterable[tuple[int, pa.RecordBatch]], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows from `start` to before `stop` alone."""
    for before, batch in batches:
        if before >= stop:
            return
        first = max(start - before, 0)
        if first < batch.num_rows:
            yield batch.slice(first, stop - before - first)


@contextlib.contextmanager
def _arrow_file(path: str) -> Iterator[Any]:
    if not is_url(path):
        with pa.OSFile(path) as file:
            yield file
        return
    with open_url(path, "parts") as raw, pa.PythonFile(raw, "r") as file:
        yield file


@contextlib.contextmanager
def _arrow(path: str) -> Iterator[Iterator[pa.RecordBatch]]:
    """Open an Arrow file, of the IPC file format (also called Feather) or a stream of it."""
    with _arrow_file(path) as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"ARROW1"):
            reader = ipc.open_file(file)
            yield (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            yield iter(ipc.open_stream(file))


def arrow_spans(whole: Span, span_bytes: int) -> list[Span]:
    """Return an Arrow file as one span. Raises DataError where it has no end mark, as one cut between batches."""
    with damage(whole), _arrow_file(whole.path) as file:
        size = file.size()
        head = file.read(_HEAD)
        file.seek(max(size - 8, 0))
        end = file.read(8)
    is_file = head.startswith(b"ARROW1")
    if not is_file:
        refuse_other(whole.path, head)
    if not (end.endswith(b"ARROW1") if is_file else end == _END_OF_STREAM):
        raise damaged(whole.path, "no end mark")
    return [whole]


def read_arrow(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the rows of an Arrow file."""
    with _arrow(span.path) as batches:
        yield from _table_rows(span, batches)


def count_arrow(span: Span) -> int:
    """Return the number of rows of an Arrow file."""
    with _arrow(span.path) as batches:
        return sum(batch.num_rows for batch in batches)


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
