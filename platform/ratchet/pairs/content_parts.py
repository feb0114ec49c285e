"""Messages whose content is parts that say more than text: thoughts, calls and results, as Anthropic's have them.

They become the messages that OpenAI's form has for the same: `reasoning_content` and `tool_calls` of the assistant's,
and messages of the role `tool`. What has parts of another type stays as it is, and is refused with that type's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TOLD = {"tool_use", "tool_result", "thinking"}
_ORDER = ("thinking", "text", "tool_use")
"""The order in which an assistant's parts stand as one turn: thoughts, what it says, its calls."""


def with_parts_apart(messages: Sequence[Any]) -> list[Any] | None:
    """Return messages with such parts as messages of their own; None where there are none."""
    if not any(_types(message) & _TOLD for message in messages):
        return None
    return [one for message in messages for one in _apart(message)]


def _types(message: Any) -> set[str]:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return set()
    return {str(part.get("type")) if isinstance(part, Mapping) else "" for part in content}


def _apart(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    types = _types(message)
    if types & _TOLD and message.get("role") == "assistant" and types <= {*_ORDER}:
        return [_said(message)]
    if "tool_result" in types and types <= {"tool_result", "text"}:
        return list(_given(message))
    return [message]


def _said(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an assistant's message; as it is where its parts stand in an order that one turn cannot have."""
    parts = message["content"]
    places = [_ORDER.index(part["type"]) for part in parts]
    if places != sorted(places):
        return message
    texts = {kind: [str(part.get(kind) or "") for part in parts if part["type"] == kind] for kind in _ORDER[:2]}
    calls = [
        {
            "type": "function",
            "id": part.get("id"),
            "function": {"name": part.get("name"), "arguments": part.get("input")},
        }
        for part in parts
        if part["type"] == "tool_use"
    ]
    given = {"reasoning_content": "".join(texts["thinking"]), "tool_calls": calls}
    held = {key: value for key, value in given.items() if value}
    if any(message.get(key) for key in held):  # which of the two is meant, its reader asks
        return message
    return {**message, "content": "".join(texts["text"]), **held}


def _given(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield results of tools, and what the user says between them, in order."""
    for kind, group in itertools.groupby(message["content"], key=lambda part: part["type"]):
        if kind == "text":
            yield {**message, "content": [*group]}
            continue
        for part in group:
            told = {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": part.get("content") or ""}
            yield {**message, **told}
