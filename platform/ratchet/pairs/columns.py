"""From a row to the fields that layouts read: values at paths, texts that are JSON, structs of lists."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.content_parts import with_parts_apart
from ratchet.pairs.fields import number_of
from ratchet.pairs.meanings import has_content, meaning_of, says
from ratchet.pairs.messages import turn_of
from ratchet.plan.columns import Fixed, PreferredBy, Step, Value, Where, path_steps

# Fields whose value may be a conversation. Only there is JSON in a text taken for messages.
_SPOKEN = (
    "prompt",
    "question",
    "chosen",
    "rejected",
    "completion",
    "messages",
    "conversations",
    "output_1",
    "output_2",
)
_DIALOGUES = ("messages", "conversations")
_SYSTEM = ("system", "system_prompt")
_OF_MESSAGES = frozenset(("role", "content", "from", "value"))
_LISTS = ("completions", "responses", "scores", "ratings", "history", "choices", "options", "endings", "tools")
_EXCHANGES = (
    *(("input", "output"), ("human", "assistant"), ("user", "assistant"), ("prompt", "response")),
    *(("question", "answer"), ("instruction", "output"), ("query", "response")),
)
"""Names of a question and its answer in a list of exchanges."""
_BEGINS = re.compile(
    r"""\s*(?P<list>\[\s*)?\{\s*(?P<quote>["'])(?:(?P<first>(?:role|from|content|value)(?P=quote)\s*:)"""
    r"""|(?=[^{}]{0,400}?(?P=quote)(?:role|from)(?P=quote)\s*:\s*(?P=quote)"""
    r"""(?:system|developer|user|human|assistant|gpt|model|tool)(?P=quote))"""
    r"""(?=[^\0]*?(?P=quote)(?:content|value|tool_calls)(?P=quote)\s*:))"""
)
"""How messages begin that are the JSON of an object or a list: who speaks may come behind a number or a date."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}|[0-9]{1,40}\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_PYTHON = "is a list in Python's notation, not JSON: write it with json.dumps"


def column_value(row: Mapping[str, Any], path: str) -> Any:
    """Return what a row holds at a path, or None. A column of that very name comes before steps into others."""
    if path in row:
        return row[path]
    if path.isidentifier():  # not a step into another
        return None
    value = _walk(row, _steps(path))
    return _negative(value, path) if path[0] == "-" else value


@functools.cache
def _steps(path: str) -> tuple[Step, ...]:
    return path_steps(path)


def _walk(value: Any, steps: tuple[Step, ...]) -> Any:
    for at, step in enumerate(steps):
        # A table that was saved as CSV has its lists and objects as JSON.
        if isinstance(value, str):
            value = _parsed(value)
        if step == "*":
            return [_walk(item, steps[at + 1 :]) for item in value] if isinstance(value, list | tuple) else None
        if isinstance(step, int):
            value = value[step] if isinstance(value, list | tuple) and -len(value) <= step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text[:1] in "[{" else None
    except (ValueError, RecursionError):
        return None


def _negative(value: Any, path: str) -> Any:
    """Return a number, or a list of them, with its sign turned round, also where it is written as text."""
    if isinstance(value, str) and (parsed := _parsed(value)) is not None:
        value = parsed
    if isinstance(value, list):
        return [_negative(item, path) for item in value]
    return -number_of({path[1:]: value}, path[1:]) if has_content(value) else None


def fields_of(row: Mapping[str, Any], columns: Iterable[tuple[str, Where]]) -> dict[str, Any]:
    """Return the fields that `columns` names, as the layouts read them. Raises Unfit."""
    found: dict[str, Any] = {}
    for field, where in columns:
        if isinstance(where, str):
            found[field] = column_value(row, where)
        elif isinstance(where, Fixed):
            found[field] = where.value
        elif isinstance(where, PreferredBy):
            found[field] = _preferred(row, where)
        else:
            found[field] = [column_value(row, path) for path in where]
    return dict(settled(found))


def _preferred(row: Mapping[str, Any], verdict: PreferredBy) -> float | None:
    """Return 1 or 2 for the better answer, None where the column is null, 1.5 for a tie. Raises Unfit.

    A tie that is written as 0 beside 1 and 2 is 0: where no row has 2, it may be one of the answers.
    """
    value = column_value(row, verdict.column)
    if value is None:
        return None
    for said, values in ((1.0, verdict.first), (2.0, verdict.second), (1.5, verdict.tie)):
        if any(_same(value, one) for one in values):
            doubtful = said == 1.5 and _number(value) == 0 and 1 in verdict.first and 2 in verdict.second
            return 0.0 if doubtful else said
    raise Unfit(Reason.ANSWER, f"{verdict.column} is {value!r:.40}: not a verdict that is known")


def _same(value: Any, listed: Value) -> bool:
    """Say whether a value is a listed one: numbers and true or false count alike whether written as such or as text."""
    if isinstance(value, str) and isinstance(listed, str):
        return _word(value) == _word(listed)
    number, other = _number(value), _number(listed)
    return number == other if number is not None and other is not None else _word(value) == _word(listed)


def _number(value: Any) -> int | float | None:
    if isinstance(value, int | float):
        return None if isinstance(value, bool) else value
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text) is None:
        return None
    # Whole numbers stay whole: as floats, large ones that differ may be equal.
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip().lower() if isinstance(value, str) else json.dumps(value, default=str)


def settled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row whose conversations are lists of messages, also where they came as JSON or as a struct of lists.

    Raises Unfit where such JSON is broken.
    """
    if _is_settled(row):
        return row
    changed: dict[str, Any] = {}
    for field in _SPOKEN:
        value = row.get(field)
        if value is not None and (spoken := _conversation(field, value)) is not value:
            changed[field] = spoken
    for field in _SYSTEM:
        value = row.get(field)
        if isinstance(value, list | tuple) and value and all(isinstance(part, Mapping) for part in value):
            # Amazon's system text is a list of parts, as the content of a message may be.
            changed[field] = turn_of({"role": "system", "content": value}, field).content
    for field in _LISTS:
        value = row.get(field)
        if isinstance(value, str) and value[:1] in "[{" and (parsed := _parsed(value)) is not None:
            changed[field] = parsed
    return {**row, **changed} if changed else row


def _conversation(field: str, value: Any) -> Any:
    """Return the messages that a field holds in another form; the value itself where it needs no change."""
    found = value
    if isinstance(value, str):
        found = _messages(value, field) if _begins(value) else value
    elif isinstance(value, Mapping):
        found = _unfolded(value) or value
        found = [found] if field == "prompt" and is_message(found) else found
    elif field in _DIALOGUES and value and (_is_texts(value) or _is_exchanges(value)):
        found = _in_turn(value)
    if isinstance(found, list | tuple):
        return (with_parts_apart(found) if _in_parts(found) else None) or found
    apart = with_parts_apart([found]) if isinstance(found, Mapping) else None
    return found if apart is None or len(apart) != 1 else apart[0]


def _is_settled(row: Mapping[str, Any]) -> bool:
    """Say whether a row is plainly one of texts and messages, as most are; no other look at it is then needed."""
    for field, value in row.items():
        if isinstance(value, str):
            if value[:1] in "[{ \n" and (field in _SPOKEN or field in _LISTS):
                return False
        elif isinstance(value, list | tuple):
            spoken = value and isinstance(value[0], Mapping) and _OF_MESSAGES.issuperset(value[0])
            if field in _SYSTEM or (field in _DIALOGUES and not spoken):
                return False
            if field in _SPOKEN and _in_parts(value):
                return False
        elif isinstance(value, Mapping) and field in _SPOKEN:
            return False
    return True


def _in_parts(messages: Sequence[Any]) -> bool:
    """Say whether the content of a message is a list."""
    for message in messages:  # noqa: SIM110  a generator costs as much again, and this runs for every row of messages
        if isinstance(message, dict) and isinstance(message.get("content"), list | tuple):
            return True
    return False


def _begins(text: str) -> re.Match[str] | None:
    """Return how a text begins that is the JSON of messages; None for another one."""
    match = _BEGINS.match(text) if text[:1] in "[{ \n" else None
    # A question may begin with a log of a chat, and go on in words.
    whole = match is None or match["first"] is not None or text.rstrip()[-1:] in ("]", "}")
    return match if whole else None


def _messages(text: str, field: str) -> Any:
    match = _BEGINS.match(text)
    if match is not None and match["quote"] == "'":
        raise Unfit(Reason.NOT_JSON, f"{field} {_PYTHON}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unfit(Reason.NOT_JSON, f"{field}: {error}"[:200]) from error
    items = value if isinstance(value, list) else [value]
    # A text that happens to be JSON of something else stays a text.
    return value if all(is_message(item) for item in items) else text


def is_message(value: Any) -> bool:
    """Say whether a value is one message: who speaks, and perhaps what."""
    return isinstance(value, Mapping) and any(isinstance(value.get(key), str) for key in ("role", "from"))


def _unfolded(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the messages of a struct of lists (`{role: […], content: […]}`), or None where it is none."""
    lists = {key: one for key, one in value.items() if isinstance(one, list | tuple)}
    speakers = next((lists[key] for key in ("role", "from") if key in lists), None)
    if speakers is None or any(len(one) != len(speakers) for one in lists.values()):
        return None
    return [{key: one[at] for key, one in lists.items()} for at in range(len(speakers))]


def _is_exchanges(value: Any) -> bool:
    """Say whether a value is a list of questions with their answers, as Capybara's dialogues are."""
    return isinstance(value, list | tuple) and bool(value) and all(_exchange(item) is not None for item in value)


def _exchange(item: Any) -> tuple[str, str] | None:
    """Return a question and its answer, or None where an object holds none."""
    if isinstance(item, Mapping):
        for keys in _EXCHANGES:
            said = tuple(item[key] for key in keys if isinstance(item.get(key), str))
            if len(said) == 2:
                return said
    return None


def _in_turn(items: Sequence[Any]) -> list[dict[str, str]]:
    """Return texts or exchanges as messages. The first exchange may have a system text. Raises Unfit."""
    texts = [text for item in items for text in ([item] if isinstance(item, str) else _exchange(item) or ())]
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    rules = [_rule_of(item, at) for at, item in enumerate(items, 1) if isinstance(item, Mapping)]
    if any(rules[1:]) and set(filter(None, rules)) != {rules[0]}:
        raise Unfit(Reason.MESSAGES, "an exchange that is not the first has a system text of its own")
    return [{"role": "system", "content": rules[0]}, *turns] if rules and rules[0] else turns


def _rule_of(item: Mapping[str, Any], number: int) -> str:
    """Return the system text of an exchange, empty where it has none. Raises Unfit where it has what is not read."""
    used = next(keys for keys in _EXCHANGES if all(isinstance(item.get(key), str) for key in keys))
    for key in item.keys() - {*used, *_SYSTEM}:
        if (meaning := meaning_of(key, "pairs")) is not None and says(item[key], meaning):
            what = f"exchange {number} has {key}, which is not read: {meaning.what}"
            raise Unfit(Reason.MESSAGES, f"{what}; `ignore:` with its column and `.{key}` leaves it out")
    return next((text for key in _SYSTEM if isinstance(text := item.get(key), str) and text.strip()), "")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, str) for item in value)


def value_kind(value: Any) -> str | None:
    """Return the `Kind` of a value as detection sees it; None for null."""
    if isinstance(value, str):
        match = _begins(value)
        return "text" if match is None else "turns" if match["list"] else "turn"
    if isinstance(value, Mapping):
        return "turn" if is_message(value) else "object" if _unfolded(value) is None else "turns"
    if isinstance(value, list | tuple):
        spoken = bool(value) and all(is_message(item) for item in value)
        some = ("turn" if len(value) == 1 else "turns") if spoken else "turns" if _is_exchanges(value) else "list"
        return "texts" if _is_texts(value) else some
    if value is None:
        return None
    return "true or false" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "object"
