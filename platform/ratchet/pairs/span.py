"""What is read at one go, and what comes of it: spans of a source's files, their rows, and errors that name a file."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import lzma
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ratchet.errors import DataError

FileForm = Literal["lines", "array", "objects", "document", "columns", "csv", "parquet", "arrow"]
Form = Literal["lines", "array", "objects", "document", "columns", "csv", "parquet", "arrow", "hub", "generate"]


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a source: bytes of lines, rows of Parquet or of a generated one, or a whole file.

    `rows_before` rows of the same file come before it. `key` is where the rows lie in a JSON document, or how a table
    of columns is written there.
    """

    file: str
    path: str
    form: Form
    start: int = 0
    stop: int = 0
    rows_before: int = 0
    key: str = ""


@dataclasses.dataclass(frozen=True)
class SourceRow:
    """One row as read. `value` is None where it is no object; then `reason` and `detail` say why."""

    file: str
    row: int
    value: Mapping[str, Any] | None
    reason: str = ""
    detail: str = ""


def empty(span: Span) -> DataError:
    """Return the error of a file without rows."""
    return DataError(
        "the file holds no rows",
        where=span.path or span.file,
        fix="take it out of `path:`, or fill it",
        code="data.no-rows",
    )


def damaged(path: str, why: object) -> DataError:
    """Return the error of a file that ends too early, or whose bytes have changed."""
    fix = "make the file again or fetch it again; nothing of it was used"
    return DataError(f"the file is damaged or cut off: {why}", where=path, fix=fix, code="data.damaged")


@contextlib.contextmanager
def damage(span: Span) -> Iterator[None]:
    """Turn what the libraries raise on a damaged file into a DataError that names it."""
    import pyarrow as pa  # not at the top: `ratchet check` looks for files, and should load no Arrow for that

    try:
        yield
    # The libraries' own sentences do not name the file.
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowException) as error:
        raise damaged(span.path, error) from error
    except OSError as error:
        if error.errno is None:  # Arrow and bz2 report a short file as an OSError without a number
            raise damaged(span.path, error) from error
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=span.path,
            fix="check that every node sees it, and its rights",
        ) from error
