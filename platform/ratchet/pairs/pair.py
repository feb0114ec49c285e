"""The nouns of preference data."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ratchet.pairs.digests import (
    asked_line,
    contest_digest,
    digest,
    json_text,
    pair_digest,
    short_digest,
    turn_json,
    turns_json,
)
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

    Both answers are turns of the assistant; a prompt that ends with one gives their beginning. `rejected` is None for a
    demonstration (instruction and output): `sft` stages take those, and preference stages refuse them. `file` and `row`
    (from 1) say where it came from, and are no
    part of its identity. `tools` is the JSON text of a list of the tools that the prompt offers. `asked` is the
    question where worked examples stand above it in the user turn: the split goes by that. `dialogue` is what
    demonstrations of one dialogue have in common, 32 hex digits over all its turns, and no part of their identity.
    """

    prompt: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn | None
    file: str
    row: int
    tools: str | None = None
    asked: str | None = None
    dialogue: str | None = None

    @property
    def pair_id(self) -> str:
        """32 hex digits over prompt and both answers: equal content, equal id."""
        return self._ids.pair

    @property
    def prompt_id(self) -> str:
        """32 hex digits over the prompt as it is written."""
        return self._ids.prompt

    @property
    def drawn_by(self) -> str:
        """What decides whether it is in a sample: demonstrations of one dialogue are drawn one after the other.

        So a sample that ends at a number of rows cuts one dialogue at most.
        """
        return self.dialogue or self.pair_id

    @property
    def prompt_key(self) -> str:
        """32 hex digits over `opening`; pairs that share it share a side of the split."""
        return self._ids.key

    @property
    def last_key(self) -> str | None:
        """32 hex digits over `ending`, where the prompt has several user turns; else None."""
        several = self.asked is None and sum(turn.role == "user" for turn in self.prompt) > 1
        return short_digest(self.ending()) if several else None

    def opening(self) -> str:
        """Return the wording of the question, or else of the first user turn."""
        return self._ids.opening

    def ending(self) -> str:
        """Return the wording of the last user turn."""
        return wording(next(turn.content for turn in reversed(self.prompt) if turn.role == "user"))

    @property
    def contest(self) -> Contest | None:
        """What was compared, whichever side won and however it is written; None for a demonstration."""
        return self._ids.contest

    @functools.cached_property
    def _ids(self) -> _PairIds:
        # All at once, as they are of the same texts: they are half of the work of reading.
        prompt, rejected = _turns(self.prompt), "null" if self.rejected is None else _answer(self.rejected)
        opening = wording(self.asked) if self.asked is not None else _opening(self.prompt)
        offered = "" if self.tools is None else f",{json_text(self.tools)}"
        return _PairIds(
            pair_digest(prompt, _answer(self.chosen), rejected, offered),
            digest(f"[{prompt}{offered}]" if offered else prompt),
            opening,
            short_digest(opening),
            None if self.rejected is None else _contest(self.prompt, self.chosen, self.rejected),
        )


@dataclasses.dataclass(frozen=True)
class Contest:
    """A prompt and two answers without their order: 32 hex digits, and whether the first by the alphabet was chosen.

    Two pairs contradict each other where the digits are equal and the winners are not.
    """

    key: str
    first_won: bool


@dataclasses.dataclass(frozen=True)
class _PairIds:
    pair: str
    prompt: str
    opening: str
    key: str
    contest: Contest | None


def _contest(prompt: tuple[Turn, ...], chosen: Turn, rejected: Turn) -> Contest:
    # The system turn aside: it says how to answer, and not what is better.
    asked = [asked_line(turn.role, wording(turn.text)) for turn in prompt if turn.role != "system"]
    return Contest(*contest_digest(asked, unblanked(chosen.text), unblanked(rejected.text)))


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


def dialogue_id(turns: Sequence[Turn]) -> str:
    """Return 32 hex digits over the turns of a dialogue."""
    return digest(_turns(tuple(turns)))


def _turns(turns: tuple[Turn, ...]) -> str:
    return turns_json([turn_json(turn.role, json_text(turn.content), _beyond_text(turn)) for turn in turns])


def _opening(prompt: tuple[Turn, ...]) -> str:
    return opening_of((turn.role, turn.content) for turn in prompt)


def _answer(turn: Turn) -> str:
    more = _beyond_text(turn)
    return f"[{json_text(turn.content)}{more}]" if more else json_text(turn.content)


def _beyond_text(turn: Turn) -> str:
    """What a turn has besides role and content; nothing for a plain one, whose digest is that of its text alone."""
    if turn.reasoning is turn.tool_calls is turn.tool_call_id is turn.name is None:
        return ""
    more = {key: value for key, value in vars(turn).items() if key not in {"role", "content"} and value is not None}
    return "," + json.dumps(more, sort_keys=True, separators=(",", ":"))
