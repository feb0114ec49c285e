"""Tasks of lm-eval: scores as by its own model class, requests built once, data that are what they are said to be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval.tasks import TaskManager

from harness_example import OWN, SUMS, WORDS, asking, by_lm_eval, mine, own_task, recorded
from plain_engine import PlainEngine, run, run_all
from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import TaskResult
from ratchet.evaluate.statistics import estimate
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest

pytestmark = [pytest.mark.usefixtures("offline"), pytest.mark.heavy]


@pytest.fixture(scope="module")
def small_scores(small: Candidate, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskResult]:
    store = tmp_path_factory.mktemp("store")
    return run_all({"sums": SUMS, "words": WORDS}, small, data_root=None, store=store)


def assert_same_scores(result: TaskResult, theirs: Mapping[str, Any], leaf: str) -> None:
    figures = theirs["results"][leaf]
    for score in result.scores:
        key = score.metric if "," in score.metric else f"{score.metric},none"
        assert score.value == pytest.approx(figures[key], abs=1e-6)
        assert score.standard_error == pytest.approx(figures[key.replace(",", "_stderr,")], abs=1e-6)
    samples: dict[int, dict[str, float]] = {}
    for sample in theirs["samples"][leaf]:
        values = {f"{name},{sample['filter']}".removesuffix(",none"): float(sample[name]) for name in sample["metrics"]}
        samples.setdefault(sample["doc_id"], {}).update(values)
    for item, number in zip(result.items, sorted(samples), strict=True):
        assert dict(item.values) == pytest.approx(samples[number], abs=1e-6), item.item


def test_own_tasks_score_as_by_lm_evals_own_model(
    small: Candidate, small_scores: dict[str, TaskResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(OWN)  # lm-eval itself looks for a task's files in the current folder
    manager = TaskManager(include_defaults=False, include_path=OWN)
    for name, task, limit in (("sums", "small_sums", 8), ("words", "word_letters", 6)):
        theirs = by_lm_eval(small, [task], manager, limit=limit)
        assert_same_scores(small_scores[name], theirs, task)
        assert small_scores[name].warnings[0].startswith(f"Only {limit} questions")
        assert "lost the beginning" in small_scores[name].warnings[1]


def test_one_call_of_the_engine_has_a_group_for_every_leaf(small: Candidate, tmp_path: Path) -> None:
    both = recorded(small, lambda: run_all({"a": SUMS, "b": WORDS}, small, data_root=None, store=tmp_path))
    alone = recorded(small, lambda: run("b", WORDS, small, data_root=None, store=tmp_path))
    assert list(both) == ["a/small_sums", "b/word_letters"]
    assert alone["b/word_letters"] == both["b/word_letters"]
    wide = dataclasses.replace(small, longest=4000)
    whole = recorded(wide, lambda: run("a", SUMS, wide, data_root=None, store=tmp_path))["a/small_sums"]
    assert [len(request.continuations) for request in whole] == [4] * 8, "the choices of one question are one request"
    assert all(isinstance(request, ContinuationRequest) for request in both["a/small_sums"])
    assert all(isinstance(request, CompletionRequest) for request in both["b/word_letters"])
    longest = max(len(it.context) + max(map(len, it.continuations)) for it in both["a/small_sums"])
    assert longest == 97, "the last token is predicted, and takes no position"
    assert {len(it.prompt) for it in both["b/word_letters"]} == {80}, "16 positions are kept for the answer"


def test_items_are_the_same_for_every_model(
    small_scores: dict[str, TaskResult], small: Candidate, tmp_path: Path
) -> None:
    other = dataclasses.replace(small, longest=64, identity="other")
    again = run("sums", SUMS, other, data_root=None, store=tmp_path)
    assert [it.item for it in again.items] == [it.item for it in small_scores["sums"].items]
    first = small_scores["sums"].items[0]
    rows = [json.loads(line) for line in (OWN / "sums.jsonl").read_text().splitlines()]
    assert first.question == f"Question: {rows[0]['question']}\nAnswer:"
    assert first.reference == rows[0]["choices"][rows[0]["answer"]]
    assert first.answer in rows[0]["choices"]
    assert first.item.startswith("small_sums:0:")


def test_the_error_of_a_mean_is_our_estimate(small_scores: dict[str, TaskResult]) -> None:
    for result in small_scores.values():
        for score in result.scores:
            ours = estimate(np.array([item.values[score.metric] for item in result.items]))
            assert (score.value, score.standard_error) == pytest.approx((ours.mean, ours.standard_error))
            assert score.count == ours.count


class Letters(PlainEngine):
    """Says a letter to every second question, and to the others nothing that a pattern could find."""

    said = 0

    def _complete(self, ids: list[int], request: CompletionRequest) -> Answer:
        self.said += 1
        return Answer(" c, I think" if self.said % 2 else "!!", "stop")


def test_an_answer_without_an_answer_is_counted_and_scored_as_lm_eval_does(small: Candidate, tmp_path: Path) -> None:
    engine = small.engine
    assert isinstance(engine, PlainEngine)
    other = dataclasses.replace(small, engine=Letters(engine.model, engine.tokenizer))
    result = run("words", WORDS.model_copy(update={"limit": 30}), other, data_root=None, store=tmp_path)
    missed = [item for item in result.items if item.problem]
    assert result.problems == {"no answer found": 15}
    assert {item.answer for item in missed} == {"!!"}
    assert all(item.values == {"exact_match,first-word": 0.0} for item in missed)
    right = [item.reference == "c" and not item.problem for item in result.items]
    assert 0 < sum(right) < 15
    assert result.headline.value == pytest.approx(np.mean(right))


def test_a_subject_of_one_question_has_no_error_and_the_mean_of_subjects_says_so(
    small: Candidate, tmp_path: Path
) -> None:
    # A single choice is always right, so all questions agree.
    sizes, sure = {"mine_one": 1, "mine_small": 5, "mine_large": 14}, {"doc_to_choice": ["a"], "doc_to_target": 0}
    for name, rows in sizes.items():
        own_task(tmp_path / "tasks", name, rows, **sure)
    whole = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    for name, of in (("mine", list(sizes)), ("those", list(sizes)[1:])):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, "task": of, **whole}))
    found = {}
    for name in ("mine", "those"):
        task = asking(name, "acc", include=str(tmp_path / "tasks"))
        scores = run(name, task, small, data_root=None, store=tmp_path / name).scores
        found |= {(name, one.name, one.group): one for one in scores if one.metric == "acc"}
    said = {key: (one.value, one.standard_error, one.note) for key, one in found.items()}
    assert said["mine", "acc", "one"] == (1.0, None, "all of 1: above 5.0 %; one item: no error")
    assert said["mine", "acc", "large"] == (1.0, 0.0, "all of 14: above 80.7 %")
    mean = "all of 20: above 36.8 %; no error of mine_one"  # as sure as three questions are
    assert said["mine", "acc (mean of subjects)", ""] == (1.0, None, mean)
    assert said["those", "acc", ""] == (1.0, 0.0, "all of 19: above 85.4 %")
    assert said["those", "acc (mean of subjects)", ""] == (1.0, 0.0, "all of 19: above 74.1 %")


def test_groups_are_pooled_and_averaged_over_subjects(small: Candidate, tmp_path: Path) -> None:
    sizes = {"mine_small": 3, "mine_large": 14}
    for name, rows in sizes.items():
        own_task(tmp_path / "tasks", name, rows)
    group = {"group": "mine", "task": list(sizes), "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    (tmp_path / "tasks" / "group.yaml").write_text(yaml.safe_dump(group))
    result = run("t", mine(tmp_path / "tasks"), small, data_root=None, store=tmp_path / "store")
    values = {
        name: np.array([it.values["acc"] for it in result.items if it.group == name]) for name in ("small", "large")
    }
    assert {name: len(those) for name, those in values.items()} == {"small": 3, "large": 14}
    weighted, mean = result.scores[:2]
    assert (weighted.name, mean.name) == ("acc", "acc (mean of subjects)")
    assert weighted.value == pytest.approx(np.concatenate(list(values.values())).mean())
    assert mean.value == pytest.approx(np.mean([those.mean() for those in values.values()]))
    errors = [those.std(ddof=1) / np.sqrt(len(those)) for those in values.values()]
    assert mean.standard_error == pytest.approx(np.sqrt(np.sum(np.square(errors))) / 2)
    within = sum((len(those) - 1) * those.var(ddof=1) for those in values.values()) / (17 - 2)
    assert weighted.standard_error == pytest.approx(np.sqrt(within / 17))
    assert [(score.group, score.count) for score in result.scores if score.group and score.name == "acc"] == [
        ("small", 3),
        ("large", 14),
    ]


def test_a_group_without_a_total_and_a_tag_are_refused(small: Candidate, tmp_path: Path) -> None:
    for name in ("mine_one", "mine_two"):
        own_task(tmp_path / "tasks", name, tag="ours")
    (tmp_path / "tasks" / "group.yaml").write_text(yaml.safe_dump({"group": "mine", "task": ["mine_one", "mine_two"]}))
    for task in ("mine", "ours"):
        asked = asking(task, "acc", include=str(tmp_path / "tasks"))
        with raises("plan.task"):
            run("t", asked, small, data_root=None, store=tmp_path / "store")
