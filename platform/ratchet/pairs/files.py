"""The files of a source, under labels that hold wherever the folder lies, and the spans in which they are read.

A span is read on its own, so that many tasks can share a long file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

from ratchet.errors import DataError
from ratchet.pairs.hub import hub_label
from ratchet.plan.data import Source
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_once

SPAN_BYTES = 32 << 20
SPAN_ROWS = 20_000
_BLOCK = 1 << 20
Form = Literal["lines", "array", "parquet", "arrow", "hub", "generate"]
_FORMS: dict[str, Literal["lines", "array", "parquet"]] = {
    ".jsonl": "lines",
    ".jsonl.gz": "lines",
    ".json": "array",
    ".json.gz": "array",
    ".parquet": "parquet",
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, its form, and its label: its path below the folder that all files of the source share."""

    label: str
    path: Path
    form: Literal["lines", "array", "parquet", "arrow"]


def source_files(source: Source) -> list[SourceFile]:
    """Return a source's files in order, each once. Raises DataError where a path, glob or folder gives none."""
    entries = [source.path] if isinstance(source.path, str) else list(source.path or ())
    paths = list(dict.fromkeys(path for entry in entries for path in _expand(entry)))
    # Labels are in identities and in skipped rows, so they must not change with the place of the folder.
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [SourceFile(str(path.relative_to(common)), path, _form(path)) for path in paths]


def digests(source: Source) -> list[list[str]]:
    """Return label and SHA-256 of every file, in order; a file is read once while its size and time stay."""
    return [[file.label, digest_once(file.path)] for file in source_files(source)]


def _expand(entry: str) -> list[Path]:
    path = at_home(entry).absolute()
    if path.is_dir():
        return _saved(path)
    if path.is_file():
        return [path]
    if not glob.has_magic(entry):
        raise DataError(
            "no such file or folder",
            where=entry,
            fix="check `path:`; it counts from where the command is run",
            code="data.no-file",
        )
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [name for name in found if name.is_file()]
    if not files:
        raise DataError(
            "no file matches",
            where=entry,
            fix="check the pattern; it counts from where the command is run",
            code="data.no-file",
        )
    return files


def _saved(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder written by `Dataset.save_to_disk`."""
    state = folder / "state.json"
    if not state.is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if splits:
            raise DataError(
                f"the folder holds several data sets: {', '.join(splits)}",
                where=str(folder),
                fix=f"name one, for example path: {folder / splits[0]}",
                code="data.form",
            )
        raise DataError(
            "the folder was not saved by `datasets`: it has no state.json",
            where=str(folder),
            fix=f"give the files themselves, for example path: {folder / '*.jsonl'}",
            code="data.form",
        )
    try:
        files = [folder / item["filename"] for item in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read the list of data files: {error!r}",
            where=str(state),
            fix="save it again",
            code="data.damaged",
        ) from error
    lost = [path.name for path in files if not path.is_file()]
    if lost or not files:
        raise DataError(
            f"data files are missing: {', '.join(lost) or 'all'}",
            where=str(folder),
            fix="fetch or save it again",
            code="data.no-file",
        )
    return files


def _form(path: Path) -> Literal["lines", "array", "parquet", "arrow"]:
    # Only in a folder of `datasets`: other Arrow files may be of the IPC file format, which is another.
    if path.suffix == ".arrow" and (path.parent / "state.json").is_file():
        return "arrow"
    # By the end of the name, not by `suffix`: `.jsonl.gz` has two.
    for suffix, form in _FORMS.items():
        if path.name.lower().endswith(suffix):
            return form
    known = f"use one of {', '.join(_FORMS)}"
    raise DataError("not a kind of file that can be read", where=str(path), fix=known, code="data.form")


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


def empty(span: Span) -> DataError:
    """Return the error of a file without rows."""
    return DataError(
        "the file holds no rows",
        where=span.path or span.file,
        fix="take it out of `path:`, or fill it",
        code="data.no-rows",
    )


def _damaged(span: Span, why: object) -> DataError:
    fix = "make the file again or fetch it again; nothing of it was used"
    return DataError(f"the file is damaged or cut off: {why}", where=span.path, fix=fix, code="data.damaged")


@contextlib.contextmanager
def damage(span: Span) -> Iterator[None]:
    """Turn what the libraries raise on a damaged file into a DataError that names it."""
    import pyarrow as pa  # not at the top: `ratchet check` looks for files, and should load no Arrow for that

    try:
        yield
    # The libraries' own sentences do not name the file.
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise _damaged(span, error) from error
    except OSError as error:
        if error.errno is None:  # Arrow reports a short file as an OSError without a number
            raise _damaged(span, error) from error
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=span.path,
            fix="check that every node sees it, and its rights",
        ) from error


def _file_spans(file: SourceFile, span_bytes: int) -> list[Span]:
    path, whole = file.path, Span(file.label, str(file.path), file.form)
    # Parquet's reader would call it damaged.
    if path.stat().st_size == 0:
        raise empty(whole)
    if file.form == "parquet":
        return _parquet_spans(whole, span_bytes)
    if file.form == "arrow":
        _check_ending(whole)
    if file.form == "array":
        with damage(whole), open(whole.path, "rb") as raw:
            stream = unpacked(raw, whole)
            while not (head := (block := stream.read(_BLOCK)).lstrip(b"\xef\xbb\xbf \t\r\n")) and block:
                pass
        if not head.startswith((b"[", b"{")):
            what = "an array, nor one object a line" if head else "anything: the file is empty"
            raise DataError(
                f"the file holds neither {what}", where=str(path), fix="give JSON or JSON lines", code="data.form"
            )
        # Many files with JSON lines are called .json.
        if head.startswith(b"{"):
            whole = dataclasses.replace(whole, form="lines")
    # Nobody can start to read in the middle of a gzip file.
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
    import pyarrow.parquet as pq

    spans, first, size, rows, before = [], 0, 0, 0, 0
    with damage(whole), pq.ParquetFile(whole.path) as file:
        meta = file.metadata
        if meta.num_rows == 0:
            raise empty(whole)
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
            raise _damaged(whole, "no end mark")


def unpacked(raw: BinaryIO, span: Span) -> BinaryIO:
    """Return the content of a file that is open; `raw` still says how far it was read, of its packed bytes."""
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if span.path.endswith(".gz") else raw
