"""EQ-Bench: asking in rounds, and what is made of the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eq_bench_example import RIGHT, Scripted, asked, both, record


def test_a_round_asks_only_what_has_no_scores_a_little_warmer(tmp_path: Path) -> None:
    needs = {1: 1, 2: 2, 3: 3, 4: 9}

    def say(prompt: str, seed: int) -> str:
        return RIGHT if seed >= next(need for number, need in needs.items() if f"Dialogue {number}." in prompt) else "?"

    engine = Scripted(say)
    result = asked(tmp_path, 4, engine)
    assert [len(call) for call in engine.calls] == [4, 3, 2]
    assert [{each.sampling.temperature for each in call} for call in engine.calls] == [{0.01}, {0.16}, {0.31}]
    assert [{each.sampling.seed for each in call} for call in engine.calls] == [{1}, {2}, {3}]
    assert {each.sampling.max_tokens for call in engine.calls for each in call} == {60}
    assert all(len(each.turns) == 1 and each.turns[0].role == "user" for call in engine.calls for each in call)
    assert [item.values for item in result.items] == [{"parsed": 1.0, "score": 100.0}] * 3 + [{"parsed": 0.0}]
    assert result.problems == {"no scores": 1}
    assert result.headline.value is None
    assert result.headline.note == "3 of 4 parsed, and a score needs 83.33%"


def test_the_score_is_the_mean_of_what_was_parsed(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")  # 6 away: 10 − 0.7477 · 6

    def say(prompt: str, seed: int) -> str:
        return "?" if "Dialogue 1." in prompt else wrong if "Dialogue 2." in prompt else RIGHT

    result = asked(tmp_path, 6, Scripted(say))  # 5 of 6 is just enough
    values = np.array([10 - 0.7477 * 6, 10, 10, 10, 10])
    headline, parsed = result.scores
    assert headline.value == pytest.approx(10 * values.mean())
    assert headline.standard_error == pytest.approx(10 * values.std(ddof=1) / np.sqrt(5))
    assert (headline.count, headline.unit, headline.metric) == (5, "points", "score")
    assert (parsed.value, parsed.count) == (pytest.approx(5 / 6), 6)
    assert [item.problem for item in result.items] == ["no scores", "", "", "", "", ""]
    assert result.items[1].reference == "Calm: 1, Sad: 2, Proud: 3, Angry: 4"
    assert result.items[1].answer == wrong


def test_one_question_has_no_error_and_all_parsed_is_no_certainty(tmp_path: Path) -> None:
    one, three = asked(tmp_path, 1, Scripted(lambda *_: RIGHT)), asked(tmp_path, 3, Scripted(lambda *_: RIGHT))
    assert [(score.standard_error, score.note) for score in one.scores] == [
        (None, "one item: no error"), (None, "all of 1: above 5.0 %; one item: no error"),
    ]  # fmt: skip
    assert [(score.standard_error, score.note) for score in three.scores] == [(0, ""), (0, "all of 3: above 36.8 %")]


def test_with_revision_the_better_pass_is_the_score(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")
    engine = Scripted(lambda prompt, seed: both(wrong, RIGHT))
    result = asked(tmp_path, 3, engine, revision=True)
    assert [len(call) for call in engine.calls] == [3]
    assert engine.calls[0][0].turns[0].content == record(1)["prompt"]
    assert engine.calls[0][0].sampling.max_tokens == 1000
    assert [(each.metric, each.value) for each in result.scores] == [
        ("score", 100), ("parsed", 1), ("first", pytest.approx(55.138)), ("revised", 100),
    ]  # fmt: skip
    assert result.headline.note == "the revised pass"
    back = asked(tmp_path, 3, Scripted(lambda prompt, seed: both(RIGHT, wrong)), revision=True)
    assert (back.headline.value, back.headline.note) == (100, "the first pass")
    assert back.items[0].values == {"parsed": 1.0, "score": 100.0, "first": 100.0, "revised": pytest.approx(55.138)}


def test_one_good_pass_is_kept_where_no_attempt_gives_two(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")
    replies = {1: "?", 2: both(wrong, "?"), 3: both(RIGHT, "?")}
    engine = Scripted(lambda prompt, seed: replies[seed])
    result = asked(tmp_path, 2, engine, revision=True)
    assert [len(call) for call in engine.calls] == [2, 2, 2]
    assert [item.answer for item in result.items] == [replies[2]] * 2  # the first that counts, not the best
    assert result.headline.value == pytest.approx(55.138)
    assert [each.count for each in result.scores] == [2, 2, 2, 0]
    later = {**replies, 3: both(RIGHT, RIGHT)}
    assert asked(tmp_path, 2, Scripted(lambda prompt, seed: later[seed]), revision=True).headline.value == 100


def test_zeros_alone_are_asked_again_in_version_2_too(tmp_path: Path) -> None:
    zeros = "Calm: 0\nSad: 0\nProud: 0\nAngry: 0"
    engine = Scripted(lambda prompt, seed: zeros)
    result = asked(tmp_path, 2, engine)
    assert [len(call) for call in engine.calls] == [2, 2, 2]
    assert result.problems == {"scores sum to 0": 2}
    assert result.headline.count == 0
    # Beside a revised pass that counts they are kept, and version 2 has a score for them.
    kept = asked(tmp_path, 2, Scripted(lambda prompt, seed: both(zeros, RIGHT)), revision=True)
    assert [each.count for each in kept.scores] == [2, 2, 2, 2]


def test_version_1_without_revision_is_the_cut_prompt_and_says_so(tmp_path: Path) -> None:
    engine = Scripted(lambda prompt, seed: "Calm: 2\nSad: 4\nProud: 6\nAngry: 8")
    result = asked(tmp_path, 2, engine, version="v1", max_new_tokens=33, attempts=1)
    prompt = engine.calls[0][0].turns[0].content
    assert prompt.endswith("[End of answer]\n\nAll of it.\n\nYour answer:\n")
    assert "ritique" not in prompt and "First pass" not in prompt
    assert result.headline.value == 100  # shares of 10 are right
    assert "always asks for revision" in result.settings["prompt"]
    assert (result.settings["max_new_tokens"], result.settings["temperatures"]) == (33, [0.01])
    assert asked(tmp_path, 2, engine, version="v1", revision=True).settings["prompt"] == "as published"


def test_answers_cut_off_at_the_limit_are_told(tmp_path: Path) -> None:
    result = asked(tmp_path, 2, Scripted(lambda prompt, seed: "Well, ", reason="length"))
    assert "2 of the answers without scores ended at max_new_tokens (60)" in result.warnings
