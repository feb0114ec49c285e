"""Columns that a plan leaves out (`ignore:`): rows are without them before anything else looks at their columns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.pairs.meanings import has_content
from ratchet.pairs.span import SourceRow


def without(row: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return a row without some of its columns, or parts of them: `column.part`.

    A part is left out of each object in a list too, and of what is the JSON text of either.
    """
    if not names:
        return row
    kept = {column: value for column, value in row.items() if column not in names}
    for name in names:
        column, _, part = name.partition(".")
        if part and name not in row and column in kept:
            kept[column] = _less(kept[column], part)
    return kept


def _less(value: Any, part: str) -> Any:
    if isinstance(value, str):
        return _less(_opened(value), part) if _holds(value, part) else value
    if isinstance(value, list):
        return [_less(one, part) for one in value]
    if not isinstance(value, Mapping):
        return value
    if part in value:
        return {key: held for key, held in value.items() if key != part}
    key, _, rest = part.partition(".")
    return {**value, key: _less(value[key], rest)} if rest and key in value else value


def _opened(value: Any) -> Any:
    """Return what a text is the JSON of, where that is a list or an object; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # a text that merely begins like that
        return value


def _holds(value: Any, part: str) -> bool:
    """Say whether a part of a value holds something."""
    value = _opened(value)
    if isinstance(value, list):
        return any(_holds(one, part) for one in value)
    if not isinstance(value, Mapping):
        return False
    if part in value:
        return has_content(value[part])
    key, _, rest = part.partition(".")
    return bool(rest) and key in value and _holds(value[key], rest)


def lean(rows: Sequence[SourceRow], names: Sequence[str]) -> list[SourceRow]:
    """Return rows without some of their columns."""
    return [row if row.value is None else dataclasses.replace(row, value=without(row.value, names)) for row in rows]


def held_of(rows: Sequence[SourceRow], names: Sequence[str]) -> tuple[str, ...]:
    """Return those of the columns in which a row holds something."""
    held = [row.value for row in rows if row.value is not None] if names else []
    return tuple(name for name in names if any(_holds(row, name) for row in held))
