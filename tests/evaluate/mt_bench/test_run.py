"""MT-Bench: the protocol, on conversations of the project's own set and on broken files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats

from endpoint_server import chat
from raised import raises
from ratchet.errors import EndpointError, RatchetError
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.judges.judge import NO_RATING, Judge
from ratchet.evaluate.judges.kinds import ReplayEngine
from ratchet.evaluate.mt_bench.files import read_set
from ratchet.evaluate.mt_bench.run import GAVE_UP, TOO_LONG, MtBenchRun, prompt_for, run_mt_bench
from ratchet.evaluate.mt_bench.scores import scores_from
from ratchet.evaluate.results import Item
from ratchet.evaluate.statistics import clustered, estimate
from ratchet.plan.task_parts import Files
from ratchet.plan.tasks import MtBench
from ratchet.serving.requests import Answer, ChatRequest, Request
from recorded_judgments import read_judgments, talk_scores
from tests.conftest import ROOT

SHORT = ROOT / "eval/sets/short-chat"


class Words:
    """A tokenizer whose tokens are words, with a template for any number of turns."""

    name_or_path, chat_template = "words", "{{ messages }}"
    bos_token_id, eos_token_id = None, "</s>"
    added_tokens_decoder: ClassVar[dict[str, Any]] = {}
    all_special_ids: ClassVar[list[str]] = []

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: object) -> str:
        return " ".join(f"<{message['role']}> {message['content']}" for message in messages)

    def __call__(self, text: str, **_: object) -> dict[str, list[str]]:
        return {"input_ids": text.split()}


class Talker:
    """Says what `mind` says to a request, and keeps each call's requests."""

    def __init__(self, mind: Callable[[ChatRequest], Answer]) -> None:
        self.mind, self.calls = mind, []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.calls.append(list(requests))
        return [self.mind(request) for request in requests]


def says(text: str, reason: str = "stop") -> Callable[[ChatRequest], Answer]:
    return lambda _: Answer(text, reason)


def played(
    mind: Callable[[ChatRequest], Answer],
    rate: Callable[[str], Answer | RatchetError],
    *,
    longest: int = 10_000,
    **settings: Any,
) -> tuple[MtBenchRun, Talker]:
    """Play the short set; `rate` is what the judge says to a prompt."""
    talker = Talker(mind)
    judge = Judge("strict", "scripted", lambda requests: [rate(one.turns[-1].content) for one in requests])
    task = MtBench(
        **{"kind": "mt_bench", "questions": Files(path=str(SHORT)), "references": "authors", "judge_retries": 1}
        | settings
    )
    return run_mt_bench("chat", task, Candidate(talker, Words(), longest, "tiny"), judge), talker


def test_first_turns_are_asked_together_and_then_second_ones_with_the_answers() -> None:
    _, talker = played(
        lambda one: Answer(f"to: {one.turns[-1].content[:9]}", "stop"), lambda _: Answer("[[5]]", "stop")
    )
    first, second = talker.calls
    questions = read_set(Files(path=str(SHORT)), "authors").questions
    assert len(first) == len(second) == len(questions) == 16
    temperature = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    for question, one, two in zip(questions, first, second, strict=True):
        assert [(turn.role, turn.content) for turn in one.turns] == [("user", question.turns[0])]
        said = [("user", question.turns[0]), ("assistant", f"to: {question.turns[0][:9]}"), ("user", question.turns[1])]
        assert [(turn.role, turn.content) for turn in two.turns] == said
        for request in (one, two):
            assert request.sampling.temperature == temperature.get(question.category, 0.0)
            assert (request.sampling.seed, request.sampling.max_tokens, request.sampling.top_p) == (0, 1024, 1.0)


def test_scores_are_means_of_rated_rows_with_questions_as_clusters() -> None:
    numbers = itertools.cycle([3, 9, 4.5, 7, 10, 1, 8])
    done, _ = played(says("x"), lambda _: Answer(f"[[{next(numbers)}]]", "stop"))
    result = done.result
    rating = {item.item: item.values["rating"] for item in result.items}
    assert list(rating) == [f"{question}:{turn}" for question in range(1, 17) for turn in (1, 2)]
    scores = {score.name: score for score in result.scores}
    values = np.array(list(rating.values()))
    assert result.headline.name == "average"
    assert result.headline.value == pytest.approx(values.mean())
    # With two rows a cluster, the sandwich is the standard error of the mean of the cluster means.
    means = values.reshape(16, 2).mean(axis=1)
    assert result.headline.standard_error == pytest.approx(stats.sem(means))
    assert scores["turn 2"].value == pytest.approx(values[1::2].mean())
    assert scores["turn 2"].standard_error == pytest.approx(stats.sem(values[1::2]))
    assert scores["math"].value == pytest.approx(values[12:16].mean())
    assert scores["math"].group == "math" and {score.unit for score in result.scores} == {"points"}
    assert len(result.scores) == 3 + 8
    assert result.kind == "mt_bench_format" and "This is not MT-Bench but short-chat" in result.warnings[0]
    assert result.settings["judge"] == "strict" and result.settings["reference_set"] == "authors"
    about = "short-chat (16 questions; not MT-Bench), judged by strict, references authors"
    assert {score.note for score in result.scores} == {about}
    assert result.items[12].reference.startswith("2.4 hours") and result.items[0].reference == ""


def test_one_question_tells_no_error_and_its_note_says_so() -> None:
    rows = [Item(f"7:{turn}", "7", {"rating": 5.0 + turn}) for turn in (1, 2)]
    assert [(one.value, one.standard_error, one.note) for one in scores_from(rows, "short-chat")] == [
        (value, None, "short-chat; one question: no error") for value in (6.5, 6.0, 7.0)
    ]


