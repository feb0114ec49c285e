"""Columns that are renamed, left out on purpose, or of another kind of rows: none is lost, none is read unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raised import raises
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import SourceReading, make_reading, read_source
from ratchet.plan.data import Source

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
TALK = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def source_of(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> Source:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Source.model_validate({"path": str(folder / "rows.jsonl"), **keys})


def reading_of(source: Source) -> SourceReading:
    return make_reading(source, plan_spans(source), None)


def said(source: Source) -> list[Any]:
    return [
        (*(turn.content for turn in one.prompt), one.chosen.content, one.rejected and one.rejected.content)
        if isinstance(one, PreferencePair)
        else (one.reason, one.detail)
        for one in read_source(source)
    ]


RENAMED: list[tuple[dict[str, Any], str]] = [
    ({"Prompt": "q", "Completion": "a", "Kto Tag": False}, "Kto Tag"),
    ({"Prompt": "q", "Chosen": "a", "Rejected": "b", "Context": "c"}, "Context"),
    ({"Prompt": "q", "Chosen": "a", "Rejected": "b", "Images": ["x.png"]}, "Images"),
    ({"Question": "q", "Response J": "a", "Response K": "b", "Context": "c"}, "Context"),
]


@pytest.mark.parametrize(("row", "column"), RENAMED)
def test_a_capital_letter_hides_no_column_that_means_something(
    row: dict[str, Any], column: str, tmp_path: Path
) -> None:
    with raises("data.unread") as caught:
        reading_of(source_of(tmp_path, [row] * 3))
    assert f"the column {column} is not read (3 of the 3" in caught.value.what
    source = source_of(tmp_path, [row] * 3, ignore=[column])
    assert [one[0] for one in said(source)] == ["q"] * 3
    assert reading_of(source).unread_columns == (column,)
    assert reading_of(source).read_columns == tuple(name for name in row if name != column)


def test_renamed_rows_with_and_without_a_column_are_of_one_kind(tmp_path: Path) -> None:
    rows = [{"Instruction": "q", "Input": one, "Output": "a", "Tools": TOOLS} for one in ("i", None, "j", None)]
    source = source_of(tmp_path, rows)
    assert reading_of(source).called == "instruction, renamed"
    assert [one[0] for one in said(source)] == ["q\ni", "q", "q\nj", "q"]
    assert reading_of(source).read_columns == ("Instruction", "Input", "Output", "Tools")


def test_two_columns_of_one_name_but_for_its_case_make_a_bad_row(tmp_path: Path) -> None:
    rows = [{"Prompt": f"q{n}", "Chosen": "a", "Rejected": "b"} for n in range(3)]
    found = said(source_of(tmp_path, [*rows, {**rows[0], "CHOSEN": "c"}]))
    assert [one[0] for one in found] == ["q0", "q1", "q2", "missing field"]
    assert "two columns have one name" in found[3][1]


IGNORED: list[tuple[dict[str, Any], list[str], tuple[Any, ...]]] = [
    ({"instruction": "q", "context": "c", "response": "a"}, ["context"], ("q", "a", None)),
    (
        {"instruction": "q", "input": "i", "history": [["x", "y"]], "output": "a"},
        ["input", "history"],
        ("q", "a", None),
    ),
    ({**PAIR, "system": "s"}, ["system"], ("q", "a", "b")),
    ({**PAIR, "initial_reason_steps": "first, "}, ["initial_reason_steps"], ("q", "a", "b")),
    ({**PAIR, "score_chosen": 1, "score_rejected": 9}, ["score_chosen", "score_rejected"], ("q", "a", "b")),
    ({"messages": TALK, "system": "t"}, ["system"], ("s", "q", "a", None)),
]


@pytest.mark.parametrize(("row", "ignored", "pair"), IGNORED)
def test_what_is_ignored_is_not_read_whatever_layout_would_read_it(
    row: dict[str, Any], ignored: list[str], pair: tuple[Any, ...], tmp_path: Path
) -> None:
    source = source_of(tmp_path, [row] * 2, ignore=ignored)
    assert said(source) == [pair] * 2
    reading = reading_of(source)
    assert reading.unread_columns == tuple(ignored)
    assert not set(ignored) & set(reading.read_columns)


@pytest.mark.parametrize("keys", [{}, {"layout": "pair"}, {"columns": {name: name for name in PAIR}}])
def test_ignored_tools_are_not_offered(keys: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**PAIR, "tools": TOOLS}]
    offered, left = (list(read_source(source_of(tmp_path, rows, **keys, ignore=one))) for one in ([], ["tools"]))
    assert [getattr(one, "tools", "") is None for one in (*offered, *left)] == [False, True]


def test_a_condition_may_name_what_is_ignored(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "label": n == 1} for n in range(2)]
    found = said(source_of(tmp_path, rows, ignore=["label"], where=["label == true"]))
    assert [one[0] for one in found] == ["where", "q1"]


@pytest.mark.parametrize("ignored", ["meta", "meta.ask", "said"])
def test_a_plan_that_names_and_ignores_a_column_is_refused(ignored: str) -> None:
    columns = {"prompt": "meta.ask", "responses": "said[*].text", "scores": "-said[*].rank"}
    with pytest.raises(ValidationError, match="leave one of them out"):
        Source.model_validate({"path": "f", "columns": columns, "ignore": [ignored]})
    assert Source.model_validate({"path": "f", "columns": columns, "ignore": ["meta.asks"]}).ignore == ("meta.asks",)


def test_a_signature_and_columns_are_refused_together() -> None:
    with pytest.raises(ValidationError, match="openai says itself what each column means"):
        Source.model_validate({"path": "f", "layout": "openai", "columns": {"prompt": "q", "completion": "a"}})
    assert Source.model_validate(
        {"path": "f", "layout": "instruction", "columns": {"prompt": "q", "completion": "a"}}
    ).columns


@pytest.mark.parametrize("ranks", [[2, 1], ["2", " 1"], "[2, 1]", '["2", "1.0"]'])
def test_a_rank_may_be_written_as_text(ranks: Any, tmp_path: Path) -> None:
    columns = {"prompt": "ask", "responses": "said", "scores": "-rank"}
    row = {"ask": "q", "said": ["b", "a"], "rank": ranks}
    assert said(source_of(tmp_path, [row], columns=columns)) == [("q", "a", "b")]


@pytest.mark.parametrize("ranks", [["best", "worst"], [True, False]])
def test_a_rank_that_is_no_number_makes_a_bad_row(ranks: Any, tmp_path: Path) -> None:
    columns = {"prompt": "ask", "responses": "said", "scores": "-rank"}
    rows = [{"ask": "q", "said": ["b", "a"], "rank": ranks}]
    assert [one[0] for one in said(source_of(tmp_path, rows, columns=columns))] == ["wrong type"]


def test_a_text_where_a_known_data_set_has_ranks_is_of_no_kind(tmp_path: Path) -> None:
    odd = {"prompt": "z", "answers": [{"answer": "a", "rank": "best"}, {"answer": "b", "rank": "worst"}]}
    reading = reading_of(source_of(tmp_path, [*[PAIR] * 3, odd]))
    assert [kind.name for kind in reading.kinds] == ["pair"]


def test_rows_of_a_mixture_are_read_as_the_kind_that_was_found(tmp_path: Path) -> None:
    judged = [{"prompt": f"p{n}", "completion": "a", "label": n < 4} for n in range(5)]
    plain = [{"question": f"q{n}", "solution": "a", "label": True} for n in range(9)]
    source = source_of(tmp_path, [*judged, *plain], where=["label == true"])
    assert len(reading_of(source).kinds) == 2
    wanted = [*(f"p{n}" for n in range(4)), "where", *(f"q{n}" for n in range(9))]
    assert [one[0] for one in said(source)] == wanted


def test_renamed_verdicts_fit_in_a_mixture(tmp_path: Path) -> None:
    arena = [
        {"Instruction": f"i{n}", "Output 1": "a", "Output 2": "b", "Preference": 2, "Generator": "g"} for n in range(4)
    ]
    source = source_of(tmp_path, [*[{**PAIR, "prompt": f"p{n}"} for n in range(9)], *arena])
    assert [kind.name for kind in reading_of(source).kinds] == ["pair", "annotated, renamed"]
    assert said(source)[9:] == [(f"i{n}", "b", "a") for n in range(4)]


SYSTEMS: list[tuple[dict[str, Any], tuple[Any, ...] | None]] = [
    ({"messages": TALK, "system": " s"}, ("s", "q", "a", None)),
    ({"messages": TALK, "system": "t"}, None),
    ({"messages": [{**TALK[0], "content": " "}, *TALK[1:]], "system": "t"}, ("t", "q", "a", None)),
    ({**PAIR, "system": "", "system_prompt": "t"}, ("t", "q", "a", "b")),
    ({**PAIR, "system": "s", "system_prompt": "t"}, None),
]


@pytest.mark.parametrize(("row", "pair"), SYSTEMS)
def test_of_two_system_texts_that_differ_neither_is_lost(
    row: dict[str, Any], pair: tuple[Any, ...] | None, tmp_path: Path
) -> None:
    (found,) = said(source_of(tmp_path, [row]))
    if pair is None:
        assert found[0] == "bad messages"
        assert "different system texts" in found[1]
    else:
        assert found == pair


@pytest.mark.parametrize("key", ["score", "attachments", "meta.score"])
def test_a_key_of_messages_may_be_ignored(key: str, tmp_path: Path) -> None:
    outer, _, inner = key.partition(".")
    more = {outer: {inner: 3} if inner else ["a"] if outer == "attachments" else 3}
    rows: list[dict[str, Any]] = [
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **more}], "rejected": None}
    ] * 2
    for row in rows:
        row["rejected"] = [row["chosen"][0], {"role": "assistant", "content": "b"}]
    assert said(source_of(tmp_path, rows, ignore=[f"chosen.{key}"])) == [("q", "a", "b")] * 2
    if key == "attachments":  # a score says nothing of a pair
        assert all(f"`.{key}` leaves it out" in one[1] for one in said(source_of(tmp_path, rows)))


@pytest.mark.parametrize("spaces", ["", " ", "\n  "])
@pytest.mark.parametrize("key", ["score", "attachments", "meta.score"])
def test_a_key_of_messages_that_are_json_text_may_be_ignored(key: str, spaces: str, tmp_path: Path) -> None:
    outer, _, inner = key.partition(".")
    more = {outer: {inner: 3} if inner else ["a"] if outer == "attachments" else 3}
    asked, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    row = {
        "chosen": spaces + json.dumps([asked, {**answer, **more}]),
        "rejected": json.dumps([asked, {**answer, "content": "b"}]),
    }
    # The other rows have no such key, and one has a text that is no JSON where the path leads.
    rows = [row] * 2 + [{**row, "chosen": json.dumps([asked, answer])}, {**row, "chosen": "[q", "rejected": "[r"}]
    assert said(source_of(tmp_path, rows, ignore=[f"chosen.{key}"]))[:3] == [("q", "a", "b")] * 3
    if key == "attachments":
        assert all(f"`.{key}` leaves it out" in one[1] for one in said(source_of(tmp_path, rows))[:2])
    talk = {"messages": row["chosen"]}
    reading = make_reading(
        source := source_of(tmp_path, [talk] * 2, ignore=[f"messages.{key}"]), plan_spans(source), None
    )
    assert reading.unread_columns == (f"messages.{key}",)
    assert said(source) == [("q", "a", None)] * 2


def test_an_ignored_key_of_messages_is_named_where_one_holds_something(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "score": 1}]
    rows = [{"messages": talk}] * 2
    source = source_of(tmp_path, rows, ignore=["messages.score", "messages.label"])
    assert make_reading(source, plan_spans(source), None).unread_columns == ("messages.score",)
