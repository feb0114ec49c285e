"""What a task reads: files of questions, and rows of texts, whole and in order.

A row that cannot be used stops the task.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Unfit, check_text
from ratchet.pairs.fields import json_type
from ratchet.pairs.hub import commit_of, hub_label
from ratchet.pairs.read import plan_spans, read_span
from ratchet.plan.data import Source
from ratchet.plan.task_parts import Files, Rows
from ratchet.store.files import at_home


def read_rows(
    rows: Rows, columns: Sequence[str], max_rows: int | None, *, blank: bool = False
) -> tuple[list[dict[str, str]], str]:
    """Return the first `max_rows` rows' texts in `columns`, and 20 hex digits over them.

    `blank` lets texts without content pass. A .txt file is one row, whatever its column is called.

    Raises DataError with file:row for a row that is no object, lacks a column, or holds there what is no text; also
    where a file is absent, damaged, of no known kind or without rows, and where the hub cannot be reached.
    """
    found = []
    for where, row in itertools.islice(_located(rows, columns), max_rows):
        found.append({column: _text(row, column, where, blank=blank) for column in columns})
    if not found:
        raise DataError("there are no rows", where=_name(rows), fix="name another split or file")
    # Of the texts in their order, so that the hub's rows and the same rows in a file share it.
    texts = json.dumps([[row[column] for column in columns] for row in found], separators=(",", ":"))
    return found, hashlib.sha256(texts.encode()).hexdigest()[:20]


def _located(rows: Rows, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row with its file:row."""
    if rows.path is not None and rows.path.lower().endswith(".txt"):
        yield f"{rows.path}:1", {_only(columns, rows.path): _whole(at_home(rows.path))}
        return
    source = Source(path=rows.path, hub=rows.hub)
    for span in plan_spans(source):
        for row in read_span(span, source):
            where = f"{span.path or span.file}:{row.row}"
            if row.value is None:
                raise DataError(f"{row.reason}: {row.detail}", where=where, fix="mend the row, or take it out")
            yield where, dict(row.value)


def _text(row: dict[str, Any], column: str, where: str, *, blank: bool) -> str:
    if column not in row:
        raise DataError(
            f"the row has no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}",
            where=where,
            fix="name the column that holds the text in the task's settings",
        )
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{column!r} is {json_type(value)}, not a text", where=where, fix="name a column of texts")
    if blank and not value.strip():
        return value
    try:
        check_text(value, column)
    except Unfit as error:
        raise DataError(f"{error.reason}: {error.detail}", where=where, fix="mend the row, or take it out") from error
    return value


def _only(columns: Sequence[str], path: str) -> str:
    if len(columns) != 1:
        raise DataError(
            f"a .txt file is one text, and the task asks for {len(columns)}: {', '.join(columns)}",
            where=path,
            fix="give JSON lines with these columns",
        )
    return columns[0]


def _whole(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            "no such file",
            where=str(path),
            fix="check `path:`; in a suite it counts from the suite's file",
            code="data.no-file",
        )
    try:
        # Bytes, as text mode would turn \r\n into \n: the text is scored as it stands.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {error.start + 1}", where=str(path), fix="save it as UTF-8") from error


def _name(rows: Rows) -> str:
    return hub_label(rows.hub) if rows.hub is not None else str(rows.path)


def folder_of(files: Files, patterns: Sequence[str]) -> Path:
    """Return the file or folder that is named; one on the hub is fetched, or found in the local cache.

    `patterns` say which files of a repository are wanted. Raises DataError where there is none, or no way to the hub.
    """
    if files.path is not None:
        path = at_home(files.path)
        if not path.exists():
            raise DataError(
                "no such file or folder",
                where=files.path,
                fix="give the file itself as questions: {path: …}; in a suite it counts from the suite's file",
                code="data.no-file",
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"hub:{files.hub}"
    try:
        commit = commit_of(files.repository, str(files.hub), files.revision)
        return Path(
            snapshot_download(
                str(files.hub), repo_type=files.repository, revision=commit, allow_patterns=list(patterns)
            )
        )
    except RepositoryNotFoundError as error:
        raise DataError(
            f"the hub has no {files.repository} of this name that you may read",
            where=where,
            fix="correct the name or questions.repository, or set HF_TOKEN for a private one",
            code="data.hub",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            f"is not in the local cache and cannot be fetched: {type(error).__name__}: {str(error)[:300]}",
            where=where,
            fix="check name, revision and network; or download it elsewhere and give questions: {path: …}",
            code="data.hub",
        ) from error


def broken_questions(what: str, *, where: str, fix: str = "") -> DataError:
    """Return the error of a file of questions, prompts or answers that is broken, or lacks what a task asks for."""
    return DataError(what, where=where, fix=fix, code="data.questions")
