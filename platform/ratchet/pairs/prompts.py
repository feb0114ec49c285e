"""What stands before an answer, under any of its names: a text, messages, an instruction with its input and history."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.fields import has, text_field, with_system
from ratchet.pairs.messages import answered, is_transcript, transcript, turns_of
from ratchet.pairs.pair import Turn, answer_turn

Fields = Mapping[str, Any]
_SPEAKER = re.compile(r"^\s*(?:user|human|assistant|gpt|system|bot)\s*:", re.MULTILINE | re.IGNORECASE)
_PROMPTS = ("prompt", "question", "instruction")


def asked_turns(row: Fields, keys: tuple[str, ...], *, spoken: bool = True) -> tuple[Turn, ...]:
    """Return the prompt in the first of `keys` that the row has: messages or a text.

    Where `spoken`, a text of `Human: … Assistant: …` becomes turns. Raises Unfit.
    """
    key = next((key for key in keys if has(row, key)), keys[-1])
    value = row.get(key)
    if isinstance(value, list | tuple):
        return turns_of(value, key)
    text = text_field(row, key)
    if not spoken or not is_transcript(text):
        return (Turn("user", text),)
    turns = transcript(text, key)
    return turns[:-1] if turns[-1] == Turn("assistant", "") else turns


def asked(row: Fields) -> tuple[Turn, ...]:
    """Return a prompt under any of its names, as text or messages, after its system text."""
    named = has(row, "prompt") or has(row, "question")
    if not named and has(row, "instruction") and (has(row, "input") or has(row, "history")):
        return instructed(row)
    return with_system(row, asked_turns(row, _PROMPTS))


def answer_of(row: Fields, side: str) -> tuple[tuple[Turn, ...], Turn]:
    """Return what a side repeats before its answer, and the answer: from text, a message or messages."""
    value = row.get(side)
    if isinstance(value, str) and not is_transcript(value):
        return (), answer_turn(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return (), answer_turn(_only(value, side))
    if isinstance(value, list | tuple):
        return answered(turns_of(value, side), side)
    # Of a whole dialogue in one text only the last answer is one.
    return answered(transcript(text_field(row, side), side), side)


def _only(answers: Sequence[str], side: str) -> str:
    """Return the one answer of a list. Raises Unfit where there are several, of which a pair would lose all but one."""
    if len(answers) > 1:
        detail = f"{side} holds {len(answers)} answers, and a pair has one: write a row for each"
        raise Unfit(Reason.MESSAGES, f"{detail}, or name one with `columns: {{{side}: {side}[0], …}}`")
    return answers[0]


def fuller(prompt: tuple[Turn, ...], head: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return `head`, what both sides repeat, where `prompt` is part of it. Raises Unfit where it is not."""
    if not head:
        return prompt
    system = tuple(turn for turn in prompt[:1] if turn.role == "system")
    own = prompt[len(system) :]
    if any(turn not in head for turn in own) and not _same_words(own, head):
        raise Unfit(Reason.MESSAGES, "chosen and rejected repeat another prompt than the row's")
    return head if head[0].role == "system" else (*system, *head)


def _same_words(prompt: tuple[Turn, ...], head: tuple[Turn, ...]) -> bool:
    """Say whether a prompt in one text is the dialogue of `head`, or one turn of it, up to blanks and speakers."""
    if len(prompt) != 1:
        return False
    spoken = [_squashed(turn.content) for turn in head if turn.role != "system"]
    said = _squashed(prompt[0].content)
    return said in {*spoken, "".join(spoken), "".join(_squashed(turn.content) for turn in head)}


def _squashed(text: str) -> str:
    return "".join(_SPEAKER.sub("", text).split()).lower()


def instructed(row: Fields) -> tuple[Turn, ...]:
    """Return history, then the instruction with its input on a line of its own."""
    text = text_field(row, "instruction")
    if has(row, "input") and text_field(row, "input").strip():
        text = f"{text}\n{row['input']}"
    turns: list[Turn] = []
    for exchange in row.get("history") or ():
        if not isinstance(exchange, list | tuple) or [type(side) for side in exchange] != [str, str]:
            raise Unfit(Reason.WRONG_TYPE, "history is not a list of pairs of texts")
        turns += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    return with_system(row, (*turns, Turn("user", text)))
