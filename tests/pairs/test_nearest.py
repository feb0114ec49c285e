"""What to do with rows that fit no layout: never a plan that would train the wrong answers."""

from __future__ import annotations

from typing import Any

import pytest

from raised import raises
from ratchet.errors import DataError
from ratchet.pairs.detect import detect

MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def advice(row: dict[str, Any]) -> tuple[str, str]:
    with raises("data.no-layout") as caught:
        detect([row] * 3, "rows.jsonl")
    assert isinstance(caught.value, DataError)
    assert caught.value.fix is not None
    return caught.value.what, caught.value.fix


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (
            {"query": "q", "response_1": "a", "response_2": "b", "picked": "response_2"},
            "prompt: query, output_1: response_1, output_2: response_2, preference: {column: picked,",
        ),
        (
            {"question": "q", "response_1": "a", "response_2": "b", "overall_response": 2},
            "prompt: question, output_1: response_1, output_2: response_2, preference: {column: overall_response,",
        ),
        (
            {"prompt": "q", "response_0": "a", "response_1": "b", "better": 0},
            "prompt: prompt, output_1: response_0, output_2: response_1, preference: {column: better,",
        ),
        (
            {"input": "q", "answerA": "a", "answerB": "b", "model_a": "m", "model_b": "n"},
            "prompt: input, output_1: answerA, output_2: answerB, preference: {column: …,",
        ),
        (
            {"query": "q", "reply_j": {"content": "a", "model": "m"}, "reply_k": {"content": "b", "model": "n"}},
            "prompt: query, output_1: reply_j.content, output_2: reply_k.content, preference: {column: …,",
        ),
    ],
)
def test_two_answers_of_one_name_are_given_a_verdict_and_no_side(row: dict[str, Any], columns: str) -> None:
    _, fix = advice(row)
    assert f"`columns: {{{columns} first: […], second: […]}}}}`" in fix
    assert "chosen" not in fix


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (
            {"question": "q", "best_answer": "a", "correct_answers": ["a"], "incorrect_answers": ["b"]},
            "prompt: question, completion: best_answer",
        ),
        ({"input": "q", "reasoning": "r", "content": "a"}, "prompt: input, completion: content, reasoning: reasoning"),
        ({"input": "q", "note": "r", "content": "a"}, "prompt: input, completion: …"),
        (
            {"question": "q", "opa": "a", "opb": "b", "opc": "c", "cop": 0, "choice_type": "single"},
            "question: question, choices: …, answer: …",
        ),
        ({"prompt": "q", "completions": ["a", "b"], "chosen": 0}, "prompt: prompt, chosen: …, rejected: …"),
        ({"instruction": "q", "draft_answer": "a", "final_answer": "b"}, "instruction: instruction, completion: …"),
        ({"prompt": "q", "chosen": "a", "incorrect": "b"}, "prompt: prompt, chosen: chosen, rejected: …"),
        (
            {"problem": "q", "correct_solution": "a", "incorrect_solution": "b"},
            "prompt: problem, chosen: correct_solution, rejected: incorrect_solution",
        ),
        (
            {"data": {"prompt": "q", "chosen": "a", "rejected": "b"}, "meta": {}},
            "prompt: data.prompt, chosen: data.chosen, rejected: data.rejected",
        ),
        ({"id": 1, "example": {"messages": MESSAGES}}, "messages: example.messages"),
        ({"result": {"items": [{"prompt": "q", "chosen": "a", "rejected": "b"}]}}, "prompt: …, chosen: …, rejected: …"),
        ({"prompt": "q", "responses": ["a", "b"], "preferred": 1}, "prompt: prompt, responses: responses, scores: …"),
        ({"prompt": "q", "winner": "a", "loser": "b"}, "prompt: prompt, chosen: winner, rejected: loser"),
        ({"prompt": "q", "choosen": "a", "rejectd": "b"}, "prompt: prompt, chosen: choosen, rejected: rejectd"),
    ],
)
def test_a_column_is_named_only_where_no_other_may_be_meant(row: dict[str, Any], columns: str) -> None:
    assert f"`columns: {{{columns}}}`" in advice(row)[1]


def test_three_answers_of_one_name_are_not_two() -> None:
    _, fix = advice({"query": "q", "reply_1": "a", "reply_2": "b", "reply_3": "c"})
    assert "output_1" not in fix
    assert "reply_" not in fix


def test_single_answers_with_a_verdict_are_known_and_no_layout_is_near() -> None:
    what, fix = advice({"messages": MESSAGES, "label": True})
    assert what.startswith("these are single answers marked good or bad")
    assert "nearest" not in what
    assert "where: [label == true]" in fix
