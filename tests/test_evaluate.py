"""Greedy answers and their score: padding changes nothing, and the last match counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ratchet.errors import PlanError
from ratchet.evaluate.generate import Answerer, exact_match, last_match
from ratchet.evaluate.generate import compile_pattern as compiled
from ratchet.model.scratch import make_scratch
from ratchet.plan.model import Scratch

PATTERN = r"answer is (-?\d+)"


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    folder = tmp_path_factory.mktemp("model")
    spec = Scratch(tokenizer_from=("a",), vocab_size=280, hidden_size=16, layers=1, heads=2, key_value_heads=1,
                   intermediate_size=32, max_positions=64)  # fmt: skip
    make_scratch(spec, ["What is 1 + 2?", "The answer is 3."], folder)
    return Answerer(folder, "float32", "cpu")


def test_an_answer_does_not_depend_on_its_batch(answerer: Answerer) -> None:
    prompts = [np.arange(5, 5 + length, dtype=np.int32) for length in (3, 9, 6)]
    together = answerer.answer(prompts, 8)
    assert together == [answerer.answer([prompt], 8)[0] for prompt in prompts]
    assert len(together) == 3


def test_the_last_match_is_the_answer() -> None:
    assert last_match(compiled(PATTERN), "The answer is 3. No, the answer is -14.") == "-14"
    assert last_match(compiled(PATTERN), "none") is None


def test_exact_match_counts_equal_groups() -> None:
    found = exact_match(["answer is 3", "answer is 4", "", "answer is 3"], ["so the answer is 3"] * 4, PATTERN)
    assert (found.mean, found.count) == (0.5, 4)
    assert found.standard_error == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)


@pytest.mark.parametrize(
    ("pattern", "says"), [("(", "not a regular expression"), ("x", "0 groups"), ("(a)(b)", "2 groups")]
)
def test_a_pattern_needs_exactly_one_group(pattern: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        compiled(pattern)


def test_a_pattern_that_finds_nothing_in_a_right_answer_is_the_suite_s_fault() -> None:
    with pytest.raises(PlanError, match="finds nothing in a chosen answer"):
        exact_match(["answer is 3"], ["three"], PATTERN)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    from ratchet.errors import ModelError

    with pytest.raises(ModelError, match=str(tmp_path)):
        Answerer(tmp_path, "float32", "cpu")
