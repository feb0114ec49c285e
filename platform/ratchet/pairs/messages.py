"""Conversations as people write them: messages with thoughts, calls of tools and their results, and HH's texts.

Messages of OpenAI (`role`, `content`, `tool_calls`), of ShareGPT (`from`, `value`, `function_call`, `observation`) and
of ms-swift (`tool_call`, `tool_response`) become turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.fields import has, json_type, text_field
from ratchet.pairs.meanings import has_content, meaning_of
from ratchet.pairs.pair import Turn

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLERS = {"function_call", "tool_call"}
"""Roles of messages whose content is the calls."""
_PLAIN = {"role", "content"}
"""Of a message as most are: what else may be said of one need not be looked for."""
_REASONING = (
    *("reasoning_content", "reasoning", "thinking", "thinking_content", "thought", "thoughts", "reasoning_text"),
    *("think_content", "tool_plan"),
)
"""Keys of the thoughts before an answer. Cohere's `tool_plan` are those before calls."""
_READ = frozenset(
    (
        *(*_PLAIN, *_REASONING, "from", "value", "parts", "tool_calls", "function_call", "tool_call_id", "name"),
        *("weight", "loss", "training", "train", "loss_weight", "train_detail", "reasoning_details"),
    )
)
"""Keys of a message that are read here or where dialogues are. Of others it is asked whether they mean something."""
_NOT_READ = frozenset(
    (
        *("refusal", "candidates", "attachments", "attachment", "experimental_attachments", "files", "file"),
        *("thinking_blocks", "tool_results"),
    )
)
"""Of a message: without these its text means something else, as without what means something as a column."""
_TEXTS = {"text", "input_text", "output_text"}
"""Types of parts that are text; the last two are those of OpenAI's Responses."""
# HH's texts have the speaker after a blank line. A line that merely begins with `Human:` may be part of an answer.
_SPEAKER = re.compile(r"(?:\A|\n\n) ?(Human|Assistant):")


def turns_of(value: Any, name: str) -> tuple[Turn, ...]:
    """Read a list of messages. Raises Unfit."""
    if not isinstance(value, list | tuple):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(value)}, not a list of messages")
    if not value:
        raise Unfit(Reason.EMPTY, name)
    return tuple(turn_of(item, f"{name}, message {number}") for number, item in enumerate(value, 1))


def turn_of(value: Any, name: str) -> Turn:
    """Read one message. Raises Unfit."""
    if not isinstance(value, Mapping):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(value)}, not an object")
    if value.keys() == _PLAIN and isinstance(value["role"], str) and isinstance(value["content"], str):
        plain = _ROLES.get(value["role"])
        if plain is not None and plain != "tool":
            return Turn(plain, value["content"])
    if not _READ.issuperset(value):
        _check_unread(value, name)
    # Gemini's messages have `parts`.
    content = "parts" if has(value, "parts") and not has(value, "content") else "content"
    by, said = ("from", "value") if has(value, "from") else ("role", content)
    if not has(value, by):
        raise Unfit(
            Reason.MISSING, f"role of {name}, an object of {', '.join(sorted(map(str, value)))[:80] or 'nothing'}"
        )
    speaker = text_field(value, by).strip().lower()
    if speaker in _CALLERS:
        return Turn("assistant", "", tool_calls=calls_of(value.get(said), f"{name}: {said}"))
    role = _ROLES.get(speaker)
    if role is None:
        raise Unfit(Reason.MESSAGES, f"{name} is by {value[by]!r:.40}: not system, user, assistant or tool")
    reasoning, calls = _reasoning(value, name), _calls(value, name)
    if role != "assistant" and (reasoning is not None or calls is not None):
        raise Unfit(Reason.MESSAGES, f"{name} is by the {role} and has what only an assistant has")
    content = "" if calls is not None and value.get(said) is None else _content(value, said, role, name)
    if role != "tool":
        return Turn(role, content, reasoning, calls)
    return Turn(role, content, tool_call_id=_optional(value, "tool_call_id"), name=_optional(value, "name"))


def _check_unread(value: Mapping[str, Any], name: str) -> None:
    """Raise Unfit where a message has a key that is not read, and means something beside a pair."""
    for key in value.keys() - _READ:
        meaning = meaning_of(key, "pairs")
        known = meaning is not None or key in _NOT_READ
        if known and value[key] is not False and has_content(value[key]):
            what = f": {meaning.what}" if meaning is not None else ""
            out = f"`ignore:` with its column and `.{key}` leaves it out"
            raise Unfit(Reason.MESSAGES, f"{name} has {key}, which is not read{what}; {out}")


