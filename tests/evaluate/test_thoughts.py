"""Candidates that think in their text: only what they say is scored, and the items keep all of it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from eq_bench_example import RIGHT, Scripted, asked
from harness_example import WORDS
from plain_engine import PlainEngine, run
from ratchet.evaluate import exact_match as exact
from ratchet.evaluate.engines.local import decoded_text
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.thoughts import UNCLOSED, spoken
from ratchet.plan.tasks import ExactMatch
from ratchet.serving.requests import Answer, CompletionRequest
from tests.evaluate.test_exact_match import PATTERN, questions
from tests.evaluate.test_exact_match import Scripted as Says

THOUGHT = "<think>\nOn a scale, Scale: 0 ... a, the answer is 9\n</think>\n\n"


def test_scores_of_an_eq_bench_answer_are_not_looked_for_in_its_thoughts(tmp_path: Path) -> None:
    result = asked(tmp_path, 3, Scripted(lambda *_: THOUGHT + RIGHT))
    assert (result.headline.value, result.headline.count, result.problems) == (100, 3, {})
    assert result.items[0].answer == THOUGHT + RIGHT
    assert any("3 answers held thoughts" in warning for warning in result.warnings)
    lost = asked(tmp_path, 3, Scripted(lambda *_: "<think>" + RIGHT))
    assert (lost.headline.value, lost.problems) == (None, {UNCLOSED: 3})


def test_a_number_at_the_end_of_a_cut_answer_may_be_half_of_one(tmp_path: Path) -> None:
    cut = RIGHT.removesuffix("4") + "1"  # of 10
    assert asked(tmp_path, 3, Scripted(lambda *_: cut, "length")).problems == {"not four scores": 3}
    assert asked(tmp_path, 3, Scripted(lambda *_: cut, "stop")).problems == {}
    assert asked(tmp_path, 3, Scripted(lambda *_: RIGHT + "\n", "length")).problems == {}


def test_an_exact_match_is_not_found_in_thoughts() -> None:
    task = ExactMatch(kind="exact_match", source="sums", pattern=PATTERN, max_new_tokens=9)
    texts = [THOUGHT + "answer is 3", THOUGHT + "Hm.", "answer is 3 <think>answer is 9", "answer is 3"]
    found = exact.run_exact_match("sums", task, Candidate(Says(texts), None, 64, "w"), questions(["answer is 3"] * 4))
    assert [item.values["exact_match"] for item in found.items] == [1.0, 0.0, 0.0, 1.0]
    assert [item.problem for item in found.items] == ["", "no answer found", UNCLOSED, ""]
    assert found.items[0].answer == texts[0] and "3 answers held thoughts" in found.warnings[0]
    assert exact.wanted_answers(["<think>answer is 9</think>answer is 3"], PATTERN) == ["3"]


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]ab[/THINK]3"),
        (["<|channel|>", "<|message|>"], "<|channel|>analysis<|message|>ab<|channel|>final<|message|>3"),
    ],
)
def test_a_decoder_keeps_the_marks_of_thoughts_that_are_special_tokens(
    small: Candidate, marks: list[str], text: str
) -> None:
    tokenizer = copy.deepcopy(small.tokenizer)
    plain = tokenizer("ab3", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    assert decoded_text(tokenizer, [*plain, end]) == tokenizer.decode([*plain, end], skip_special_tokens=True) == "ab3"
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "]" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded_text(tokenizer, [*ids, end]) == text
    assert spoken(decoded_text(tokenizer, ids)) == "3"


class Thinks(PlainEngine):
    """Thinks of the number 6, and says 5; every fifth time it never comes to an end."""

    said = 0

    def _complete(self, ids: list[int], request: CompletionRequest) -> Answer:
        self.said += 1
        return Answer("<think> 6" if self.said % 5 == 0 else "<think> 6, 6</think>\n\n5", "stop")


@pytest.mark.usefixtures("offline")
def test_lm_eval_finds_an_answer_in_what_was_said(small: Candidate, tmp_path: Path) -> None:
    engine = small.engine
    assert isinstance(engine, PlainEngine)
    other = dataclasses.replace(small, engine=Thinks(engine.model, engine.tokenizer))
    result = run("words", WORDS.model_copy(update={"limit": 30}), other, data_root=None, store=tmp_path)
    right = [item.reference == "5" and item.problem == "" for item in result.items]
    assert 0 < sum(right) < 30 and sum(item.reference == "6" for item in result.items)
    assert [item.values["exact_match,first-word"] for item in result.items] == [float(it) for it in right]
    assert result.headline.value == pytest.approx(np.mean(right))
    assert result.problems == {UNCLOSED: 6}
    assert result.items[0].answer == "<think> 6, 6</think>\n\n5"
    assert "30 answers held thoughts" in result.warnings[0]
