"""What a judge says and what it thinks: whose number counts, and which is no rating."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.evaluate.judges.guard import Guard
from ratchet.evaluate.judges.judge import DISPUTED, NO_RATING, OUT_OF_RANGE, Judge, JudgeCase, judge_cases, read_verdict
from ratchet.evaluate.thoughts import UNCLOSED, spoken
from ratchet.serving.requests import Answer
from recorded_judgments import read_as_fastchat

MARKS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</Thinking>"),
    ('<think type="long">', "</think>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<chain_of_thought>", "</chain_of_thought >"),
    ("<reasoning_content>", "</reasoning_content>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|thought_start|>", "<|thought_end|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("Here is my thought process:", "Here is my response:"),
]


@pytest.mark.parametrize(("opens", "closes"), MARKS)
def test_thoughts_of_every_kind_count_for_nothing(opens: str, closes: str) -> None:
    musing = 'The form is "[[5]]". First [[3]]?\nRating: [[2]]'
    for text in (
        f"{opens}{musing}\n{closes}\n\nSolid. Rating: [[8]]",
        f"{musing}\n{closes}\n\nSolid. Rating: [[8]]",  # the template opened them
        f"Well.\n{opens}{musing}\n{closes}Rating: [[8]]",
        f"{opens}{opens}{musing}\n{closes} {closes}Rating: [[8]]",
    ):
        assert read_verdict(text).rating == 8.0, text
    for text in (f"{opens}{musing}", f"Rating: [[8]]\n{opens}{musing}", f"{opens}x\n{closes}\n{opens}{musing}"):
        assert read_verdict(text).problem == f"{NO_RATING} ({UNCLOSED})", text
    assert read_verdict(f"{opens}{musing}\n{closes}\nIt is fine.").problem == NO_RATING


def test_thoughts_in_square_brackets_have_an_end() -> None:
    assert read_verdict("[thinking]First [[3]]?\n[/thinking]\nRating: [[8]]").rating == 8.0
    assert read_verdict("First [[3]]?\n[/REASONING]\nRating: [[8]]").rating == 8.0
    assert read_verdict("[Reasoning]\nIt is fine.\n[Rating]\n[[8]]").rating == 8.0, "a heading"


def test_bare_channels_of_a_decoder_that_drops_marks_are_thoughts() -> None:
    assert read_verdict("analysisWe look. Maybe [[3]].assistantfinalRating: [[8]]").rating == 8.0
    assert read_verdict("analysisWe look. Maybe [[3]].").problem == f"{NO_RATING} ({UNCLOSED})"
    assert read_verdict("analysis of the text: fine. [[8]]").rating == 8.0


@given(st.text(alphabet="ab <>/[]`\"'think\n1", max_size=40))
def test_a_text_without_marks_is_said_as_it_is(text: str) -> None:
    if "think>" not in text and "[think]" not in text:
        assert spoken(text) == text


def test_marks_that_are_spoken_of_open_nothing() -> None:
    text = 'The answer shows its `<think>` block, and the "</think>" too. Rating: [[3]]'
    assert spoken(text) == text
    assert spoken("<think/> Rating: [[3]]") == "<think/> Rating: [[3]]"
    assert spoken('<think>The form is "[[5]]"</think>\n ok') == "ok"


@pytest.mark.parametrize(
    ("text", "rating", "problem"),
    [
        ("Good. Rating: [[7]]", 7.0, ""),
        ("[[6.5]]", 6.5, ""),
        ("[[7.]] is fine, really [[7]]", 7.0, ""),
        ("a [2] that is quoted, then [[8]]", 8.0, ""),
        ("Rating: [4]", 4.0, ""),
        ("See [1]. Grade: [4]", 4.0, ""),
        ("**Rating:** [4], see [1]", 4.0, ""),
        ("[Rating]: [4]", 4.0, ""),
        ("My rating is [4].", 4.0, ""),
        ("It is poor.\n\n**[4]**\n", 4.0, ""),
        ("Turn 1: [[9]], Turn 2: [[4]]. Rating: [[4]]", 4.0, ""),
        ("First turn: [[9]]\nSecond turn: [[4]]\nOverall: [[6]]", 6.0, ""),
        ("Turn 1: [[9]], Turn 2: [[4]].", None, DISPUTED),
        ("first [[3]], then [[9]]", None, DISPUTED),
        ("Rating: [[3]]. On reflection, Rating: [[9]]", None, DISPUTED),
        ("Rating: [3]. Or rating: [5]", None, DISPUTED),
        ("Rating: [3]. I mean [[5]]", None, DISPUTED),
        ("As in [1], good. Rating: 8", None, NO_RATING),
        ("see [1], so [4]", None, NO_RATING),
        ("The list [3] scores well", None, NO_RATING),
        ("Its BLEU score [1] is high. Rating: [[8]]", 8.0, ""),
        ("[[85]]", None, OUT_OF_RANGE),
        ("Rating: [[0]]", None, OUT_OF_RANGE),
        ("Rating: 7", None, NO_RATING),
        (r"Such as [[5]]. Rating: \[\[8\]\]", None, DISPUTED),
        ("Such as [[5]]. Rating: [[ 8 ]]", None, DISPUTED),
        ("Such as [[5]]. Rating: [[**8**]]", None, DISPUTED),
        ("Such as [[5]]. Rating: [[8/10]]", None, DISPUTED),
        ("Such as [[5]]. Rating: [[8,5]]", None, DISPUTED),
        ("Such as [[5]]. **Rating:** 8", None, DISPUTED),
        ("Rating: 8/10, so [[8]]", 8.0, ""),
        (r"Rating: \[\[8\]\], that is [[8]]", 8.0, ""),
        ("[[rating]] [[ 7 ]] [[-1]] [[7/10]] [[１０]]", None, NO_RATING),
        ("", None, NO_RATING),
    ],
)
def test_one_clear_rating_counts_and_nothing_else(text: str, rating: float | None, problem: str) -> None:
    reading = read_verdict(text)
    assert (reading.rating, reading.problem) == (rating, problem)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "content_filter", "tool_calls", "abort", ""])
def test_a_judgment_that_did_not_come_to_its_end_is_none(reason: str) -> None:
    assert read_verdict("Rating: [[8]]", reason).problem == f"{NO_RATING} ({reason or 'unfinished'})"
    assert read_verdict("<think>Maybe [[4]]?", reason).rating is None


@pytest.mark.parametrize("reason", ["stop", "end_turn", "eos_token", "COMPLETE"])
def test_servers_have_several_words_for_an_end(reason: str) -> None:
    assert read_verdict("Rating: [[8]]", reason).rating == 8.0


def test_a_judge_that_thinks_is_scored_by_what_it_says() -> None:
    says = [Answer(f"<think>[[1]] to [[10]], [[{n - 1}]]?</think>\nRating: [[{n}]]", "stop") for n in (2, 5, 9)]
    judge = Judge("j", "script", lambda requests: says[: len(requests)])
    cases = [JudgeCase("s", f"p{n}", ("An answer.",)) for n in range(3)]
    assert [one.rating for one in judge_cases(judge, cases, 0)] == [2.0, 5.0, 9.0]
    assert [read_as_fastchat(one.text) for one in says] == [1.0, 1.0, 1.0]


def test_no_answer_gives_its_judge_a_mark_of_thoughts_to_quote() -> None:
    for pair in MARKS[:-1]:
        for mark in pair:
            safe = Guard([]).defuse(f"Bad. {mark} x")
            assert spoken(f'Rating: [[2]]. It ends with "{safe}".') is not None
            assert read_verdict(f'Rating: [[2]]. It ends with "{safe}".').rating == 2.0
