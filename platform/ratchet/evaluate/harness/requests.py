"""Requests of lm-eval's tasks, built once and kept: they depend on the data and the definition, not on the model.

A file has one leaf's requests, document by document, under a key that names all they are made from. A stage that
finds it builds nothing. A file that is not what was written, or of other documents, is built again, with a warning.

    <sha256 of key and rest, in hex> <key>      on a line, then JSON lines, compressed by zstd
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratchet.errors import DataError
from ratchet.evaluate.harness.leaderboard import order_of
from ratchet.store.files import write_bytes
from ratchet.store.fingerprint import fingerprint

_log = logging.getLogger(__name__)
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class DocumentRequests:
    """What lm-eval asks about one document, a line of the file.

    `doc` is a digest of the document, and `requests` are [type, arguments] by their index. `redrawn` says that the
    document itself had been drawn among its examples.
    """

    doc_id: int
    doc: str
    repeats: int
    requests: Sequence[tuple[str, Sequence[Any]]]
    redrawn: bool


Rows = list[DocumentRequests]


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


def _row(task: Any, doc_id: int, doc: Any, template: Any, others: Others | None) -> DocumentRequests:
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
    return DocumentRequests(
        doc_id=doc_id,
        doc=digest_doc(doc),
        repeats=task.config.repeats,
        requests=[(it.request_type, list(it.args)) for it in made],
        redrawn=others is not None and others.redrawn,
    )


def digest_doc(doc: Any) -> str:
    """Return a digest of a document's content."""
    return hashlib.sha256(json.dumps(doc, default=str, sort_keys=True).encode()).hexdigest()[:20]


def _write(path: Path, key: str, rows: Rows) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows).encode())
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
        rows: Rows = [DocumentRequests(**json.loads(line)) for line in stream.read().splitlines()]
    for row in rows:
        if row.doc_id >= len(docs) or digest_doc(docs[row.doc_id]) != row.doc:
            raise ValueError(f"document {row.doc_id} is another one in the data")
    return rows


def digest_fault(raw: bytes) -> str:
    """Return what is wrong with a file of requests, in words; nothing where it is as it was written."""
    head, newline, body = raw.partition(b"\n")
    key = head.rpartition(b" ")[2]
    # A damaged head need not be UTF-8.
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


def draws_from_questions(task: Any) -> bool:
    """Whether a task's examples come from the rows that it asks."""
    config = task.config
    pool = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    asks = config.test_split or config.validation_split
    return bool(config.num_fewshot and not task.fewshot_cfg.samples and pool == asks)


class Others:
    """A sampler of lm-eval's kind that draws as another one does, and again where that drew the item itself.

    `before` is set to the document that examples are drawn for; `redrawn` tells whether they were drawn again.
    """

    def __init__(self, task: Any, sampler: Any) -> None:
        self.task, self.sampler = task, sampler
        self.before: Any = None
        self.redrawn = False
        self._pool = list(sampler.fewshot_docs())
        # By identity, as documents are dictionaries; the pool keeps them, so no other gets the number.
        self._questions = {id(doc): self._question(doc) for doc in self._pool}

    def sample(self, n: int, eval_doc: Any = None, **options: Any) -> Any:
        """Return `n` examples, none of which asks what the item asks. Raises ValueError where there are not so many."""
        own = self._question(self.before)
        found = self.sampler.sample(n, eval_doc=eval_doc, **options)
        if all((self._questions.get(id(doc)) or self._question(doc)) != own for doc in found):
            return found
        self.redrawn = True
        others = [doc for doc in self._pool if self._questions[id(doc)] != own]
        if len(others) < n:
            raise ValueError(f"{len(others)} rows ask something else")
        self.sampler.df, self.sampler._loaded = others, True
        try:
            return self.sampler.sample(n, **options)
        finally:
            self.sampler.df = self._pool

    def _question(self, doc: Any) -> str:
        choices = self.task.doc_to_choice(doc) if self.task.OUTPUT_TYPE == "multiple_choice" else None
        return json.dumps([self.task.doc_to_text(doc), choices], default=str)


@contextlib.contextmanager
def among_others(task: Any) -> Iterator[Others | None]:
    """Let a task draw its examples among other items than the one that is asked; None where it cannot draw that."""
    if not draws_from_questions(task):
        yield None
        return
    own = task.sampler
    own.fewshot_docs()  # picks the rows by `fewshot_indices`, once
    task.sampler = Others(task, own)
    try:
        yield task.sampler
    finally:
        task.sampler = own
