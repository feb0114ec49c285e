"""The model under evaluation, as tasks see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratchet.serving.requests import Answer, Request

TOO_LONG = "prompt too long"
"""The `finish_reason`, and the problem, of a text that was not asked for: its prompt leaves the model no room."""


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
