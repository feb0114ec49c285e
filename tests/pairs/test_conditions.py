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
from ratchet.pairs.checks import Unfit
from ratchet.pairs.conditions import check_conditions
from ratchet.plan.conditions import Condition, FieldTest, parse_condition

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


def as_written(part: FieldTest) -> str:
    """Return a comparison that is measured of nothing as text, with the quotes that suit every field and value."""
    values = [literal(value) for value in part.values]
    wanted = f"[{', '.join(values)}]" if part.operator == "in" else values[0]
    return f"`{part.field}` {part.operator} {wanted}"


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
    part = condition.part
    assert isinstance(part, FieldTest), "none of these texts joins two"
    written = as_written(part)
    assert parse_condition(written) == dataclasses.replace(condition, text=written)
    for value in part.values:
        assert holds(text, {part.field: value}) is (part.operator in {"==", "in", "<=", ">="})
    for value in ROW.values():  # of every type: it is kept or it is not, and nothing is raised
        assert holds(text, {part.field: value}) in {True, False}
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


DOCUMENTS = {"tags": ["math", "draft"], "n": 5, "text": "one two three", "ratings": [4, 2], "gone": None}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("n == 5 or n == 6", True),
        ("n == 6 or text contains two", True),
        ("n == 5 and text contains four", False),
        ("n == 6 and n == 5 or n == 5", True),
        ("n == 6 and (n == 5 or n == 5)", False),
        ("not n == 5", False),
        ("not (n == 6 or n == 7)", True),
        ("not(n == 6)and(n == 5)", True),
        ("text contains 'two three'", True),
        ("text not contains two", False),
        ("tags contains math", True),
        ("tags contains mat", False),
        ("tags not contains draft", False),
        ("text starts with one", True),
        ("text not starts with one", False),
        ("text ends with (three)", False),
        ("text matches '^one.*e$'", True),
        ("text matches two$", False),
        ("n contains 5", False),
        ("n not contains 5", False),
        ("ratings contains 4", True),
        ("ratings[0] >= 4", True),
        ("ratings[1] >= 4", False),
        ("ratings[2] >= 4", False),
        ("length(text) == 13", True),
        ("words(text) == 3", True),
        ("length(tags) > 1", True),
        ("length(n) > 0", False),
        ("gone is null", True),
        ("gone is not null", False),
        ("absent is null", True),
        ("absent is not null", False),
        ("n is not null", True),
        ("n not in [5, 6]", False),
        ("n not in [6]", True),
        # What cannot be compared is neither: it decides nothing, and what is around it may.
        ("not (absent == 1)", False),
        ("absent == 1 or n == 5", True),
        ("absent == 1 and n == 5", False),
        ("not (absent == 1 and n == 6)", True),
        ("gone > 3 or gone is null", True),
    ],
)
def test_conditions_are_joined_and_measured(text: str, kept: bool) -> None:
    assert holds(text, DOCUMENTS) is kept


TRUTHS = st.recursive(
    st.sampled_from([("t == 1", True), ("t == 2", False), ("x == 1", None)]),
    lambda inner: st.one_of(
        inner.map(lambda one: (f"not ({one[0]})", None if one[1] is None else not one[1])),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(
            lambda two: (f"({two[1][0]}) {two[0]} ({two[2][0]})", kleene(two[0], two[1][1], two[2][1]))
        ),
    ),
    max_leaves=6,
)


def kleene(word: str, left: bool | None, right: bool | None) -> bool | None:
    """Return `and` or `or` of three truths by their numbers: 0, 1/2 and 1, of which they are least and greatest."""
    half = {True: 1.0, None: 0.5, False: 0.0}
    number = (min if word == "and" else max)(half[left], half[right])
    return {1.0: True, 0.5: None, 0.0: False}[number]


@given(TRUTHS)
def test_a_row_is_kept_where_all_that_is_known_says_so(case: tuple[str, bool | None]) -> None:
    text, truth = case
    assert holds(text, {"t": 1}) is (truth is True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x == salt and pepper", "no operator follows the field pepper"),
        ("x >= 4 AND y contains b", "write `and` and `or` in lower case"),
        ("x == a && y", "write `and` and `or` in lower case"),
        ("x == this or", "nothing follows its last word"),
        ("(x == 1", "a parenthesis is not closed"),
        ("x == 1)", "cannot read `)` where it should end"),
        ("lenght(x) > 1", "`lenght(…)` is not one of length(…), words(…)"),
        ("x matches '('", "is no regular expression"),
        ("x is true", "no operator follows the field x"),
        ("(" * 200 + "x == 1" + ")" * 200, "nested too deeply"),
    ],
)
def test_a_condition_says_what_cannot_be_read(text: str, why: str) -> None:
    with raises("plan.condition") as caught:
        parse_condition(text)
    assert why in caught.value.what


def test_texts_with_blanks_and_parentheses_need_no_quotes() -> None:
    assert parse_condition("t == What's new (2020), again") == Condition(
        "t == What's new (2020), again", FieldTest("t", "", "==", ("What's new (2020), again",))
    )
