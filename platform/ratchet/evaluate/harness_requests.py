"""Requests of lm-eval's tasks, built once and kept: they hang on the data and the definition, not on the model.

A file has one leaf's requests, document by document, under a key that names all they are made from. A stage that
finds it builds nothing. A file that is not what was written, or of other documents, is built again, with a warning.

    <sha256 of key and rest, in hex> <key>      on a line, then JSON lines, compressed by zstd
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratchet.errors import DataError
from ratchet.evaluate.harness_profile import order_of
from ratchet.evaluate.harness_shots import Others, among_others
from ratchet.store.files import write_bytes
from ratchet.store.fingerprint import fingerprint

_log = logging.getLogger(__name__)
_VERSION = 2
Rows = list[dict[str, Any]]
"""One for each document: `doc_id`, `doc` (a digest), `repeats`, and `requests` as [type, arguments] by their index;
`redrawn` where the item itself had been drawn among its examples."""


def requests_key(task: Any, made_from: Mapping[str, Any]) -> str:
    """Return the key of a leaf's requests: of its definition, less where its data lie, and of `made_from`."""
    config = task.dump_config()
    for place in ("dataset_path", "dataset_kwargs", "metadata"):
        config.pop(place, None)
    return fingerprint({"version": _VERSION, "config": _plain(config), **made_from})


def kept_rows(path: Path, key: str, docs: Sequence[Any], build: Callable[[], Rows]) -> Rows:
    """Return a leaf's requests from `path`, or build and write them there. Raises StorageError."""
    if path.is_file():
        try:
            return _read(path, key, docs)
        except ValueError as error:
            _log.warning("%s: requests are damaged (%s); they are built again", path, error)
    rows = build()
    _write(path, key, rows)
    return rows


def build_rows(task: Any, docs: Sequence[Any], profile: str, limit: int | None, template: Any) -> Rows:
    """Build a leaf's requests as lm-eval does; `template` renders a chat, or is None. Raises DataError."""
    order = order_of(task, profile, len(docs), limit)
    with among_others(task) as others:
        return [_row(task, doc_id, docs[doc_id], template, others) for doc_id in order]


def _row(task: Any, doc_id: int, doc: Any, template: Any, others: Others | None) -> dict[str, Any]:
    shots = task.config.num_fewshot
    if others is not None:
        others.before, others.redrawn = doc, False
    chat = {"apply_chat_template": template is not None, "chat_template": template}
    try:
        context = task.fewshot_context(
            doc=doc,
            num_fewshot=shots,
            fewshot_as_multiturn=template is not None,
            gen_prefix=task.doc_to_prefix(doc),
            **chat,
        )
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"cannot put {shots} examples before document {doc_id}: {error}",
            where=task.task_name,
            fix="ask for fewer shots, or give data with more rows to draw examples from",
        ) from error
    made = task.construct_requests(doc=doc, ctx=context, metadata=(task.task_name, doc_id, task.config.repeats), **chat)
    made = made if isinstance(made, list) else [made]
    return {
        "doc_id": doc_id,
        "doc": digest_doc(doc),
        "repeats": task.config.repeats,
        "requests": [[it.request_type, list(it.args)] for it in made],
        "redrawn": others is not None and others.redrawn,
    }


def digest_doc(doc: Any) -> str:
    """Return a digest of a document's content."""
    return hashlib.sha256(json.dumps(doc, default=str, sort_keys=True).encode()).hexdigest()[:20]


def _write(path: Path, key: str, rows: Rows) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    body = sink.getvalue().to_pybytes()
    write_bytes(path, _head(key, body) + body)


def _read(path: Path, key: str, docs: Sequence[Any]) -> Rows:
    """Return the rows of a file. Raises ValueError where it is not what was written under `key` of `docs`."""
    raw = path.read_bytes()
    if fault := digest_fault(raw):
        raise ValueError(fault)
    head, _, body = raw.partition(b"\n")
    if head.split()[1].decode() != key:
        raise ValueError("it has the key of another one")
    with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
        rows: Rows = [json.loads(line) for line in stream.read().splitlines()]
    for row in rows:
        if row["doc_id"] >= len(docs) or digest_doc(docs[row["doc_id"]]) != row["doc"]:
            raise ValueError(f"document {row['doc_id']} is another one in the data")
    return rows


def digest_fault(raw: bytes) -> str:
    """Return what is wrong with a file of requests, in words; nothing where it is as it was written."""
    head, newline, body = raw.partition(b"\n")
    key = head.rpartition(b" ")[2]
    right = bool(key) and head + newline == _head(key.decode(errors="replace"), body)
    return "" if right else "it does not have the bytes that were written"


def _head(key: str, body: bytes) -> bytes:
    """Return the first line of a file: the digest of its key and of what follows, and the key."""
    return f"{hashlib.sha256(key.encode() + body).hexdigest()} {key}\n".encode()


def _plain(value: Any) -> Any:
    """Return a definition as plain JSON types; a function is its source."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return inspect.getsource(value)
