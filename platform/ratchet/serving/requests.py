"""What an engine is asked, and what it answers.

A request is known by its key, a fingerprint of the model's name and all of the request. Equal
requests are one request: who wants several samples of one prompt gives each its own seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from ratchet.pairs.pair import Turn
from ratchet.store.fingerprint import fingerprint

TOO_LONG = "prompt too long"
"""The `finish_reason`, and the problem, of a text that was not asked for: its prompt leaves the model no room."""
_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How text is drawn. Temperature 0 is greedy.

    An answer ends before the first of `stop`, or after `max_tokens`. Where `choice` is not empty,
    the answer is one of its texts: `structured_outputs` of vLLM, which other servers may not know.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """Asks for the next message of a conversation; the engine applies the model's chat template."""

    kind: ClassVar = "chat"
    turns: tuple[Turn, ...]
    sampling: Sampling = Sampling()


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """Asks how a text or token ids go on. Token ids leave nothing to the server's tokenizer."""

    kind: ClassVar = "completion"
    prompt: str | tuple[int, ...]
    sampling: Sampling = Sampling()


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Asks for the log-probability of each of these token ids, given those before it."""

    kind: ClassVar = "score"
    token_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ContinuationRequest:
    """Asks how likely each of several continuations of one context is, all of them as token ids.

    Neither the context nor a continuation is empty. Only engines that hold the model themselves answer this.
    """

    kind: ClassVar = "continuation"
    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


Request = ChatRequest | CompletionRequest | ScoreRequest | ContinuationRequest


@dataclasses.dataclass(frozen=True)
class Answer:
    """An engine's answer to one request.

    `finish_reason` is the engine's own word: `stop`, `length`, … The counts are None where a server
    does not tell them. A score has no text but `logprobs`: natural logarithms, one for each token
    id of the request, and None for the first, which has nothing before it. Of continuations it has the
    sum over each one's tokens, and in `greedy` whether each is what the model would say unasked.
    `computed` is its share of the tokens that the engine computed for all answers of a call, padding and all; None
    where the engine does not count. It says nothing of what was answered.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[float | None, ...] | None = None
    greedy: tuple[bool, ...] | None = None
    computed: int | None = dataclasses.field(default=None, compare=False)


class Engine(Protocol):
    """What evaluation, judging and scoring know of an engine."""

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order. Raises RatchetError where one has none."""


def request_identity(model: str, request: Request) -> dict[str, Any]:
    """Return what the key of a request is the fingerprint of."""
    return {"version": 1, "model": model, "kind": request.kind, **dataclasses.asdict(request)}


def answer_key(model: str, request: Request) -> str:
    """Return the key of a request. Raises TypeError where a number of it is not finite."""
    return fingerprint(request_identity(model, request))


def request_words(request: Request) -> str:
    """Return a few words by which people know a request again."""
    match request:
        case ChatRequest(turns=turns):
            said: str | tuple[int, ...] = turns[-1].content if turns else ""
        case CompletionRequest(prompt=prompt):
            said = prompt
        case ScoreRequest(token_ids=token_ids) | ContinuationRequest(context=token_ids):
            said = token_ids
    text = said if isinstance(said, str) else f"{len(said)} token ids: {' '.join(map(str, said[:_SHOWN]))}"
    return f"the {request.kind} request {text[:_SHOWN] + '…' if len(text) > _SHOWN else text!r}"
