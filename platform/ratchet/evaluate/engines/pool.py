"""A model's answers: units fixed here, computed elsewhere, kept in a journal. Knows no Ray.

A unit is the batch that its answers are computed in. A number depends on its batch, in its last bits. So batches follow
from the requests alone: not from how many processes there are, nor from what a killed run had already done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ratchet.evaluate.engines.forest import layout_rows, sequences_of
from ratchet.model.tree import divide_groups
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import (
    TOO_LONG,
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Engine,
    Request,
    answer_key,
)
from ratchet.store.fingerprint import fingerprint


class GroupEngine(Protocol):
    """An engine that is asked for several groups of requests at once.

    Batches are formed within a group alone, so a group's answers do not depend on which other groups
    were asked for; the work of all groups is done together, the longest first.
    """

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order. Raises RatchetError where one has none."""

    def answer_groups(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[Answer]]:
        """Return the answers of each group, as `answer` gives them."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that answers requests.

    `tokenizer` is its fast tokenizer, with the chat template that it is asked through. `longest` is how
    many positions it has. `identity` names weights, tokenizer, precision and engine: all that decides
    an answer beside the request and its batch.
    """

    engine: GroupEngine
    tokenizer: Any
    longest: int
    identity: str


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

    A unit holds requests of one kind, and at most `budget` tokens, or a single request. Texts count with padding and
    new tokens; continuations as one layout computes them, those that begin alike beside each other.
    """
    distinct = {key(request): request for request in requests}
    texts = {name: one for name, one in distinct.items() if not isinstance(one, ContinuationRequest)}
    scored = [distinct[name] for name in sorted(distinct.keys() - texts.keys())]
    units = _texts(texts, length, budget)
    groups = [sequences_of(one) for one in scored if isinstance(one, ContinuationRequest)]
    units += [tuple(scored[place] for place in places) for places in divide_groups(groups, budget)]
    return sorted(units, key=lambda unit: -weight(unit, length))


def _texts(distinct: Mapping[str, Request], length: Length, budget: int) -> list[Unit]:
    sizes = {name: _size(request, length) for name, request in distinct.items()}
    # The key decides between requests of one length, so that units do not depend on the order of asking.
    order = sorted(distinct, key=lambda name: (distinct[name].kind, -sum(sizes[name]), name))
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
    scored = [request for request in unit if isinstance(request, ContinuationRequest)]
    return layout_rows(scored) if scored else _padded([_size(request, length) for request in unit])


def unit_key(identity: str, unit: Unit, key: Key = request_key) -> str:
    """Return the key of a unit as the model `identity` computes it."""
    # Continuations were computed in another layout before 2, with other last bits: one result mixes no two.
    version = 2 if isinstance(unit[0], ContinuationRequest) else 1
    return fingerprint({"version": version, "model": identity, "requests": [key(request) for request in unit]})


class _Size(NamedTuple):
    """Tokens of a request's prompt, and those that it may write."""

    head: int
    tail: int


def _padded(sizes: Sequence[_Size]) -> int:
    """Return the tokens of a batch: heads are padded to the longest head, tails to the longest tail."""
    return (max(size.head for size in sizes) + max(size.tail for size in sizes)) * len(sizes)


def _size(request: Request, length: Length) -> _Size:
    sampling = getattr(request, "sampling", None)
    return _Size(length(request), sampling.max_tokens if sampling else 0)


Compute = Callable[[Sequence[Unit]], Iterator[tuple[int, list[Answer]]]]
"""Takes units, and yields (place, answers) of each as it is done, in any order."""


class OneEngine:
    """One engine in the calling process: what `actors.Actors` is on a Ray. It is made with the first unit.

    `look` is called before each unit; what it raises ends the work.
    """

    def __init__(self, make: Callable[[], Engine], look: Callable[[], None] = lambda: None) -> None:
        self.make, self.look = make, look
        self.engine: Engine | None = None
        self.start_seconds = 0.0

    def compute(self, units: Sequence[Unit]) -> Iterator[tuple[int, list[Answer]]]:
        """Yield (place, answers) of each unit in their order. Raises what the engine raises."""
        for place, unit in enumerate(units):
            self.look()
            if self.engine is None:
                self.engine = self.make()
            yield place, self.engine.answer(unit)

    def close(self) -> None:
        """Close the engine and free its memory; the next unit makes another one."""
        self.engine = None


