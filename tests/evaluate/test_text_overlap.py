"""BLEU and ROUGE of answers: sacrebleu's and rouge-score's own numbers, and errors found by brute force."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import TaskResult
from ratchet.evaluate.text_overlap import (
    chrf_counts,
    corpus_bleu,
    corpus_chrf,
    jackknife,
    measure_overlap,
    overlap_scores,
    run_chrf,
    run_text_overlap,
)
from ratchet.evaluate.thoughts import UNCLOSED
from ratchet.plan.task_parts import Rows
from ratchet.plan.tasks import Chrf, TextOverlap
from ratchet.serving.requests import Answer, ChatRequest, Request
from tests.conftest import ROOT

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "over",
    "mat",
    "log",
    "and",
    "then",
    "it",
    "was",
    "red",
    ",",
    ".",
]


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """References, and answers that keep most of each one's words, with the odd empty or foreign one."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(4, 25))) for _ in range(count)]
    answers = [" ".join(w if draw.random() < 0.75 else draw.choice(WORDS) for w in r.split()) for r in references]
    answers = [" ".join(answer.split()[: draw.randint(1, 30)]) for answer in answers]
    answers[0], answers[1 % count] = "", "nothing alike whatsoever here"
    return answers, references


class Parrot:
    """An engine with a fixed answer for each question."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers, self.asked = answers, list[Request]()

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked += requests
        return [self.answers[one.turns[-1].content] for one in requests if isinstance(one, ChatRequest)]

    def answer_groups(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[Answer]]:
        return {name: self.answer(requests) for name, requests in groups.items()}


def task_of(folder: Path, questions: Sequence[str], references: Sequence[str], **settings: object) -> TextOverlap:
    path = folder / "rows.jsonl"
    rows = [{"question": q, "answer": a} for q, a in zip(questions, references, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return TextOverlap(kind="text_overlap", rows=Rows(path=str(path)), **settings)


def ask(folder: Path, answers: Sequence[str], references: Sequence[str], finish: str = "stop") -> tuple[Parrot, object]:
    questions = [f"question {n}" for n in range(len(answers))]
    parrot = Parrot({q: Answer(a, finish) for q, a in zip(questions, answers, strict=True)})
    return parrot, run_text_overlap(
        "overlap", task_of(folder, questions, references), Candidate(parrot, None, 64, "parrot")
    )


def test_the_scores_are_those_of_sacrebleu_and_rouge_score(tmp_path: Path) -> None:
    answers, references = sentences(40)
    _, result = ask(tmp_path, answers, references)
    bleu, *rouges = result.scores
    assert bleu.value == sacrebleu.corpus_bleu(answers, [references]).score
    assert (bleu.name, bleu.unit, bleu.count) == ("BLEU-4", "percent", 40)
    assert [score.name for score in rouges] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    for score in rouges:
        scorer = RougeScorer([score.metric])
        alone = [scorer.score(r, a)[score.metric].fmeasure for a, r in zip(answers, references, strict=True)]
        assert score.value == pytest.approx(np.mean(alone), abs=1e-12)
        assert score.standard_error == pytest.approx(np.std(alone, ddof=1) / np.sqrt(40), abs=1e-12)
        assert [item.values[score.metric] for item in result.items] == alone
    for item, answer, reference in zip(result.items, answers, references, strict=True):
        assert item.values["bleu"] == sacrebleu.sentence_bleu(answer, [reference]).score
    assert result.headline.metric == "bleu"
    assert result.settings["headline_mean"] == "corpus"
    assert result.settings["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "|eff:yes|" in result.settings["sentence_bleu"]


def test_rouge_of_a_pair_worked_out_by_hand() -> None:
    overlap = measure_overlap(["the cat sat on the mat"], ["a cat sat on a mat today"])
    # 4 of 6 and 4 of 7 words; 2 of 5 and 2 of 6 word pairs; the longest common subsequence is cat sat on mat
    expected = {"rouge1": 2 * 4 / (6 + 7), "rouge2": 2 * 2 / (5 + 6), "rougeL": 2 * 4 / (6 + 7)}
    assert {key: values[0] for key, values in overlap.rouge.items()} == pytest.approx(expected)
    assert measure_overlap(["jumping lions"], ["jumps lion"]).rouge["rouge1"][0] == 0  # words are not stemmed


def test_bleu_of_a_corpus_worked_out_by_hand() -> None:
    # 9 words against 10: 7 of 9 words, 4 of 7 pairs, 2 of 5 triples, none of 3 quadruples, which counts as half of one
    counts = np.array([9, 10, 7, 4, 2, 0, 9, 7, 5, 3])
    expected = 100 * np.exp(1 - 10 / 9) * (7 / 9 * 4 / 7 * 2 / 5 * 0.5 / 3) ** 0.25
    assert corpus_bleu(counts) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([*WORDS, ""]), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_bleu_from_counts_is_sacrebleu_s_for_any_corpus(parts: list[tuple[str, int, int]]) -> None:
    answers = [" ".join([word] * n + WORDS[:m]) for word, n, m in parts]
    references = [" ".join([word] * m + WORDS[: n + 1]) for word, n, m in parts]
    counts = measure_overlap(answers, references).counts
    assert corpus_bleu(counts.sum(axis=0)) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_error_of_bleu_is_the_jackknife_through_sacrebleu(count: int) -> None:
    answers, references = sentences(count, seed=count)
    left = [
        sacrebleu.corpus_bleu(answers[:n] + answers[n + 1 :], [references[:n] + references[n + 1 :]]).score
        for n in range(count)
    ]
    expected = np.sqrt((count - 1) / count * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert jackknife(measure_overlap(answers, references).counts) == pytest.approx(expected, rel=1e-9)


def test_the_error_of_bleu_agrees_with_sacrebleu_s_bootstrap() -> None:
    answers, references = sentences(200, seed=7)
    found = sacrebleu.BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    half_width = 1.96 * jackknife(measure_overlap(answers, references).counts)
    assert half_width == pytest.approx(found._ci, rel=0.15)


@pytest.mark.slow
def test_the_error_is_the_spread_over_new_corpora() -> None:
    corpora = [measure_overlap(*sentences(60, seed=seed)).counts[2:] for seed in range(100, 250)]
    spread = np.std([corpus_bleu(counts.sum(axis=0)) for counts in corpora], ddof=1)
    assert np.mean([jackknife(counts) for counts in corpora]) == pytest.approx(spread, rel=0.15)


def test_questions_are_asked_greedily_as_chats(tmp_path: Path) -> None:
    parrot, _ = ask(tmp_path, ["one", "two"], ["one", "three"])
    assert [request.turns[0].content for request in parrot.asked] == ["question 0", "question 1"]
    assert {(len(one.turns), one.turns[0].role) for one in parrot.asked} == {(1, "user")}
    assert {(one.sampling.temperature, one.sampling.max_tokens, one.sampling.stop) for one in parrot.asked} == {
        (0.0, 256, ())
    }


def test_an_empty_answer_scores_nothing_and_is_counted(tmp_path: Path) -> None:
    references = ["the cat sat on the mat", "a dog ran over the log"]
    _, result = ask(tmp_path, ["", references[1]], references)
    assert result.problems == {"empty answer": 1}
    assert set(result.items[0].values.values()) == {0.0}
    assert result.items[1].values == pytest.approx({"bleu": 100.0, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0})
    assert [score.value for score in result.scores[1:]] == [0.5] * 3
    assert result.headline.value == pytest.approx(100 * np.exp(1 - 12 / 6))  # every n-gram is right, half is missing


def test_thoughts_are_no_part_of_an_answer(tmp_path: Path) -> None:
    answers, references = sentences(6, 3)
    _, plain = ask(tmp_path, answers, references)
    _, thinks = ask(tmp_path, [f"<think>the cat, over and over</think>\n\n{one}" for one in answers], references)
    assert thinks.scores == plain.scores and thinks.problems == plain.problems
    assert thinks.items[2].answer.startswith("<think>") and "6 answers held thoughts" in thinks.warnings[0]
    _, never = ask(tmp_path, [f"<think>{one}" for one in references], references)
    assert (never.headline.value, never.problems) == (0, {UNCLOSED: 6})


def test_answers_that_are_all_empty_are_worth_nothing_without_a_warning(tmp_path: Path) -> None:
    _, result = ask(tmp_path, ["", ""], ["a b c d", "e f g h"])
    assert [(score.value, score.standard_error) for score in result.scores] == [(0.0, 0.0)] * 4


def test_one_answer_tells_no_error(tmp_path: Path) -> None:
    _, result = ask(tmp_path, ["a b c d"], ["a b c d"])
    assert [score.standard_error for score in result.scores] == [None] * 4
    assert result.headline.value == pytest.approx(100.0)
    assert {score.note for score in result.scores} == {"one answer: no error"}


def test_answers_that_were_cut_off_are_told(tmp_path: Path) -> None:
    _, result = ask(tmp_path, ["a", "b"], ["a", "b"], finish="length")
    assert result.warnings == ("2 of 2 answers were cut off at max_new_tokens = 256",)


def test_items_keep_their_ids_where_other_rows_change(tmp_path: Path) -> None:
    ids = [item.item for item in ask(tmp_path, ["x", "y", "z"], ["a", "b", "c"])[1].items]
    other = [item.item for item in ask(tmp_path, ["p", "q", "r"], ["a", "changed", "c"])[1].items]
    assert len(set(ids)) == 3
    assert [one == two for one, two in zip(ids, other, strict=True)] == [True, False, True]


def test_a_row_limit_and_columns_are_kept_to(tmp_path: Path) -> None:
    path = ROOT / "eval/sets/word_problems.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    parrot = Parrot({row["question"]: Answer(row["answer"], "stop") for row in rows})
    task = TextOverlap(kind="text_overlap", rows=Rows(path=str(path)), max_rows=5)
    result = run_text_overlap("t", task, Candidate(parrot, None, 64, "parrot"))
    assert [score.value for score in result.scores] == pytest.approx([100.0, 1.0, 1.0, 1.0])
    assert len(result.items) == 5
    with raises("data") as caught:
        run_text_overlap("t", task.model_copy(update={"answer": "gold"}), Candidate(parrot, None, 64, "parrot"))
    assert "'gold'" in caught.value.what


def test_the_order_of_answers_changes_no_score() -> None:
    answers, references = sentences(30)
    turned = measure_overlap(answers[::-1], references[::-1])
    for one, two in zip(overlap_scores(measure_overlap(answers, references)), overlap_scores(turned), strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(two))


def chrf_of(folder: Path, answers: Sequence[str], references: Sequence[str]) -> TaskResult:
    questions = [f"question {n}" for n in range(len(answers))]
    rows = task_of(folder, questions, references).rows
    said = {q: Answer(text, "stop", 3, 4) for q, text in zip(questions, answers, strict=True)}
    return run_chrf("letters", Chrf(kind="chrf", rows=rows), Candidate(Parrot(said), None, 64, "w"))


def test_chrf_is_that_of_sacrebleu_called_directly(tmp_path: Path) -> None:
    answers, references = sentences(40, seed=3)
    found, metric = chrf_of(tmp_path, answers, references), sacrebleu.CHRF()
    assert found.headline.value == metric.corpus_score(answers, [references]).score
    alone = [metric.sentence_score(a, [r]).score for a, r in zip(answers, references, strict=True)]
    assert [item.values["chrf"] for item in found.items] == pytest.approx(alone)
    left = [
        metric.corpus_score(answers[:n] + answers[n + 1 :], [references[:n] + references[n + 1 :]]).score
        for n in range(len(answers))
    ]
    assert found.headline.standard_error == pytest.approx(np.sqrt((len(left) - 1) * np.var(left)), rel=1e-9)
    assert found.headline.unit == "percent" and found.settings["chrf"] == str(metric.get_signature())


@given(st.lists(st.tuples(st.text("ab \n.é", max_size=9), st.text("ab \n.é", max_size=9)), min_size=1, max_size=5))
def test_chrf_from_counts_is_sacrebleu_s_for_any_corpus(pairs: list[tuple[str, str]]) -> None:
    answers, references = [answer for answer, _ in pairs], [reference for _, reference in pairs]
    counts = np.array([chrf_counts(*pair) for pair in pairs])
    expected = sacrebleu.CHRF().corpus_score(answers, [references]).score
    assert float(corpus_chrf(counts.sum(axis=0))) == pytest.approx(expected, abs=1e-9)
