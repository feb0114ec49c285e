"""Which rows meet a plan's conditions (`where`); `plan.conditions` says how they are written.

A comparison holds, does not hold, or cannot be made: its field is absent, or of a type that has no such order. A
condition around it is then as unknown as it, unless its other parts decide. A row is kept where its conditions hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ratchet.errors import PlanError
from ratchet.pairs.checks import Reason, Unfit
from ratchet.plan.conditions import Condition, FieldTest, Part, Value
from ratchet.plan.outline import suggest

VERSION = 1
"""Of how conditions are read. It is in the identity of pairs: raise it when one would keep other rows."""
MARGIN = "margin"
"""The field that stands for the difference of a row's scores, in rows that have no field of that name."""

Margin = Callable[[], float | None]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, wanted: wanted in text,
    "starts with": str.startswith,
    "ends with": str.endswith,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
}
_STEP = re.compile(r"[^.\[\]]+|\[\d+\]")
_ABSENT = object()
# A row may hold whatever a file's author thought of.
_NAMES, _DEEP = 200, 3


def check_conditions(row: Mapping[str, Any], conditions: Iterable[Condition], margin: Margin = lambda: None) -> None:
    """Raise Unfit (`where`) at the first condition that the row does not meet, with the fields that decided it.

    `margin` is asked for the difference of the row's scores.
    """
    for condition in conditions:
        seen: list[str] = []
        if _holds(condition.part, row, margin, seen) is not True:
            raise Unfit(Reason.WHERE, f"{condition.text}: {'; '.join(dict.fromkeys(seen))}")


def asked_of(conditions: Iterable[Condition]) -> frozenset[str]:
    """Return the fields that conditions name, and the columns that these are in."""
    fields = {one.field for condition in conditions for one in condition.comparisons()}
    return frozenset({*(field.split(".")[0].split("[")[0] for field in fields), *fields})


def check_fields(conditions: Iterable[Condition], rows: Iterable[Mapping[str, Any]], where: str) -> None:
    """Raise PlanError where a condition names a field that none of `rows` has, with the nearest names there.

    A field that some condition compares with null may be rare. `margin` is another's to judge.
    """
    comparisons = [one for condition in conditions for one in condition.comparisons()]
    guarded = {one.field for one in comparisons if one.operator in {"is null", "is not null"}} | {MARGIN}
    missing = {one.field: None for one in comparisons if one.field not in guarded}
    names: dict[str, None] = {}
    for row in rows:
        missing = {field: None for field in missing if not has_field(row, field)}
        if not missing:
            return
        names |= dict.fromkeys(_names(row) if len(names) < _NAMES else ())
    if missing and names:
        field = next(iter(missing))
        raise PlanError(
            f"no row that was looked at has the field {field}{suggest(field, names)}",
            where=where,
            fix=f"correct `where`; of a field that few rows have write `{field} is not null and …`",
            code="plan.condition",
        )


def has_field(row: Mapping[str, Any], field: str) -> bool:
    """Say whether a row has a field, by its whole name or by its parts."""
    return _value_of(row, field) is not _ABSENT


def _value_of(row: Mapping[str, Any], field: str) -> Any:
    if field in row:
        return row[field]
    value: Any = row
    for part in _STEP.findall(field):
        if part.startswith("["):
            number = int(part[1:-1])
            if not isinstance(value, list | tuple) or number >= len(value):
                return _ABSENT
            value = value[number]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return _ABSENT
    return value if value is not row else _ABSENT


def _names(row: Mapping[str, Any], before: str = "", deep: int = 1) -> Iterator[str]:
    for key, value in row.items():
        yield f"{before}{key}"
        if isinstance(value, Mapping) and deep < _DEEP:
            yield from _names(value, f"{before}{key}.", deep + 1)


def _holds(part: Part, row: Mapping[str, Any], margin: Margin, seen: list[str]) -> bool | None:
    if isinstance(part, FieldTest):
        return _compared(part, row, margin, seen)
    if part.word == "not":
        inner = _holds(part.parts[0], row, margin, seen)
        return None if inner is None else not inner
    decides = part.word == "or"
    unknown = False
    for one in part.parts:
        found = _holds(one, row, margin, seen)
        if found is decides:
            return decides
        unknown |= found is None
    return None if unknown else not decides


def _compared(one: FieldTest, row: Mapping[str, Any], margin: Margin, seen: list[str]) -> bool | None:
    value = _value_of(row, one.field)
    if value is _ABSENT and one.field == MARGIN:
        value = margin()
    if one.operator in {"is null", "is not null"}:
        null = value is None or value is _ABSENT
        seen.append(f"{one.field} is {'null' if null else str(value)[:80]}")
        return null == (one.operator == "is null")
    if value is _ABSENT:
        seen.append(f"no field {one.field}")
        return None
    name, measured = one.field, value
    if one.measure:
        name, measured = f"{one.measure}({one.field})", _measure(one.measure, value)
    word = one.operator.removeprefix("not ")
    found = None if one.measure and measured is None else _verdict(word, measured, one.values)
    seen.append(f"{name} is {str(value if measured is None else measured)[:80]}{', not comparable' * (found is None)}")
    return None if found is None else found != one.operator.startswith("not ")


def _verdict(word: str, value: Any, values: tuple[Value, ...]) -> bool | None:
    if word in _TEXTS:
        if word == "contains" and isinstance(value, list | tuple):
            return any(_equal(item, wanted) for item in value for wanted in values)
        return _TEXTS[word](value, str(values[0])) if isinstance(value, str) else None
    if word in _ORDER:
        left, right = _comparable(value, values[0])
        if left is None or isinstance(left, _Other) or isinstance(left, str) != isinstance(right, str):
            return None
        return _ORDER[word](left, right)
    return any(_equal(value, wanted) for wanted in values) != (word == "!=")


def _measure(measure: str, value: Any) -> int | None:
    if isinstance(value, str):
        return len(value) if measure == "length" else len(value.split())
    return len(value) if measure == "length" and isinstance(value, list | tuple) else None


def _equal(value: Any, wanted: Value) -> bool:
    left, right = _comparable(value, wanted)
    return bool(left == right)


def _comparable(value: Any, wanted: Value) -> tuple[Any, Any]:
    """Return both as floats where `wanted` is a number and `value` is one or reads as one."""
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        ordered = isinstance(value, str | bool) or value is None
        return (value if ordered else _Other()), wanted
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None, float(wanted)
    try:
        return float(value), float(wanted)
    except (ValueError, OverflowError):
        return None, float(wanted)


class _Other:
    """Something that equals no literal and has no order."""