@dataclasses.dataclass(frozen=True)
class TokenCount:
    """Tokens of requests: those `asked`, each text and each different sequence by itself, and those `computed`."""

    asked: int = 0
    computed: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(self.asked + other.asked, self.computed + other.computed)


class AnswerPool:
    """Answers as a `GroupEngine`: what the journal holds is not computed again.

    `identity` is all that decides an answer beside the requests of its unit. `budget` is the tokens of
    a unit. A text whose prompt leaves no room in `longest` positions is not asked for: its answer is empty,
    and its `finish_reason` is `TOO_LONG`. `on_units(done, total)` follows the work, and
    `on_tokens(group, count)` is called of each group once it is answered by an engine that counts.
    """

    def __init__(
        self,
        compute: Compute,
        identity: str,
        tokenizer: Any,
        journal: UnitJournal,
        budget: int,
        longest: int,
        on_units: Callable[[int, int], None] = lambda done, total: None,
        on_tokens: Callable[[str, TokenCount], None] = lambda group, count: None,
    ) -> None:
        self.on_tokens = on_tokens
        self.compute, self.identity, self.tokenizer = compute, identity, tokenizer
        self.journal, self.budget, self.longest, self.on_units = journal, budget, longest, on_units
        self._lengths: dict[Request, int] = {}
        self._keys: dict[Request, str] = {}

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order; equal requests are one. Raises RatchetError."""
        return self.answer_groups({"": requests})[""]

    def answer_groups(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[Answer]]:
        """Return the answers of each group; the units of all groups are computed together, longest first.

        Raises RatchetError where one has none; what was answered is kept.
        """
        asked = {name: [one for one in requests if not self._too_long(one)] for name, requests in groups.items()}
        units = {name: units_of(requests, self._length, self.budget, self._key) for name, requests in asked.items()}
        missing = {
            key: unit
            for some in units.values()
            for unit in some
            if (key := unit_key(self.identity, unit, self._key)) not in self.journal
        }
        # The longest first: begun last, it would let all other processes wait for one.
        self._compute(dict(sorted(missing.items(), key=lambda pair: (-weight(pair[1], self._length), pair[0]))))
        found = {name: self._in_order(groups[name], units[name]) for name in groups}
        for name in groups:
            self._tell_tokens(name, groups[name], found[name])
        return found

    def _tell_tokens(self, group: str, requests: Sequence[Request], answers: Sequence[Answer]) -> None:
        asked = sum(map(_tokens_asked, requests, answers))
        shares = {self._key(request): one.computed for request, one in zip(requests, answers, strict=True)}
        computed = [share for share in shares.values() if share is not None]
        if computed and len(computed) == len(shares):
            self.on_tokens(group, TokenCount(asked, sum(computed)))

    def _compute(self, missing: Mapping[str, Unit]) -> None:
        if not missing:
            return
        keys = list(missing)
        for done, (place, answers) in enumerate(self.compute(list(missing.values())), 1):
            self.journal.append(keys[place], answers)
            self.on_units(done, len(keys))

    def _in_order(self, requests: Sequence[Request], units: Sequence[Unit]) -> list[Answer]:
        found: dict[str, Answer] = {}
        for unit in units:
            answers = self.journal.find(unit_key(self.identity, unit, self._key))
            found |= {self._key(request): answer for request, answer in zip(unit, answers, strict=True)}
        return [
            Answer("", TOO_LONG, self._length(request), 0, computed=0)
            if self._too_long(request)
            else found[self._key(request)]
            for request in requests
        ]

    def _too_long(self, request: Request) -> bool:
        return not isinstance(request, ContinuationRequest) and self._length(request) >= self.longest

    def _key(self, request: Request) -> str:
        if request not in self._keys:
            self._keys[request] = request_key(request)
        return self._keys[request]

    def _length(self, request: Request) -> int:
        if request not in self._lengths:
            self._lengths[request] = self._count(request)
        return self._lengths[request]

    def _count(self, request: Request) -> int:
        match request:
            case ContinuationRequest(context=context):
                return len(context)
            case ChatRequest() | CompletionRequest():
                # Here, as it stands beside an engine, whose libraries take seconds to load.
                from ratchet.evaluate.engines.local import prompt_ids

                return len(prompt_ids(self.tokenizer, request))
        return len(request.token_ids)


def _tokens_asked(request: Request, answer: Answer) -> int:
    if isinstance(request, ContinuationRequest):
        return sum(map(len, sequences_of(request)))
    return (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
