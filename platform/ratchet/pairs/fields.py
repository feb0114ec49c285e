"""The fields of a row as people write them: texts, numbers, answers with scores, options with labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.meanings import has_content
from ratchet.pairs.pair import Turn

_ANSWER_KEYS = ("response", "content", "text", "completion")
_SYSTEM = ("system", "system_prompt")


def has(row: Mapping[str, Any], *keys: str) -> bool:
    """Say whether the row has all of `keys` (null counts as absent: tables fill absent fields with it)."""
    for key in keys:  # noqa: SIM110 - `all` takes thrice the time, and most of what reads a row asks this
        if row.get(key) is None:
            return False
    return True


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


def with_system(row: Mapping[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Put the row's own system prompt first, where it has one. Raises Unfit where it has two that differ."""
    keys = [key for key in _SYSTEM if row.get(key) is not None and text_field(row, key).strip()]
    if not keys:
        return turns
    led = bool(turns) and turns[0].role == "system"
    own = turns[0].content if led else ""
    found = {text.strip() for text in (own, *(row[key] for key in keys)) if text.strip()}
    if len(found) > 1:
        which = " and ".join([*keys, "the conversation"] if own.strip() else keys)
        raise Unfit(Reason.MESSAGES, f"{which} have different system texts: leave one out with `ignore:`")
    # A blank one counts as none.
    return turns if own.strip() else (Turn("system", row[keys[0]]), *turns[led:])


def number_of(row: Mapping[str, Any], key: str) -> float:
    """Return a finite number, also where it is written as text. Raises Unfit."""
    value = row.get(key)
    if value is None:
        raise Unfit(Reason.MISSING, key)
    # In Python a bool is an int, and `true` is no score.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unfit(Reason.WRONG_TYPE, f"{key} is {json_type(value)}, not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Unfit(Reason.WRONG_TYPE, f"{key} is {value!r:.40}, not a number")
    return number


def best_and_worst(row: Mapping[str, Any], name: str) -> tuple[str, str, float]:
    """Return the first answer of the highest score, the first of the lowest, and by how much they differ.

    Scores are inside the answers, or in a list beside them. An answer without a score is left out. Raises Unfit.
    """
    answers = row[name]
    if not isinstance(answers, list | tuple):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is {json_type(answers)}, not a list")
    beside = next((row[key] for key in ("scores", "ratings") if has(row, key)), None)
    if beside is not None and (not isinstance(beside, list | tuple) or len(beside) != len(answers)):
        raise Unfit(Reason.WRONG_TYPE, f"{name} and its scores do not have the same length")
    if len(answers) < 2:
        raise Unfit(Reason.MISSING, f"{name} holds fewer than two answers{_only_one(row, name)}")
    asked = [_scored_answer(item, beside[at] if beside else None, name) for at, item in enumerate(answers)]
    found = [item for item in asked if item is not None]
    if len(found) < 2:
        raise Unfit(Reason.MISSING, f"{name} holds fewer than two answers with a score")
    best, worst = max(found, key=lambda item: item[0]), min(found, key=lambda item: item[0])
    return best[1], worst[1], best[0] - worst[0]


def _only_one(row: Mapping[str, Any], name: str) -> str:
    """Return what to do with a list of one answer, which is a demonstration; nothing where it holds none."""
    if not row[name]:
        return ""
    key = next((key for key in _ANSWER_KEYS if isinstance(row[name][0], Mapping) and has(row[name][0], key)), None)
    prompt = next((key for key in ("prompt", "question", "instruction") if has(row, key)), "…")
    return f"; to train on it: `columns: {{prompt: {prompt}, completion: {name}[0]{f'.{key}' if key else ''}}}`"


def _scored_answer(item: Any, score: Any, name: str) -> tuple[float, str] | None:
    """Return an answer with its score; None where it has none, or is null itself."""
    if item is None:
        return None
    if isinstance(item, str):
        return (number_of({f"score in {name}": score}, f"score in {name}"), item) if has_content(score) else None
    if not isinstance(item, Mapping):
        raise Unfit(Reason.WRONG_TYPE, f"{name} holds {json_type(item)}, not a text or an object")
    key = next((key for key in ("overall_score", "score", "rating") if has_content(item.get(key))), "score")
    value = score if has_content(score) else item.get(key)
    text = first_text(item, _ANSWER_KEYS)
    return (number_of({"score": value}, "score"), text) if has_content(value) else None
