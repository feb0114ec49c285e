"""Units of work: the batches that a driver fixes, whoever computes them.

A number depends on the batch that it was computed in, in its last bits. So batches follow from the
requests alone: not from how many processes there are, nor from what a killed run had already done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ratchet.serving.requests import ContinuationRequest, Request, key_of
from ratchet.store.fingerprint import fingerprint

Unit = tuple[Request, ...]
Length = Callable[[Request], int]
"""Tokens of a request's prompt."""
Key = Callable[[Request], str]
"""What a request is known by: `request_key`, or that from memory."""


def request_key(request: Request) -> str:
    """Return what a request is known by; long lists of token ids are digested as they are."""
    if not isinstance(request, ContinuationRequest):
        return key_of("", request)
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