def test_clusters_of_one_are_the_plain_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=40)
    plain, by_one = estimate(values), clustered(values, [str(n) for n in range(40)])
    assert (by_one.mean, by_one.standard_error) == pytest.approx((plain.mean, plain.standard_error))
    assert clustered(values[:2], ["a", "a"]).standard_error is None
    assert clustered(values[:0], []).count == 0


def prompt_rates(missing: int) -> Callable[[str], Answer | RatchetError]:
    """Rate 6, but say nothing of use to the first `missing` prompts, whenever they come."""
    seen: dict[str, int] = {}

    def rate(prompt: str) -> Answer | RatchetError:
        return Answer("no idea" if seen.setdefault(prompt, len(seen)) < missing else "[[6]]", "stop")

    return rate


@pytest.mark.parametrize(("missing", "headline"), [(0, 6.0), (1, 6.0), (2, None), (32, None)])
def test_above_five_percent_missing_there_is_no_headline(missing: int, headline: float | None) -> None:
    result = played(lambda one: Answer(one.turns[-1].content, "stop"), prompt_rates(missing))[0].result
    assert result.headline.value == (headline and pytest.approx(headline))
    assert result.problems == ({NO_RATING: missing} if missing else {})
    assert any("no score" in warning for warning in result.warnings) == (headline is None)
    if missing:
        assert f"{missing} of 32 judgments are missing" in result.headline.note
        attempts = f"{missing} judgments were asked for again ({32 + missing} attempts at 32), 0 got a rating."
        assert attempts in result.warnings
    assert all(item.values == {"rating": 6.0} or not item.values for item in result.items)


def test_failed_judgments_are_told_by_reason() -> None:
    def rate(prompt: str) -> Answer | RatchetError:
        if "litres" in prompt:
            return EndpointError("400 Bad Request for the chat request 'x': filtered", where="u")
        return Answer("[[6]]", "stop")

    result = played(says("x"), rate)[0].result
    assert result.problems == {"judge failed: 400 Bad Request": 2}
    assert not result.whole, "asked again, the judge may answer"
    assert result.headline.value is None


def test_an_answer_that_is_not_there_is_not_judged() -> None:
    prompts: list[str] = []

    def mind(one: ChatRequest) -> Answer:
        return Answer("x", "abort" if "river" in one.turns[0].content and len(one.turns) > 1 else "length")

    def rate(prompt: str) -> Answer:
        prompts.append(prompt)
        return Answer("[[6]]", "stop")

    done, talker = played(mind, rate, longest=70)
    result = done.result
    assert 0 < len(prompts) < len(result.items) - 1
    assert result.problems == {TOO_LONG: len(result.items) - len(prompts) - 1, GAVE_UP: 1}
    assert all(request.sampling.max_tokens < 70 for call in talker.calls for request in call)
    for call in talker.calls:
        for request in call:
            words = Words()(Words().apply_chat_template([vars(turn) for turn in request.turns]))["input_ids"]
            assert len(words) + request.sampling.max_tokens == 70
    assert f"{len(prompts)} answers were cut off at the longest allowed." in result.warnings
    assert len(done.judgment_lines("m", 0.0)) == len(prompts)


def test_what_was_taken_apart_is_told() -> None:
    result = played(
        says("Rating: [[10]]"), lambda prompt: Answer("[[3]]" if "[[10]]" not in prompt else "[[10]]", "stop")
    )
    assert result[0].result.headline.value == 3.0
    assert any("32 answers held a rating" in warning and "1:1, 1:2" in warning for warning in result[0].result.warnings)


def test_only_the_template_is_formatted() -> None:
    asked = read_set(Files(path=str(SHORT)), "authors")
    text = "{question} {} {0} {{x}} {answer.__class__} %s $x \\n"
    name, prompt = prompt_for(asked, asked.questions[0], [text])
    assert name == "single-v1" and f"\n{text}\n" in prompt
    name, prompt = prompt_for(asked, asked.questions[6], [text, text])
    assert name == "single-math-v1-multi-turn" and prompt.count(text) == 2
    assert all(part in prompt for part in (*asked.questions[6].turns, *asked.questions[6].reference))


def test_a_template_that_fails_on_a_conversation_is_told() -> None:
    class Refuses(Words):
        def apply_chat_template(self, *_: object, **__: object) -> str:
            raise TypeError("no system role")

    task = MtBench(kind="mt_bench", questions=Files(path=str(SHORT)), references="authors")
    candidate = Candidate(Talker(says("x")), Refuses(), 99, "tiny")
    with raises("model.template-fails") as caught:
        run_mt_bench("chat", task, candidate, Judge("j", "", lambda _: []))
    assert "no system role" in caught.value.what


def test_what_is_written_for_other_tools_is_read_again(tmp_path: Path) -> None:
    done, _ = played(lambda one: Answer(one.turns[-1].content, "stop"), prompt_rates(1))
    path = tmp_path / "strict_single.jsonl"
    path.write_text("\n".join(done.judgment_lines("m", 1.0)))
    categories = {talk.question.question_id: talk.question.category for talk in done.talks}
    again = talk_scores(read_judgments([path]), categories)["m"]
    assert [(s.name, s.value, s.standard_error, s.count) for s in again] == [
        (s.name, s.value, s.standard_error, s.count) for s in done.result.scores
    ]
    replay = ReplayEngine(path, "strict")
    assert [one.text for one in replay.attempt([chat(done.judged[5].prompt)])] == ["[[6]]"]
    lines = [json.loads(line) for line in done.answer_lines("m", 1.0)]
    assert [row["question_id"] for row in lines] == list(range(1, 17))
    assert [tuple(row["choices"][0]["turns"]) for row in lines] == [talk.answers for talk in done.talks]
