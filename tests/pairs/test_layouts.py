"""Layouts: what each row shape means, how it is found, and why a row is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from raised import raises
from ratchet.pairs.detect import detect
from ratchet.pairs.layouts import LAYOUTS
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import Item, SourceReading, make_reading, pairs_of, read_source
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Layout, Source

USER, BOT, SYSTEM = "user", "assistant", "system"


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


Q, A, B = message(USER, "q"), message(BOT, "a"), message(BOT, "b")
HH = "\n\nHuman: q\n\nAssistant: x\n\nHuman: more?\n\nAssistant: {}"
CHOICES = {"question": "q", "choices": ["w", "a", "v"]}

# layout, row, and what it means: prompt as role-content pairs, chosen, rejected
MEANINGS: list[tuple[str, dict[str, Any], tuple[list[tuple[str, str]], str, str | None]]] = [
    ("pair", {"prompt": "q", "chosen": "a", "rejected": "b"}, ([(USER, "q")], "a", "b")),
    ("pair", {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, ([(USER, "q")], "a", "b")),
    ("pair", {"prompt": [Q], "chosen": [A], "rejected": [B]}, ([(USER, "q")], "a", "b")),
    ("pair", {"prompt": [Q], "chosen": "a", "rejected": B}, ([(USER, "q")], "a", "b")),
    (
        "pair",
        {"prompt": "q", "chosen": [Q, A, message(USER, "r"), A], "rejected": [Q, A, message(USER, "r"), B]},
        ([(USER, "q"), (BOT, "a"), (USER, "r")], "a", "b"),
    ),
    (
        "pair",
        {"prompt": [message(SYSTEM, "s"), Q], "chosen": [Q, A], "rejected": [Q, B]},
        ([(SYSTEM, "s"), (USER, "q")], "a", "b"),
    ),
    (
        "pair",
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        ([(SYSTEM, "s"), (USER, "q")], "a", "b"),
    ),
    (
        "pair",
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " a", "rejected": " b"},
        ([(USER, "q")], " a", " b"),
    ),
    ("implicit_prompt", {"chosen": [Q, A], "rejected": [Q, B]}, ([(USER, "q")], "a", "b")),
    (
        "implicit_prompt",
        {"chosen": HH.format("a\n\nstill a "), "rejected": HH.format("b")},
        ([(USER, "q"), (BOT, "x"), (USER, "more?")], "a\n\nstill a", "b"),
    ),
    ("alpaca", {"instruction": "i", "chosen": "a", "rejected": "b"}, ([(USER, "i")], "a", "b")),
    ("alpaca", {"instruction": "i", "input": "n", "chosen": "a", "rejected": "b"}, ([(USER, "i\nn")], "a", "b")),
    (
        "alpaca",
        {
            "instruction": "i",
            "input": "",
            "system": "s",
            "history": [["h", "g"]],
            "output": "o",
            "chosen": "a",
            "rejected": "b",
        },
        ([(SYSTEM, "s"), (USER, "h"), (BOT, "g"), (USER, "i")], "a", "b"),
    ),
    (
        "sharegpt",
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        ([(SYSTEM, "s"), (USER, "q")], "a", "b"),
    ),
    (
        "scored",
        {
            "prompt": "q",
            "messages": [Q, A],
            "chosen": [Q, A],
            "rejected": [Q, B],
            "score_chosen": 8.0,
            "score_rejected": 7.5,
        },
        ([(USER, "q")], "a", "b"),
    ),
    (
        "scored",
        {"chosen": [Q, A], "rejected": [Q, B], "chosen_rating": 5, "rejected_rating": "1"},
        ([(USER, "q")], "a", "b"),
    ),
    (
        "scored",
        {
            "instruction": "q",
            "completions": [{"response": t, "overall_score": s} for t, s in (("m", 5), ("b", 1), ("a", 9))],
        },
        ([(USER, "q")], "a", "b"),
    ),
    ("scored", {"prompt": [Q], "responses": ["b", "a", "a2"], "scores": [1, 3, 3]}, ([(USER, "q")], "a", "b")),
    (
        "reply",
        {"messages": [message(SYSTEM, "s"), Q, A], "rejected": "b"},
        ([(SYSTEM, "s"), (USER, "q")], "a", "b"),
    ),
    ("annotated", {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1}, ([(USER, "q")], "a", "b")),
    ("annotated", {"instruction": "q", "output_1": "b", "output_2": "a", "preference": "2"}, ([(USER, "q")], "a", "b")),
    (
        "annotated",
        {"instruction": "q", "output_1": "b", "output_2": "a", "preference": 1.93},
        ([(USER, "q")], "a", "b"),
    ),
    ("instruction", {"instruction": "i", "input": "n", "output": "a"}, ([(USER, "i\nn")], "a", None)),
    ("instruction", {"prompt": "q", "completion": "a"}, ([(USER, "q")], "a", None)),
    ("instruction", {"question": "q", "answer": "a"}, ([(USER, "q")], "a", None)),
    ("instruction", {"query": "q", "response": "a", "type": "t"}, ([(USER, "q")], "a", None)),
    ("instruction", {"messages": [message(SYSTEM, ""), Q, A]}, ([(USER, "q")], "a", None)),
    ("choices", {**CHOICES, "answer": 1}, ([(USER, "q")], "a", None)),
    ("choices", {**CHOICES, "answer": "1"}, ([(USER, "q")], "a", None)),
    ("choices", {**CHOICES, "answer": "B"}, ([(USER, "q")], "a", None)),
    ("choices", {**CHOICES, "answer": "b"}, ([(USER, "q")], "a", None)),
    (
        "choices",
        {"question": "q", "choices": {"text": ["a", "w"], "label": ["1", "2"]}, "answerKey": "1"},
        ([(USER, "q")], "a", None),
    ),
    (
        "choices",
        {"question": "q", "choices": [{"text": "w", "label": "A"}, {"text": "a", "label": "B"}], "answerKey": "B"},
        ([(USER, "q")], "a", None),
    ),
    ("choices", {"ctx": "q", "endings": ["w", "a"], "label": "1", "activity_label": "x"}, ([(USER, "q")], "a", None)),
]


def read(layout: str, row: dict[str, Any], **source: Any) -> list[Item]:
    return pairs_of(SourceRow("f", 7, row), SourceReading(Source(path="f", **source), layout, {}, (), None))


@pytest.mark.parametrize(("layout", "row", "meaning"), MEANINGS)
def test_what_a_row_means(layout: str, row: dict[str, Any], meaning: tuple[Any, str, str | None]) -> None:
    prompt = tuple(Turn(*turn) for turn in meaning[0])
    chosen, rejected = (None if text is None else Turn(BOT, text) for text in meaning[1:])
    assert chosen is not None
    assert read(layout, row) == [PreferencePair(prompt, chosen, rejected, "f", 7)]


@pytest.mark.parametrize(("layout", "row", "meaning"), MEANINGS)
def test_a_row_is_found_to_be_of_its_layout_alone(layout: str, row: dict[str, Any], meaning: object) -> None:
    assert detect([row], "f") == layout
    table = {key: None for _, other, _ in MEANINGS for key in other}  # what a table of mixed rows does
    assert detect([{**table, **row}], "f") == layout


def test_every_layout_of_the_plan_has_a_reader() -> None:
    assert set(get_args(Layout)) >= {"auto", *LAYOUTS}
    assert {layout for layout, _, _ in MEANINGS} == set(LAYOUTS)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("pair", {"prompt": "q", "chosen": "a"}, "missing field"),
    ("pair", {"prompt": "q", "chosen": "a", "rejected": 3}, "wrong type"),
    ("pair", {"prompt": {"x": 1}, "chosen": "a", "rejected": "b"}, "wrong type"),
    ("pair", {"prompt": "q", "chosen": "a", "rejected": " \n"}, "empty text"),
    ("pair", {"prompt": "", "chosen": "a", "rejected": "b"}, "empty text"),
    ("pair", {"prompt": "q", "chosen": "a", "rejected": "a "}, "chosen = rejected"),
    ("pair", {"prompt": "q", "chosen": "a\0", "rejected": "b"}, "NUL character"),
    ("pair", {"prompt": "q", "chosen": "a", "rejected": "\ud800"}, "not UTF-8"),
    ("pair", {"prompt": "q", "chosen": "a", "rejected": "\ufdd0"}, "not UTF-8"),
    ("pair", {"prompt": "q" * 90, "chosen": "a" * 9, "rejected": "bb"}, "too long"),
    ("pair", {"prompt": "q", "chosen": [Q, A], "rejected": [message(USER, "r"), B]}, "bad messages"),
    ("pair", {"prompt": "p", "chosen": [Q, A], "rejected": [Q, B]}, "bad messages"),
    ("pair", {"prompt": [Q, A], "chosen": "a", "rejected": "b"}, "bad messages"),
    ("pair", {"prompt": [Q, message(SYSTEM, "s"), Q], "chosen": "a", "rejected": "b"}, "bad messages"),
    ("pair", {"prompt": [message("tool", "t")], "chosen": "a", "rejected": "b"}, "bad messages"),
    ("pair", {"prompt": [], "chosen": "a", "rejected": "b"}, "empty text"),
    ("pair", {"prompt": ["q"], "chosen": "a", "rejected": "b"}, "wrong type"),
    ("implicit_prompt", {"chosen": [Q, A], "rejected": [message(USER, "r"), B]}, "bad messages"),
    ("implicit_prompt", {"chosen": [Q], "rejected": [Q]}, "bad messages"),
    ("implicit_prompt", {"chosen": [A], "rejected": [B]}, "bad messages"),
    ("implicit_prompt", {"chosen": "a", "rejected": "b"}, "bad messages"),
    ("implicit_prompt", {"chosen": HH.format(""), "rejected": HH.format("b")}, "empty text"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}], "chosen": [Q, A], "rejected": B}, "bad messages"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "q"}], "chosen": A, "rejected": B}, "bad messages"),
    ("alpaca", {"instruction": "i", "history": [["h"]], "chosen": "a", "rejected": "b"}, "wrong type"),
    ("scored", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 2}, "tie"),
    ("scored", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, "margin"),
    ("scored", {"prompt": "q", "chosen": "a", "rejected": "b"}, "missing field"),
    ("scored", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": "x"}, "wrong type"),
    ("scored", {"prompt": "q", "responses": ["a", "b"], "scores": [1, float("nan")]}, "missing field"),
    ("scored", {"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "wrong type"),
    ("scored", {"prompt": "q", "responses": ["a"], "scores": [1]}, "missing field"),
    ("scored", {"prompt": "q", "responses": ["a", "b"], "scores": [4, 4]}, "tie"),
    *[
        ("annotated", {"instruction": "q", "output_1": "a", "output_2": "b", "preference": value}, reason)
        for value, reason in (
            (0, "tie"),
            (1.5, "tie"),
            (None, "tie"),
            (3, "bad answer"),
            (-1, "bad answer"),
            ([1], "wrong type"),
        )
    ],
    ("instruction", {"messages": [Q]}, "bad messages"),
    ("instruction", {"question": "q"}, "missing field"),
    *[("choices", {**CHOICES, "answer": value}, "bad answer") for value in (3, -1, "D", "3", "x y", "²")],
    # A text of one option, and the index of another: only more rows could tell.
    ("choices", {"question": "q", "choices": ["0", "2", "1"], "answer": "1"}, "bad answer"),
    ("choices", {**CHOICES, "answer": True}, "wrong type"),
    ("choices", CHOICES, "missing field"),
    ("choices", {"question": "q", "choices": ["a"], "answer": 0}, "missing field"),
    ("choices", {"question": "q", "choices": "ab", "answer": 0}, "wrong type"),
    ("choices", {"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answer": 0}, "wrong type"),
    ("choices", {"choices": ["a", "b"], "answer": 0}, "missing field"),
]


@pytest.mark.parametrize(("layout", "row", "reason"), BAD)
def test_why_a_row_is_skipped(layout: str, row: dict[str, Any], reason: str) -> None:
    (item,) = read(layout, row, max_characters=100)
    assert isinstance(item, Skipped)
    assert (item.file, item.row, item.reason) == ("f", 7, reason)
    item.detail.encode()


def test_a_margin_below_the_least_is_skipped() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 1}
    assert isinstance(read("scored", row, min_margin=2.0)[0], PreferencePair)
    assert read("scored", row, min_margin=2.5) == [Skipped("f", 7, "margin", "2")]


def test_the_rows_own_system_prompt_goes_before_the_sources_and_that_before_the_models(tmp_path: Path) -> None:
    plain, own = {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a", "system": "row"}
    found = []
    (tmp_path / "f.jsonl").write_text(f"{json.dumps(plain)}\n{json.dumps(own)}\n")
    for row in (plain, own):
        for system in (None, "source"):
            source = Source(path=str(tmp_path / "f.jsonl"), layout="instruction", system=system)
            reading = make_reading(source, plan_spans(source), "model")
            (pair,) = pairs_of(SourceRow("f", 1, row), reading)
            assert isinstance(pair, PreferencePair)
            found.append(pair.prompt[0].content)
    assert found == ["model", "source", "row", "row"]


def plan_one() -> list[Any]:
    return plan_spans(Source.model_validate({"generate": {"kind": "arithmetic", "rows": 1}}))


def test_the_majority_of_the_first_rows_decides() -> None:
    pair, other = {"prompt": "q", "chosen": "a", "rejected": "b"}, {"instruction": "q", "output": "b"}
    assert detect([pair] * 11 + [other] * 9, "f") == "pair"
    with raises("data.no-layout") as caught:
        detect([pair] * 10 + [other] * 10, "f")
    assert "chosen, instruction, output, prompt, rejected" in caught.value.what


def test_rows_that_fit_two_layouts_are_refused_with_both() -> None:
    with raises("data.layouts") as caught:
        detect([{"prompt": "q", "instruction": "i", "chosen": "a", "rejected": "b"}], "data.jsonl")
    assert "    pair: " in caught.value.what
    assert "    alpaca: " in caught.value.what
    assert "    choices: " not in caught.value.what
    assert "chosen, instruction, prompt, rejected" in caught.value.what


def test_a_file_of_no_json_is_refused_with_its_first_rows(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("a,b\nc,d\n")
    with raises("data.no-layout") as caught:
        next(read_source(Source(path=str(tmp_path / "x.jsonl"))))
    assert "x.jsonl:1: not JSON" in caught.value.what


def test_options_that_the_rows_cannot_serve_are_plan_errors() -> None:
    spans = plan_one()
    for source, code in (
        ({"layout": "pair", "build": "multiple_choice"}, "plan.rows"),
        ({"layout": "choices", "build": "arithmetic_corruption"}, "plan.rows"),
        ({"layout": "pair", "min_margin": 1.0}, "plan.rows"),
    ):
        with raises(code):
            make_reading(Source.model_validate({"path": "f", **source}), spans, None)
