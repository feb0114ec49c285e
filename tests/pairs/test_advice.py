"""What rows that are not used as they are say to do: a verdict in words, true or false, and lists of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.pairs.checks import Unfit
from ratchet.pairs.layouts import LAYOUTS, Sides
from ratchet.pairs.meanings import in_sight_of, meaning_of
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import make_reading
from ratchet.plan.data import Source

MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def refusal(tmp_path: Path, column: str, value: Any) -> str:
    row = json.dumps({"messages": MESSAGES, column: value})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 4)
    source = Source(path=str(tmp_path / "rows.jsonl"))
    with raises("data.unread") as caught:
        make_reading(source, plan_spans(source), None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "condition"),
    [
        ("rating", "bad", '[rating == "good"]'),
        ("quality", "good", '[quality == "good"]'),
        ("rating", "4.5", "[rating >= …]"),
        ("score", 0, "[score >= …]"),
        ("label", "incorrect", '[label == "correct"]'),
        ("label", "False", '[label == "True"]'),
        ("chosen", False, "[chosen == true]"),
    ],
)
def test_a_verdict_is_used_by_the_value_of_the_good_answers(
    tmp_path: Path, column: str, value: Any, condition: str
) -> None:
    text = refusal(tmp_path, column, value)
    assert f"where: {condition}" in text
    assert "so the rows are pairs" not in text


def test_the_good_answers_are_those_that_are_not_rejected() -> None:
    meaning = meaning_of("rejected", "demonstrations")
    assert meaning is not None
    assert in_sight_of(True, meaning).use.startswith("`where: [{column} == false]`")
    assert in_sight_of("a", meaning) is meaning


@pytest.mark.parametrize(
    ("answers", "path"), [(["a"], "responses[0]"), ([{"response": "a", "model": "m"}], "responses[0].response")]
)
def test_a_list_of_one_answer_says_how_it_is_trained_on(answers: list[Any], path: str) -> None:
    with pytest.raises(Unfit) as caught:
        LAYOUTS["scored"].read({"question": "q", "responses": answers})
    assert f"`columns: {{prompt: question, completion: {path}}}`" in caught.value.detail


def test_several_answers_of_a_side_are_not_left_out_in_silence() -> None:
    row = {"prompt": "q", "chosen": ["a"], "rejected": ["b"]}
    sides = LAYOUTS["pair"].read(row)
    assert isinstance(sides, Sides)
    assert sides.rejected is not None
    assert sides.rejected.content == "b"
    with pytest.raises(Unfit) as caught:
        LAYOUTS["pair"].read({**row, "rejected": ["b", "c", "d"]})
    assert "rejected holds 3 answers" in caught.value.detail
    assert "columns: {rejected: rejected[0], …}" in caught.value.detail