def _content(value: Mapping[str, Any], key: str, role: str, name: str) -> str:
    """Return a text, also where it is written as parts. A tool's result may be any JSON, which becomes text."""
    content = value.get(key)
    if isinstance(content, list | tuple) and content and all(isinstance(part, Mapping) for part in content):
        kinds = set().union(*map(_part_kinds, content))
        if kinds <= _TEXTS:
            return "".join(text_field(part, "text") for part in content)
        if role != "tool":
            others = ", ".join(sorted(kinds - _TEXTS))
            raise Unfit(Reason.WRONG_TYPE, f"{name} has parts of type {others}: only text is read")
    if role == "tool" and content is not None and not isinstance(content, str):
        return compact_json(content)
    return text_field(value, key)


def _part_kinds(part: Mapping[str, Any]) -> set[str]:
    """Return the type of a part. Those of Amazon and Google have none, and what they hold are their keys."""
    return {str(part["type"])} if part.get("type") else {key for key, held in part.items() if held is not None}


def _optional(value: Mapping[str, Any], key: str) -> str | None:
    return text_field(value, key) if value.get(key) is not None else None


def _reasoning(value: Mapping[str, Any], name: str) -> str | None:
    found = {text_field(value, key) for key in _REASONING if value.get(key)}
    if len(found) > 1:
        raise Unfit(Reason.MESSAGES, f"{name} has two different thoughts")
    if found or not value.get("reasoning_details"):
        return found.pop() if found else None
    return _details(value["reasoning_details"], f"{name}: reasoning_details")


def _details(parts: Any, name: str) -> str:
    """Return the thoughts in OpenRouter's list of their parts. Raises Unfit where some are not texts."""
    if not isinstance(parts, list | tuple) or not all(isinstance(part, Mapping) for part in parts):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(parts)}, not a list of parts")
    return "".join(text_field(part, "text") for part in parts)


def _calls(value: Mapping[str, Any], name: str) -> str | None:
    # `function_call` is OpenAI's older form of one call.
    found = [(key, value[key]) for key in ("tool_calls", "function_call") if value.get(key)]
    if len(found) > 1:
        raise Unfit(Reason.MESSAGES, f"{name} has both tool_calls and function_call")
    return calls_of(found[0][1], f"{name}: {found[0][0]}") if found else None


def calls_of(value: Any, name: str) -> str:
    """Return calls as JSON: objects of `type`, perhaps `id`, and `function` with `name` and `arguments`.

    They come as a list, one object, or the JSON of either; each with its `function` inside or flat. Arguments that are
    the JSON of an object become that object, as templates expect. Raises Unfit.
    """
    value = _parsed(value, name)
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple) or not items:
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(value)}, not a list of calls")
    return compact_json([_call(_parsed(item, name), name) for item in items])


def _call(item: Any, name: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise Unfit(Reason.WRONG_TYPE, f"{name} holds {json_type(item)}, not a call")
    function = item["function"] if isinstance(item.get("function"), Mapping) else item
    called = text_field(function, "name")
    arguments: Any = next((function[key] for key in ("arguments", "parameters") if function.get(key) is not None), {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{name}: arguments of {called}") if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise Unfit(Reason.WRONG_TYPE, f"{name}: arguments of {called} are {json_type(arguments)}, not an object")
    known_as = {"id": item["id"]} if item.get("id") is not None else {}
    return {"type": "function", **known_as, "function": {"name": called, "arguments": arguments}}


def tools_of(row: Mapping[str, Any]) -> str | None:
    """Return the JSON of a row's `tools`, a list or its JSON; None where it offers none. Raises Unfit."""
    value = row.get("tools")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    tools = _parsed(value, "tools")
    if not isinstance(tools, list | tuple):
        raise Unfit(Reason.WRONG_TYPE, f"tools is {json_type(tools)}, not a list")
    for tool in (found := [_parsed(tool, "tools") for tool in tools]):
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise Unfit(Reason.WRONG_TYPE, "tools holds what has no name: each is an object with name and parameters")
    return compact_json(found) if found else None


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unfit(Reason.NOT_JSON, f"{name}: {error}") from error


def compact_json(value: Any) -> str:
    """Return compact JSON. Nulls in objects are left out: tables fill every field that a row lacks with one."""
    try:
        return json.dumps(_without_nulls(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Unfit(Reason.WRONG_TYPE, f"no JSON: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


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


def answered(turns: tuple[Turn, ...], name: str) -> tuple[tuple[Turn, ...], Turn]:
    """Divide a conversation into what comes before and the assistant's last answer. Raises Unfit."""
    if turns[-1].role != "assistant":
        raise Unfit(Reason.MESSAGES, f"{name} does not end with the assistant")
    return turns[:-1], turns[-1]
