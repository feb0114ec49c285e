"""Greedy answers to held-out prompts: the last match counts, and what has none is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ratchet.errors import DataError, PlanError
from ratchet.evaluate.candidate import Candidate
from ratchet.evaluate.exact import Question, compile_pattern, last_match, run, wanted_answers
from ratchet.plan.suite import ExactMatch
from ratchet.serving.requests import Answer, Request

PATTERN = r"answer is (-?\d+)"
TASK = ExactMatch(kind="exact_match", source="sums", pattern=PATTERN, max_new_tokens=9)


class Scripted:
    """Says what it was told to say, in turn."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.asked = texts, []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked += requests
        return [Answer(text, "stop") for text in self.texts]

    def answer_groups(self, groups):
        raise AssertionError("not asked for groups")


def questions(chosen: Sequence[str]) -> list[Question]:
    return [Question(f"p{n}", np.array([n, 7], np.int32), f"question {n}", text) for n, text in enumerate(chosen)]


def test_the_last_match_is_the_answer() -> None:
    compiled = compile_pattern(PATTERN)
    assert last_match(compiled, "The answer is 3. No, the answer is -14.") == "-14"
    assert last_match(compiled, "none") is None


def test_the_share_of_equal_groups_is_the_score() -> None:
    engine = Scripted(["answer is 3", "answer is 4", "", "answer is 1, no, the answer is 3"])
    found = run("sums", TASK, Candidate(engine, None, 64, "w"), questions(["so the answer is 3"] * 4))
    assert (found.headline.value, found.headline.count) == (0.5, 4)
    assert found.headline.standard_error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
    assert [item.values["exact_match"] for item in found.items] == [1.0, 0.0, 0.0, 1.0]
    assert found.problems == {"no answer found": 1} and found.items[2].problem == "no answer found"
    assert [request.prompt for request in engine.asked] == [(n, 7) for n in range(4)]
    assert all(request.sampling.max_tokens == 9 and request.sampling.temperature == 0 for request in engine.asked)


def test_no_question_is_an_error() -> None:
    with pytest.raises(DataError, match="no held-out pair of sums"):
        run("sums", TASK, Candidate(Scripted([]), None, 64, "w"), [])


@pytest.mark.parametrize(
    ("pattern", "says"), [("(", "not a regular expression"), ("x", "0 groups"), ("(a)(b)", "2 groups")]
)
def test_a_pattern_needs_exactly_one_group(pattern: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        compile_pattern(pattern)


def test_a_pattern_that_finds_nothing_in_a_right_answer_is_the_suite_s_fault() -> None:
    with pytest.raises(PlanError, match="finds nothing in a chosen answer"):
        wanted_answers(["three"], PATTERN)
