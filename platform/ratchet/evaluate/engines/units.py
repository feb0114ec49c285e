"""Units of work: the batches that a driver fixes, whichever process computes them.

A number depends on the batch that it was computed in, in its last bits. So batches follow from the
requests alone: not from how many processes there are, nor from what a killed run had already done.

The journal has a JSON line for each unit, on the disk before its answers count. A line that was torn by a kill, or
changed since, is left out, and its unit computed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ratchet.errors import RunError
from ratchet.serving.requests import Answer, ContinuationRequest, Request, answer_key
from ratchet.store.append import AppendLog, Place, parse_checked_line, read_places
from ratchet.store.fingerprint import fingerprint

Unit = tuple[Request, ...]
Length = Callable[[Request], int]
"""Tokens of a request's prompt."""
Key = Callable[[Request], str]
"""What a request is known by: `request_key`, or that from memory."""


def request_key(request: Request) -> str:
    """Return what a request is known by; long lists of token ids are digested as they are."""
    if not isinstance(request, ContinuationRequest):
        return answer_key("", request)
    text = json.dumps([request.kind, request.context, request.continuations], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def units_of(requests: Sequence[Request], length: Length, budget: int, key: Key = request_key) -> list[Unit]:
    """Return the different requests as units, the longest first; the order of `requests` does not matter.

    A unit holds requests of one kind, and at most `budget` tokens, padding and new tokens included,
    or a single request.
    """
    distinct = {key(request): request for request in requests}
    sizes = {name: _size(request, length) for name, request in distinct.items()}
    order = sorted(distinct, key=lambda name: (distinct[name].kind, -sizes[name].head - sizes[name].tail, name))
    units: list[list[str]] = []
    for name in order:
        grown = [*units[-1], name] if units else [name]
        alike = units and distinct[units[-1][0]].kind == distinct[name].kind
        if alike and _padded([sizes[one] for one in grown]) <= budget:
            units[-1] = grown
        else:
            units.append([name])
    return [tuple(distinct[name] for name in unit) for unit in units]


def weight(unit: Unit, length: Length) -> int:
    """Return how much work a unit is, in tokens."""
    return _padded([_size(request, length) for request in unit])


def unit_key(identity: str, unit: Unit, key: Key = request_key) -> str:
    """Return the key of a unit as the model `identity` computes it."""
    return fingerprint({"version": 1, "model": identity, "requests": [key(request) for request in unit]})


class _Size(NamedTuple):
    """Tokens of a request's prompt and of its longest continuation, and the rows that it takes."""

    head: int
    tail: int
    rows: int


def _padded(sizes: Sequence[_Size]) -> int:
    """Return the tokens of a batch: heads are padded to the longest head, tails to the longest tail."""
    width = max(size.head for size in sizes) + max(size.tail for size in sizes)
    return width * sum(size.rows for size in sizes)


def _size(request: Request, length: Length) -> _Size:
    if isinstance(request, ContinuationRequest):
        tail = max(map(len, request.continuations))
        return _Size(length(request), tail, len(request.continuations) if tail > 1 else 1)
    sampling = getattr(request, "sampling", None)
    return _Size(length(request), sampling.max_tokens if sampling else 0, 1)


class UnitJournal:
    """One journal, open for appending. Use it in a `with`: no other process may write it meanwhile.

    Raises RunError where another process holds it, StorageError.
    """

    def __init__(self, path: Path) -> None:
        held = RunError("another process evaluates this model now", where=str(path), fix="wait for it, or stop it")
        self._log = AppendLog(path, _places, held)

    def __contains__(self, key: str) -> bool:
        return key in self._log.places

    def find(self, key: str) -> list[Answer]:
        """Return the answers of a unit. Raises KeyError where it has none."""
        return _parse(self._log.read(key))[1]

    def append(self, key: str, answers: Sequence[Answer]) -> None:
        """Add a unit; when this returns, no kill and no power cut can lose it. Raises StorageError."""
        self._log.append(key, {"key": key, "answers": list(map(_fields, answers))})

    def __enter__(self) -> UnitJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def _parse(raw: bytes) -> tuple[str, list[Answer]]:
    """Return the key and the answers of one line. Raises ValueError where it is none."""
    line = parse_checked_line(raw)
    try:
        return line["key"], [_answer(fields) for fields in line["answers"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _fields(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON, which has no NaN: a model may give one, and who asked must see it."""
    fields = dataclasses.asdict(answer)
    if answer.logprobs is not None:
        known = [one is None or math.isfinite(one) for one in answer.logprobs]
        fields["logprobs"] = [one if fine else str(one) for one, fine in zip(answer.logprobs, known, strict=True)]
    return fields


def _answer(fields: dict[str, Any]) -> Answer:
    lists = {name: tuple(fields[name]) for name in ("logprobs", "greedy") if fields[name] is not None}
    if "logprobs" in lists:
        lists["logprobs"] = tuple(float(one) if isinstance(one, str) else one for one in lists["logprobs"])
    return Answer(**{**fields, **lists})


def key_of_line(raw: bytes) -> str:
    """Return the key of one line. Raises ValueError where it is none."""
    return _parse(raw)[0]


def _places(path: Path) -> tuple[dict[str, Place], int]:
    return read_places(path, lambda raw, _: key_of_line(raw))
