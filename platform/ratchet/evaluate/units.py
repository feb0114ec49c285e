"""Units of work: the batches that a driver fixes, whoever computes them.

A number depends on the batch that it was computed in, in its last bits. So batches follow from the
requests alone: not from how many processes there are, nor from what a killed run had already done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

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
    sized = sorted((request.kind, -_size(request, length)[0], name, request) for name, request in distinct.items())
    units: list[list[Request]] = []
    rows, width = 0, 0
    for place, (kind, _, _, request) in enumerate(sized):
        size, lines = _size(request, length)
        fits = units and sized[place - 1][0] == kind and (rows + lines) * width <= budget
        if fits:
            units[-1].append(request)
            rows += lines
        else:
            units.append([request])
            rows, width = lines, size
    return [tuple(unit) for unit in units]


def weight(unit: Unit, length: Length) -> int:
    """Return how much work a unit is, in tokens."""
    sizes = [_size(request, length) for request in unit]
    return max(size for size, _ in sizes) * sum(lines for _, lines in sizes)


def unit_key(identity: str, unit: Unit, key: Key = request_key) -> str:
    """Return the key of a unit as the model `identity` computes it."""
    return fingerprint({"version": 1, "model": identity, "requests": [key(request) for request in unit]})


def _size(request: Request, length: Length) -> tuple[int, int]:
    """Return a request's longest row in tokens, and its rows: continuations that need a pass of their own."""
    if isinstance(request, ContinuationRequest):
        tail = max(map(len, request.continuations))
        return length(request) + tail, len(request.continuations) if tail > 1 else 1
    sampling = getattr(request, "sampling", None)
    return length(request) + (sampling.max_tokens if sampling else 0), 1
