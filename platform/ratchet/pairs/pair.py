"""The nouns of preference data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.pairs.normal_form import opening_of, unblanked, wording

Ids = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message: `role` is system, user, assistant or tool.

    `reasoning` are the thoughts before an assistant's answer, apart from it. `tool_calls` is the JSON text of a list
    of calls, as `messages.calls_of` writes it; beside calls, `content` may be empty. A tool's turn is the result of a
    call: `tool_call_id` names the call, and `name` the tool, where the source says so.
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in it, in the order in which a model would write them."""
        if self.reasoning is None and self.tool_calls is None:  # most turns are text alone
            return (self.content,) if self.content else ()
        return tuple(text for text in (self.reasoning, self.content, self.tool_calls) if text)

    @property
    def text(self) -> str:
        """All its texts as one, a blank line between them."""
        return self.content if self.reasoning is None and self.tool_calls is None else "\n\n".join(self.texts)


def answer_turn(text: str) -> Turn:
    """Return an assistant's turn of a text alone."""
    return Turn("assistant", text)


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """A prompt with a chosen and a rejected answer.

    Both answers are turns of the assistant. `rejected` is None for a demonstration (instruction and output): `sft`
    stages take those, and preference stages refuse them. `file` and `row` (from 1) say where it came from, and are no
    part of its identity. `tools` is the JSON text of a list of the tools that the prompt offers. `asked` is the
    question where worked examples stand above it in the user turn: the split goes by that.
    """

    prompt: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn | None
    file: str
    row: int
    tools: str | None = None
    asked: str | None = None

    @functools.cached_property
    def pair_id(self) -> str:
        """32 hex digits over prompt and both answers: equal content, equal id."""
        rejected = None if self.rejected is None else _answer(self.rejected)
        return _digest([_turns(self.prompt), _answer(self.chosen), rejected, *self._offered])

    @functools.cached_property
    def prompt_id(self) -> str:
        """32 hex digits over the prompt as it is written."""
        return _digest([_turns(self.prompt), *self._offered] if self._offered else _turns(self.prompt))

    @property
    def _offered(self) -> tuple[str, ...]:
        return () if self.tools is None else (self.tools,)

    @functools.cached_property
    def prompt_key(self) -> str:
        """32 hex digits over the wording of the first user turn; pairs that share it share a side of the split."""
        if self.asked is not None:
            return _short_digest(wording(self.asked))
        return _short_digest(opening_of((turn.role, turn.content) for turn in self.prompt))

    @functools.cached_property
    def contest(self) -> Contest | None:
        """What was compared, whichever side won and however it is written; None for a demonstration."""
        if self.rejected is None:
            return None
        # The system turn aside: it says how to answer, and not what is better.
        asked = "\n".join(f"{turn.role}:{wording(turn.text)}" for turn in self.prompt if turn.role != "system")
        chosen, rejected = unblanked(self.chosen.text), unblanked(self.rejected.text)
        first, second = sorted((chosen, rejected))
        return Contest(_short_digest("\0".join((asked, first, second))), chosen == first)


@dataclasses.dataclass(frozen=True)
class Contest:
    """A prompt and two answers without their order: 32 hex digits, and whether the first by the alphabet was chosen.

    Two pairs contradict each other where the digits are equal and the winners are not.
    """

    key: str
    first_won: bool


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that was read and not kept: why, and where it stands."""

    file: str
    row: int
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class TokenisedPair:
    """A pair as token ids. `rejected` is empty for a demonstration. Shapes: (length,), int32."""

    pair_id: str
    prompt: Ids
    chosen: Ids
    rejected: Ids


def _turns(turns: tuple[Turn, ...]) -> list[list[Any]]:
    return [[turn.role, turn.content, *_beyond_text(turn)] for turn in turns]


def _answer(turn: Turn) -> Any:
    more = _beyond_text(turn)
    return [turn.content, *more] if more else turn.content


def _beyond_text(turn: Turn) -> list[dict[str, str]]:
    """What a turn has besides role and content; nothing for a plain one, whose digest is that of its text alone."""
    if turn.reasoning is turn.tool_calls is turn.tool_call_id is turn.name:  # all four are None
        return []
    more = {key: value for key, value in vars(turn).items() if key not in {"role", "content"} and value is not None}
    return [dict(sorted(more.items()))]


def _digest(value: object) -> str:
    # ASCII, so that the digest does not change with how JSON writes other characters. JSON, so that ['a', 'b'] and
    # ['ab'] differ.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _short_digest(text: str) -> str:
    # BLAKE2b takes half the time of SHA-256. Unpaired surrogates are refused later, and must not stop a reader here.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
