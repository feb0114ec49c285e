"""Conditions: what they keep, and how they refuse."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raised import raises
from ratchet.errors import PlanError
from ratchet.pairs.checks import Unfit, check_conditions, parse_condition

ROW = {"overall": "AB", "rating": 4, "text": "4.5", "meta": {"lang": "en", "n": 3}, "a.b": 1, "ok": True, "none": None}


def holds(text: str, row: dict[str, Any] | None = None) -> bool:
    try:
        check_conditions(ROW if row is None else row, (parse_condition(text),))
    except Unfit as unfit:
        assert unfit.reason == "where"
        assert unfit.detail.startswith(f"{text}: ")
        return False
    return True


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("overall != AB", False),
        ("overall == AB", True),
        ("overall=='AB'", True),
        ('overall == "AB"', True),
        ("rating >= 4", True),
        ("rating>4", False),
        ("rating < 4.5", True),
        ("rating <= 3e0", False),
        ("text >= 4.5", True),
        ("text == 4.50", True),
        ('rating == "4"', False),
        ("overall < B", True),
        ("overall > 3", False),
        ("meta.lang in [de, en]", True),
        ("meta.lang in ['d,e', \"fr\"]", False),
        ("meta.n in [1, 2, 3]", True),
        ("meta.n != 3", False),
        ("a.b == 1", True),
        ("ok == true", True),
        ("ok == 1", False),
        ("ok != false", True),
        ("none == null", True),
        ("none != null", False),
        ("none >= 1", False),
        ("meta == 3", False),
        ("meta != 3", True),
        ("overall == open ended", False),
        ("absent == 1", False),
        ("absent != 1", False),
        ("meta.absent != 1", False),
        ("overall.deeper != 1", False),
    ],
)
def test_what_is_kept(text: str, kept: bool) -> None:
    assert holds(text) is kept


def test_an_absent_field_is_named() -> None:
    with pytest.raises(Unfit) as caught:
        check_conditions(ROW, (parse_condition("meta.x.y == 1"),))
    assert caught.value.detail == "meta.x.y == 1: no field meta.x.y"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rating",
        "rating = 4",
        "rating >=",
        ">= 4",
        "rating in 4",
        "x in []",
        "x in [a",
        "x in [a b, 'c]",
        "x > true",
        "x < null",
        "x == [a]",
        "x == 'a",
        "a == b == c",
        '__import__("os").system("true")',
        "x in [[1]]",
        "x == {}",
    ],
)
def test_a_condition_that_cannot_be_read_is_named(text: str) -> None:
    with raises("plan.condition") as caught:
        parse_condition(text)
    assert f"`{text}`" in caught.value.what
    assert caught.value.fix


PIECES = st.sampled_from(["[", "]", ",", "'", '"', "\\", " ", "=", "x", "4", "-1.5", "1e999", "null", "true"])
LIKELY = st.builds(
    "{}{}{}".format,
    st.sampled_from(["a", " b.c "]),
    st.sampled_from(["==", "!= ", "<", "<=", ">", ">= ", " in ", " in ["]),
    st.lists(PIECES | st.text(max_size=2), max_size=6).map("".join),
)


def literal(value: Any) -> str:
    """Return a value as a condition writes it, in the one way that suits every value of its type."""
    return str(value).replace("inf", "1e999") if isinstance(value, float) else json.dumps(value)


@example("a in [b, 'c', \"d\", -1.5, null]")
@example("a >= 1e999")
@example("a == b=c")
@given(LIKELY | st.text(max_size=30))
def test_any_text_is_a_condition_or_a_plan_error(text: str) -> None:
    """A condition means what its parts say, and holds for its own values or for none; an error names text and fix."""
    try:
        condition = parse_condition(text)
    except PlanError as error:
        assert f"`{text}`" in error.what
        assert (error.where, bool(error.fix)) == ("where", True)
        return
    assert condition.text == text
    values = [literal(value) for value in condition.values]
    wanted = f"[{', '.join(values)}]" if condition.operator == "in" else values[0]
    written = f"{condition.field} {condition.operator} {wanted}"
    assert parse_condition(written) == dataclasses.replace(condition, text=written)
    for value in condition.values:
        assert holds(text, {condition.field: value}) is (condition.operator in {"==", "in", "<=", ">="})
    for value in ROW.values():  # of every type: it is kept or it is not, and nothing is raised
        assert holds(text, {condition.field: value}) in {True, False}
    assert not holds(text, {})


@given(st.integers(-999, 999), st.integers(-999, 999))
def test_order_is_that_of_numbers(left: int, right: int) -> None:
    row = {"n": left}
    assert [holds(f"n {sign} {right}", row) for sign in ("<", "<=", "==", "!=", ">", ">=")] == [
        left < right,
        left <= right,
        left == right,
        left != right,
        left > right,
        left >= right,
    ]
