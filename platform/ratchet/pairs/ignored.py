"""Columns that a plan leaves out (`ignore:`): rows are without them before anything else looks at their columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.pairs.contract import columns_of
from ratchet.pairs.meanings import has_content
from ratchet.pairs.span import SourceRow


def without(row: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return a row without some of its columns, or parts of them (`column.part`)."""
    if not names:
        return row
    kept = {column: value for column, value in row.items() if column not in names}
    for name in names:
        column, _, part = name.partition(".")
        if part and name not in row and isinstance(inner := kept.get(column), Mapping):
            kept[column] = {key: value for key, value in inner.items() if key != part}
    return kept


def lean(rows: Sequence[SourceRow], names: Sequence[str]) -> list[SourceRow]:
    """Return rows without some of their columns."""
    return [row if row.value is None else dataclasses.replace(row, value=without(row.value, names)) for row in rows]


def held_of(rows: Sequence[SourceRow], names: Sequence[str]) -> tuple[str, ...]:
    """Return those of the columns in which a row holds something."""
    heads = {name.partition(".")[0] for name in names if "." in name}
    held = [columns_of(row.value, heads) for row in rows if row.value is not None] if names else []
    return tuple(name for name in names if any(has_content(row.get(name)) for row in held))
