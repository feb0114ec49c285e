"""Texts and messages as rows hold them, turned into `Turn`s."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.pair import Turn

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_SPEAKER = re.compile(r"(?:\A|\n\n) ?(Human|Assistant):")


def has(row: Mapping[str, Any], *keys: str) -> bool:
    """Say whether the row has all of `keys` (null counts as absent: tables fill absent fields with it)."""
    return all(row.get(key) is not None for key in keys)


def text_field(row: Mapping[str, Any], key: str) -> str:
    """Return a text field. Raises Unfit where it is absent or of another type."""
    value = row.get(key)
    if value is None:
        raise Unfit(Reason.MISSING, key)
    if not isinstance(value, str):
        raise Unfit(Reason.WRONG_TYPE, f"{key} is {json_type(value)}, not a text")
    return value


def first_text(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Return the text of the first of `keys` that the row has. Raises Unfit."""
    for key in keys:
        if row.get(key) is not None:
            return text_field(row, key)
    raise Unfit(Reason.MISSING, " or ".join(keys))


def json_type(value: Any) -> str:
    """Return what a person calls the type of a JSON value."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else "null" if value is None else f"a {type(value).__name__}"


def turns_of(value: Any, name: str) -> tuple[Turn, ...]:
    """Read a list of messages, as role and content or as from and value. Raises Unfit."""
    if not isinstance(value, list | tuple):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(value)}, not a list of messages")
    if not value:
        raise Unfit(Reason.EMPTY, name)
    return tuple(turn_of(item, f"{name}, message {number}") for number, item in enumerate(value, 1))


def turn_of(value: Any, name: str) -> Turn:
    """Read one message. Raises Unfit."""
    if not isinstance(value, Mapping):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(value)}, not an object")
    keys = ("from", "value") if has(value, "from") else ("role", "content")
    role = _ROLES.get(text_field(value, keys[0]).strip().lower())
    if role is None:
        raise Unfit(Reason.MESSAGES, f"{name} is by {value[keys[0]]!r:.40}: not system, user or assistant")
    return Turn(role, text_field(value, keys[1]))


def is_transcript(text: Any) -> bool:
    """Say whether a text is written as `Human: … Assistant: …` (Anthropic's HH)."""
    return isinstance(text, str) and text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def transcript(text: str, name: str) -> tuple[Turn, ...]:
    """Split a text of `Human: …` and `Assistant: …` paragraphs into turns, without the blank space around each.

    Raises Unfit where the text does not begin with a speaker.
    """
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise Unfit(Reason.MESSAGES, f"{name} does not begin with Human: or Assistant:")
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[1::2])
    return tuple(Turn(role, content.strip()) for role, content in zip(roles, parts[2::2], strict=True))


def answered(turns: tuple[Turn, ...], name: str) -> tuple[tuple[Turn, ...], str]:
    """Divide a conversation into what comes before and the assistant's last answer. Raises Unfit."""
    if turns[-1].role != "assistant":
        raise Unfit(Reason.MESSAGES, f"{name} does not end with the assistant")
    return turns[:-1], turns[-1].content


def with_system(row: Mapping[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Put the row's own system prompt first, where it has one and the conversation does not."""
    for key in ("system", "system_prompt"):
        if row.get(key) is not None and text_field(row, key).strip() and (not turns or turns[0].role != "system"):
            return (Turn("system", text_field(row, key)), *turns)
    return turns
