"""What a row looks like: whether its fields may be those of a layout. Nothing is read yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.pairs.fields import has
from ratchet.pairs.meanings import has_content, score_columns
from ratchet.pairs.messages import is_transcript

Fields = Mapping[str, Any]
DEMONSTRATIONS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"))
OPTIONS = ("choices", "endings", "options")
ANSWERS = ("completions", "responses")
_PROMPTS = ("prompt", "question", "instruction")


def both_sides(row: Fields) -> bool:
    """Say whether a row has a chosen and a rejected side."""
    return has(row, "chosen", "rejected")


def has_scores(row: Fields) -> bool:
    """Say whether both sides have scores."""
    return scores_of(row) is not None


def scores_of(row: Fields) -> tuple[str, str] | None:
    """Return the columns with the scores of both sides, where both hold something."""
    found = score_columns(tuple(row))
    # Most rows have no such columns, or something in both: then no other column need be looked at.
    if found is None or all(has_content(row[column]) for column in found):
        return found
    return score_columns(tuple(column for column, value in row.items() if has_content(value)))


def has_scored_list(row: Fields) -> bool:
    """Say whether a row has a list of answers with scores."""
    for name in ANSWERS:
        if isinstance(row.get(name), list | tuple) and row[name]:
            # A list of plain texts without scores beside it is several answers of which none is better.
            inside = isinstance(row[name][0], Mapping)
            return inside or has(row, "scores") or has(row, "ratings")
    return False


def is_pair(row: Fields) -> bool:
    """Say whether a row has a prompt and two sides without scores."""
    return both_sides(row) and not has_scores(row) and (has(row, "prompt") or has(row, "question"))


def is_implicit(row: Fields) -> bool:
    """Say whether the sides may be whole conversations, with no prompt beside them."""
    named = any(has(row, key) for key in (*_PROMPTS, "conversations"))
    return both_sides(row) and not has_scores(row) and not named and is_whole(row)


def is_whole(row: Fields) -> bool:
    """Say whether the chosen side may be a whole conversation, prompt and all."""
    value = row.get("chosen")
    if isinstance(value, str):
        return is_transcript(value)
    return isinstance(value, list | tuple) and len(value) > 1


def is_instruction(row: Fields) -> bool:
    """One answer, and no verdict on it: rows with a thumb up or down would teach their bad answers."""
    if has(row, "rejected") or isinstance(row.get("label"), bool) or any(has(row, key) for key in (*OPTIONS, *ANSWERS)):
        return False
    spoken = any(isinstance(row.get(key), list | tuple) for key in ("messages", "conversations"))
    told = has(row, "instruction", "output") or has(row, "instruction", "response")
    return spoken or told or any(has(row, *keys) for keys in DEMONSTRATIONS)
