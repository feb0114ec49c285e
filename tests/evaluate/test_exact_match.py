"""Greedy answers to held-out prompts: the last match counts, and what has none is counted."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest

from raised import raises
from ratchet.documents.scores import Score
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.exact_match import compile_pattern, last_match, run_exact_match, wanted_answers
from ratchet.evaluate.task_run import HeldoutQuestion
from ratchet.pipeline.scores_document import score_facts
from ratchet.plan.tasks import ExactMatch
from ratchet.serving.requests import Answer, Request
from ratchet.track.progress import Console

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


def questions(chosen: Sequence[str]) -> list[HeldoutQuestion]:
    return [
        HeldoutQuestion(f"p{n}", np.array([n, 7], np.int32), f"question {n}", text) for n, text in enumerate(chosen)
    ]


def test_the_last_match_is_the_answer() -> None:
    compiled = compile_pattern(PATTERN)
    assert last_match(compiled, "The answer is 3. No, the answer is -14.") == "-14"
    assert last_match(compiled, "none") is None


def test_the_share_of_equal_groups_is_the_score() -> None:
    engine = Scripted(["answer is 3", "answer is 4", "", "answer is 1, no, the answer is 3"])
    found = run_exact_match("sums", TASK, Candidate(engine, None, 64, "w"), questions(["so the answer is 3"] * 4))
    assert (found.headline.value, found.headline.count) == (0.5, 4)
    assert found.headline.standard_error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
    assert [item.values["exact_match"] for item in found.items] == [1.0, 0.0, 0.0, 1.0]
    assert found.problems == {"no answer found": 1} and found.items[2].problem == "no answer found"
    assert [request.prompt for request in engine.asked] == [(n, 7) for n in range(4)]
    assert all(request.sampling.max_tokens == 9 and request.sampling.temperature == 0 for request in engine.asked)


def test_answers_that_all_agree_say_what_their_error_of_0_leaves_open() -> None:
    def noted(count: int, answer: str) -> tuple[float | None, float | None, str]:
        asked = questions(["so the answer is 3"] * count)
        headline = run_exact_match("sums", TASK, Candidate(Scripted([answer] * count), None, 64, "w"), asked).headline
        return headline.value, headline.standard_error, headline.note

    assert noted(12, "answer is 3") == (1.0, 0.0, "all of 12: above 77.9 %")
    assert noted(60, "answer is 4") == (0.0, 0.0, "0 of 60: below 4.9 %")
    assert noted(1, "answer is 3") == (1.0, None, "all of 1: above 5.0 %; one item: no error")


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [(0.24, 0.012, "acc 0.240 ± 0.012, of 1,319"), (0.0, 0.0, "acc 0.0000 (0.0000 to 0.0028), of 1,319"),
     (0.24, None, "acc 0.24 (no error), of 1,319"), (None, None, "acc no score, of 1,319")],
)  # fmt: skip
def test_the_console_shows_a_score_with_its_error(value: float | None, error: float | None, said: str) -> None:
    out = io.StringIO()
    Console(out).done("arc base", score_facts(Score("acc", "acc", value, error, 1319)), 3.0)
    assert out.getvalue().strip().endswith(f": {said}")


def test_no_question_is_an_error() -> None:
    with raises("data.nothing-left") as caught:
        run_exact_match("sums", TASK, Candidate(Scripted([]), None, 64, "w"), [])
    assert caught.value.where == "tasks.sums"


@pytest.mark.parametrize("pattern", ["(", "x", "(a)(b)"])
def test_a_pattern_needs_exactly_one_group(pattern: str) -> None:
    with raises("plan"):
        compile_pattern(pattern)


def test_a_pattern_that_finds_nothing_in_a_right_answer_is_the_suite_s_fault() -> None:
    with raises("plan") as caught:
        wanted_answers(["three"], PATTERN)
    assert "three" in caught.value.what
