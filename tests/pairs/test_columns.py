"""Columns: what a plan says they mean, which are read and which are not, and that none that means something is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from column_rows import PAIR, reading_of, said, source_of
from raised import raises
from ratchet.errors import PlanError
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import make_reading, read_source
from ratchet.plan.data import Source
from ratchet.plan.load import load_plan

ODD = {"ask": {"text": "q", "rules": "s"}, "said": ["b", "a"], "marks": [1, 4.5], "better": "SECOND", "id": 7}


COLUMNS: list[tuple[dict[str, Any], tuple[list[tuple[str, str]], str, str | None]]] = [
    (
        {"prompt": "ask.text", "chosen": "said[1]", "rejected": "said[0]", "system": "ask.rules"},
        ([("system", "s"), ("user", "q")], "a", "b"),
    ),
    (
        {"prompt": "ask.text", "chosen": "said[-1]", "rejected": "said[0]", "system": {"value": "t"}},
        ([("system", "t"), ("user", "q")], "a", "b"),
    ),
    ({"prompt": "ask.text", "responses": "said", "scores": "marks"}, ([("user", "q")], "a", "b")),
    ({"prompt": "ask.text", "responses": ["said[0]", "said[1]"], "scores": "-marks"}, ([("user", "q")], "b", "a")),
    (
        {
            "instruction": "ask.text",
            "input": "ask.rules",
            "output_1": "said[0]",
            "output_2": "said[1]",
            "preference": {"column": "better", "first": ["first"], "second": ["second"]},
        },
        ([("user", "q\ns")], "a", "b"),
    ),
    ({"prompt": "ask.text", "completion": "said[1]"}, ([("user", "q")], "a", None)),
    *[
        ({asked: "ask.text", "input": "ask.rules", **answers}, ([("user", "q\ns")], "a", other))
        for asked in ("prompt", "instruction")
        for answers, other in (
            ({"chosen": "said[1]", "rejected": "said[0]"}, "b"),
            ({"chosen": "said[1]", "rejected": "said[0]", "margin": "marks[1]"}, "b"),
            ({"responses": "said", "scores": "marks"}, "b"),
            ({"completion": "said[1]"}, None),
        )
    ],
    ({"question": "ask.text", "chosen": "said[1]", "rejected": "said[0]"}, ([("user", "q")], "a", "b")),
]


@pytest.mark.parametrize(("columns", "pair"), COLUMNS)
def test_a_plan_says_what_each_column_means(columns: dict[str, Any], pair: Any, tmp_path: Path) -> None:
    assert said(source_of(tmp_path, [ODD], columns=columns)) == [pair]


def test_what_is_named_is_read_and_nothing_else(tmp_path: Path) -> None:
    columns = {"prompt": "ask.text", "chosen": "said[1]", "rejected": "said[0]", "score_chosen": {"value": 2}}
    reading = reading_of(tmp_path, [ODD], columns={**columns, "score_rejected": "marks[0]"})
    assert reading.read_columns == ("ask.text", "said", "marks")
    assert reading.unread_columns == ("ask.rules", "better", "id")
    assert reading.layout == "scored"


def test_a_verdict_that_no_list_has_is_a_bad_row_and_a_tie_is_none(tmp_path: Path) -> None:
    columns = {
        **{"prompt": "ask.text", "output_1": "said[0]", "output_2": "said[1]"},
        "preference": {"column": "better", "first": [0], "second": [1, "second"], "tie": [True]},
    }
    rows = [{**ODD, "better": better} for better in ("0", 1.0, True, "third", None)]
    found = said(source_of(tmp_path, rows, columns=columns))
    assert [one[0] if isinstance(one[0], str) else one[1] for one in found] == ["b", "a", "tie", "bad answer", "tie"]


VERDICTS: list[tuple[Any, Any, bool]] = [
    (1000000, 1000001, False),
    (1000000, "1000000", True),
    (2**53 + 1, str(2**53), False),
    ("1.0", 1, True),
    (1e6, 1000000, True),
    ("1", "1.0", False),
    (True, 1, False),
    ("True", True, True),
    (" A>B", "a>b", True),
    ("nan", "NaN", True),
]


@pytest.mark.parametrize(("value", "listed", "same"), VERDICTS)
def test_numbers_of_a_verdict_are_compared_as_numbers(value: Any, listed: Any, same: bool, tmp_path: Path) -> None:
    columns = {
        **{"prompt": "ask.text", "output_1": "said[0]", "output_2": "said[1]"},
        "preference": {"column": "better", "first": [listed], "second": ["other"]},
    }
    (found,) = said(source_of(tmp_path, [{**ODD, "better": value}], columns=columns))
    assert found == (([("user", "q")], "b", "a") if same else found) and (found[0] != "bad answer") == same


SUM = {"type": "function", "function": {"name": "sum", "parameters": {}}}
TOOLS: list[tuple[dict[str, Any], list[Any] | None, tuple[str, ...]]] = [
    ({"value": json.dumps([SUM])}, [SUM], ()),
    (["one", "two"], [SUM, {"name": "difference"}], ("one", "two")),
    (["two", "none"], [{"name": "difference"}], ("two",)),
    ("all", [SUM], ("all",)),
    (None, [{"name": "else"}], ("tools",)),
]


@pytest.mark.parametrize(("where", "tools", "read"), TOOLS)
def test_tools_are_taken_from_where_the_plan_says(
    where: Any, tools: list[Any] | None, read: tuple[str, ...], tmp_path: Path
) -> None:
    held = {"one": SUM, "two": {"name": "difference"}, "none": None, "all": [SUM], "tools": [{"name": "else"}]}
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"} | ({"tools": where} if where else {})
    # Another row has what this one lacks.
    rows = [{**PAIR, **held}, {**PAIR, **held, "prompt": "p", "none": {"name": "else"}}]
    keys: dict[str, Any] = {"columns": columns, "ignore": ["tools"] if where else []}
    pair = next(iter(read_source(source_of(tmp_path, rows, **keys))))
    assert isinstance(pair, PreferencePair) and pair.tools is not None and json.loads(pair.tools) == tools
    found = reading_of(tmp_path, rows, **keys).read_columns
    assert {*found} - {"none"} == {"prompt", "chosen", "rejected", *read}


SLIPS: list[tuple[dict[str, Any], str]] = [
    ({"columns": {"prompt": "a b", "chosen": "x[", "rejected": "r"}}, "columns.chosen"),
    ({"columns": {"prompt": "a", "chosn": "x", "rejected": "r"}}, "did you mean chosen?"),
    ({"columns": {"prompt": "a", "chosen": "x"}}, "name prompt, chosen and rejected"),
    ({"columns": {"completion": "x"}}, "or prompt and completion"),
    *[
        ({"columns": {field: field for field in (lost, *others)}, "layout": layout}, f"{lost} would not be read")
        for lost, others, layout in (
            ("prompt", ("instruction", "chosen", "rejected"), "auto"),
            ("completion", ("messages",), "auto"),
            ("input", ("question", "choices", "answer"), "auto"),
            ("prefix", ("question", "choices", "answer"), "auto"),
            ("score_chosen", ("prompt", "chosen", "rejected"), "auto"),
            ("margin", ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"), "auto"),
            ("input", ("prompt", "chosen", "rejected"), "pair"),
            ("history", ("chosen", "rejected"), "auto"),
        )
    ],
    ({"columns": {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "m", "scores": "s"}}, "scores would not be"),
]


@pytest.mark.parametrize(("keys", "what"), SLIPS)
def test_a_slip_in_columns_is_found_when_the_plan_is_checked(keys: dict[str, Any], what: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        json.dumps({"name": "x", "model": {"name": "m"}, "data": {"d": {"path": "f", **keys}}, "stages": {}})
    )
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "plan.yaml")
    assert what in str(caught.value)


def test_a_column_that_no_row_has_is_an_error_with_the_one_that_was_meant(tmp_path: Path) -> None:
    with raises("data.no-column") as caught:
        reading_of(tmp_path, [ODD] * 3, columns={"prompt": "asks.text", "chosen": "said[1]", "rejected": "said[0]"})
    assert "columns.prompt is asks.text" in caught.value.what
    assert "did you mean ask?" in caught.value.what


def test_a_condition_reads_the_column_that_it_names(tmp_path: Path) -> None:
    rows = [{"question": f"q{label}", "answer": "a", "label": label} for label in (1, 0)]
    assert said(source_of(tmp_path, rows, where=["label == 1"]))[0] == ([("user", "q1")], "a", None)


def test_rows_in_the_middle_and_at_the_end_are_looked_at_too(tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{n}", "chosen": "a" * 200, "rejected": "b" * 200} for n in range(6000)]
    odd = [{"question": f"q{n}", "answer": "a"} for n in range(20)]
    assert reading_of(tmp_path, odd + pairs).layout == "pair"
    whole = [
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": one}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b" + one}],
        }
        for one in map(str, range(300))
    ]
    reading = reading_of(tmp_path, pairs + whole)
    assert {kind.name for kind in reading.kinds} == {"pair", "implicit_prompt"}
    assert sum(isinstance(one, PreferencePair) for one in read_source(reading.source)) == 6300


def test_a_mixture_with_nulls_in_the_columns_of_others_is_read_row_by_row(tmp_path: Path) -> None:
    empty = dict.fromkeys(("prompt", "chosen", "rejected", "question", "response_j", "response_k", "system"))
    plain = [{**empty, **PAIR, "prompt": f"p{n}"} for n in range(14)]
    forum = [{**empty, "question": f"f{n}", "response_j": "a", "response_k": "b"} for n in range(6)]
    reading = reading_of(tmp_path, plain + forum)
    assert [kind.name for kind in reading.kinds] == ["pair", "stack_exchange_paired"]
    assert [one[0][0][1] for one in said(reading.source)] == [f"p{n}" for n in range(14)] + [f"f{n}" for n in range(6)]


def test_rows_of_another_kind_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**PAIR, "prompt": f"p{n}"} for n in range(7)] + [{"question": f"q{n}", "answer": "a"} for n in range(3)]
    assert [one[0] for one in said(source_of(tmp_path, rows))][7:] == ["missing field"] * 3
    assert "instruction: 3 of 10 rows, the first is rows.jsonl:8" in caplog.text


def test_rows_of_two_kinds_half_and_half_are_refused_with_the_first_row_of_each(tmp_path: Path) -> None:
    rows = [PAIR, {"question": "q", "answer": "a"}] * 4
    with raises("data.no-layout") as caught:
        reading_of(tmp_path, rows)
    assert "pair: 4 of 8 rows, the first is rows.jsonl:1" in caught.value.what
    assert "instruction: 4 of 8 rows, the first is rows.jsonl:2" in caught.value.what


def test_rows_of_every_file_are_looked_at(tmp_path: Path) -> None:
    for name, row in (("a", PAIR), ("b", {"question": "q", "response_j": "a", "response_k": "b"})):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    source = Source.model_validate({"path": str(tmp_path / "*.jsonl")})
    kinds = make_reading(source, plan_spans(source), None).kinds
    assert [kind.name for kind in kinds] == ["pair", "stack_exchange_paired"]


def test_no_layout_fits_names_the_nearest_and_what_was_meant(tmp_path: Path) -> None:
    with raises("data.no-layout") as caught:
        reading_of(tmp_path, [{"prompt": "q", "choosen": "a", "rejcted": "b"}])
    assert "nearest: pair, which has prompt, chosen, rejected" in caught.value.what
    assert "lack chosen (is it choosen?), rejected (is it rejcted?)" in caught.value.what
    assert "columns: {prompt: prompt, chosen: choosen, rejected: rejcted}" in caught.value.fix
