"""A model's answers: units fixed here, computed by somebody, kept in a journal. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ratchet.evaluate.candidate import TOO_LONG
from ratchet.evaluate.engines.local import prompt_ids
from ratchet.evaluate.engines.units import Unit, UnitJournal, request_key, unit_key, units_of, weight
from ratchet.serving.requests import Answer, ChatRequest, CompletionRequest, ContinuationRequest, Engine, Request

Compute = Callable[[Sequence[Unit]], Iterator[tuple[int, list[Answer]]]]
"""Takes units, and yields (place, answers) of each as it is done, in any order."""


class OneEngine:
    """One engine in the calling process: what `actors.Actors` is on a Ray. It is made with the first unit.

    `look` is called before each unit; what it raises ends the work.
    """

    def __init__(self, make: Callable[[], Engine], look: Callable[[], None] = lambda: None) -> None:
        self.make, self.look = make, look
        self.engine: Engine | None = None

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


class AnswerPool:
    """Answers as a `GroupEngine`: what the journal holds is not computed again.

    `identity` is all that decides an answer beside the requests of its unit. `budget` is the tokens of
    a unit. A text whose prompt leaves no room in `longest` positions is not asked for: its answer is empty,
    and its `finish_reason` is `TOO_LONG`. `on_units(done, total)` follows the work.
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
    ) -> None:
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
        self._compute(dict(sorted(missing.items(), key=lambda pair: (-weight(pair[1], self._length), pair[0]))))
        return {name: self._in_order(groups[name], units[name]) for name in groups}

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
            Answer("", TOO_LONG, self._length(request), 0) if self._too_long(request) else found[self._key(request)]
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
                return len(prompt_ids(self.tokenizer, request))
        return len(request.token_ids)
