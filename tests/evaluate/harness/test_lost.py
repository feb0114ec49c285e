"""What lm-eval leaves out: errors beside a figure that is no mean, values that are no numbers, items behind them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from harness_example import asking, mine, own_task
from plain_engine import PlainEngine, run
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.figures import NO_LIKELIHOOD
from ratchet.evaluate.results import TaskResult, average_of
from ratchet.evaluate.statistics import ratio
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import Answer, CompletionRequest
from tests.evaluate.harness.test_likelihoods import mc2

pytestmark = pytest.mark.usefixtures("offline")

INSTRUCTIONS = '''
"""Every document asks for several things; a verdict on each, as IFEval gives them."""

def process_results(doc, results):
    followed = [letter in results[0] for letter in doc["letters"]]
    return {"prompt_level": all(followed), "inst_level": followed}


def agg_inst_level(items):
    flat = [one for some in items for one in some]
    return sum(flat) / len(flat)


def process_mc2(doc, results):
    import numpy as np
    probs = np.exp(np.array([nats for nats, _ in results]))
    return {"mc2": float(probs[0] / np.sum(probs))}
'''


class Says(PlainEngine):
    """Says the same to everything, and finds continuations as likely as `likely` tells, by their place."""

    text = "abc"

    def __init__(self, small: Candidate, likely: Callable[[int, int], float] = lambda *_: -1.0) -> None:
        engine = small.engine
        assert isinstance(engine, PlainEngine)
        super().__init__(engine.model, engine.tokenizer)
        self.likely, self.at = likely, -1

    def _answer(self, request: Any) -> Answer:
        self.at += 1
        if isinstance(request, CompletionRequest):
            return Answer(self.text, "stop")
        nats = tuple(self.likely(self.at, place) for place in range(len(request.continuations)))
        return Answer("", "scored", logprobs=nats, greedy=(False,) * len(nats))


def instructions(folder: Path, name: str = "mine") -> Path:
    """Write a task that asks each document for the letters that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [["a"], ["b", "x"], ["x"], ["c", "a", "x"]]
    lines = [{"text": f"{n} of", "letters": one} for n, one in enumerate(letters)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scoring.py").write_text(INSTRUCTIONS)
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["#"], "max_gen_toks": 8},
    }
    metrics = "\n".join(
        [
            "process_results: !function scoring.process_results",
            "metric_list:",
            "  - {metric: prompt_level, aggregation: mean, higher_is_better: true}",
            "  - metric: inst_level",
            "    aggregation: !function scoring.agg_inst_level",
            "    higher_is_better: true",
        ]
    )
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition) + metrics + "\n")
    return folder


def shares(folder: Path, small: Candidate, likely: Callable[[int, int], float], rows: int = 4) -> TaskResult:
    """Score a task of three choices by the share of the first, as TruthfulQA's mc2 does."""
    own_task(folder, "mine", rows)
    (folder / "scoring.py").write_text(INSTRUCTIONS)
    definition = yaml.safe_load((folder / "mine.yaml").read_text())
    del definition["metric_list"]
    metrics = (
        "process_results: !function scoring.process_mc2\nmetric_list:\n"
        "  - {metric: mc2, aggregation: mean, higher_is_better: true}\n"
    )
    (folder / "mine.yaml").write_text(yaml.safe_dump(definition) + metrics)
    other = dataclasses.replace(small, engine=Says(small, likely))
    asked = asking("mine", "mc2", include=str(folder))
    return run("mine", asked, other, data_root=None, store=folder / "store")


def test_a_mean_beside_a_figure_that_is_none_keeps_its_error(small: Candidate, tmp_path: Path) -> None:
    other = dataclasses.replace(small, engine=Says(small))
    asked = asking("mine", "prompt_level", include=str(instructions(tmp_path)))
    result = run("mine", asked, other, data_root=None, store=tmp_path / "store")
    prompts, parts = result.scores
    assert (prompts.value, prompts.standard_error, prompts.count, prompts.note) == (0.25, pytest.approx(0.25), 4, "")
    assert (parts.value, parts.count, parts.note) == (pytest.approx(4 / 7), 7, "")
    sums, sizes = np.array([1.0, 1.0, 0.0, 2.0]), np.array([1.0, 2.0, 1.0, 3.0])
    assert parts.standard_error == pytest.approx(ratio(sums, sizes).standard_error)
    assert [item.values["inst_level"] for item in result.items] == pytest.approx([1.0, 0.5, 0.0, 2 / 3])
    assert average_of({"a": prompts, "b": parts}, "mean").standard_error is not None


def test_a_total_of_such_tasks_has_its_error(small: Candidate, tmp_path: Path) -> None:
    for name in ("mine_one", "mine_two"):
        instructions(tmp_path, name)
    group = {
        "group": "mine",
        "task": ["mine_one", "mine_two"],
        "aggregate_metric_list": [{"metric": name, "weight_by_size": False} for name in ("prompt_level", "inst_level")],
    }
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group))
    other = dataclasses.replace(small, engine=Says(small))
    asked = asking("mine", "prompt_level", include=str(tmp_path))
    result = run("mine", asked, other, data_root=None, store=tmp_path / "store")
    total = {score.name: score for score in result.scores if not score.group}
    assert total["prompt_level"].standard_error == pytest.approx(0.25 / math.sqrt(2))
    assert total["inst_level"].count == 14 and total["inst_level"].standard_error is not None
    assert total["prompt_level"].standard_error == total["prompt_level (mean of subjects)"].standard_error


def test_likelihoods_below_the_smallest_exponential_still_have_their_share(small: Candidate, tmp_path: Path) -> None:
    def likely(at: int, place: int) -> float:
        return -2000.0 * (at % 2) - 3.0 * place - at

    result = shares(tmp_path, small, likely)
    wanted = [1 / (1 + math.exp(-3) + math.exp(-6))] * 4
    assert mc2([0, -math.inf, -3, -6]) == pytest.approx(wanted[0])
    assert [item.values["mc2"] for item in result.items] == pytest.approx(wanted, rel=1e-9)
    assert result.headline.value == pytest.approx(wanted[0]) and result.problems == {}


def test_a_value_that_is_no_number_is_told_with_its_item(small: Candidate, tmp_path: Path) -> None:
    result = shares(tmp_path, small, lambda at, place: math.nan if at == 1 else -1.0 - place)
    (lost,) = (item for item in result.items if item.problem)
    assert (lost.item, lost.values) == (result.items[1].item, {})
    assert lost.problem == f"no mc2: {NO_LIKELIHOOD}" and result.problems == {lost.problem: 1}
    assert (result.headline.value, result.headline.standard_error) == (None, None)
    assert result.headline.note == f"no score: 1 of 4 items have no value: {lost.item} ({NO_LIKELIHOOD})"
    assert f"There is {result.headline.note}." in result.warnings
    average = average_of({"mine": result.headline, "other": dataclasses.replace(result.headline, value=1.0)}, "H2")
    assert (average.value, average.note) == (None, "no score of mine")


def test_a_likelihood_that_is_no_number_is_kept_as_it_is(tmp_path: Path) -> None:
    answer = Answer("", "scored", logprobs=(math.nan, -math.inf, -1.5), greedy=(False, False, True))
    with UnitJournal(tmp_path / "answers") as journal:
        journal.append("k", [answer])
    with UnitJournal(tmp_path / "answers") as journal:
        (found,) = journal.find("k")
    assert math.isnan(found.logprobs[0]) and found.logprobs[1:] == answer.logprobs[1:]


def test_a_model_that_gives_no_likelihood_is_not_scored_by_its_first_choice(small: Candidate, tmp_path: Path) -> None:
    other = dataclasses.replace(small, engine=Says(small, lambda *_: math.nan))
    result = run("mine", mine(own_task(tmp_path)), other, data_root=None, store=tmp_path / "store")
    assert {score.value for score in result.scores} == {None}
    assert result.problems == {f"no acc and no acc_norm: {NO_LIKELIHOOD}": 4}


def test_a_subject_without_a_score_is_no_part_of_a_mean_of_subjects(small: Candidate, tmp_path: Path) -> None:
    for name in ("mine_one", "mine_two"):
        own_task(tmp_path, name)
    group = {"group": "mine", "task": ["mine_one", "mine_two"], "aggregate_metric_list": [{"metric": "acc"}]}
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group))
    other = dataclasses.replace(small, engine=Says(small, lambda at, place: math.nan if at == 5 else -1.0 - place))
    result = run("mine", mine(tmp_path), other, data_root=None, store=tmp_path / "store")
    totals = [score for score in result.scores if not score.group]
    assert [score.name for score in totals] == ["acc", "acc (mean of subjects)"]
    assert [score.value for score in totals] == [None, None]
    assert all(score.note.startswith("no score of mine_two: no score: 1 of 4 items") for score in totals)


def test_a_choice_without_length_is_never_taken(small: Candidate, tmp_path: Path) -> None:
    lines = [{"text": f"{n} of", "choices": ["" if n else "a", "bb"], "answer": 1} for n in range(4)]
    own_task(tmp_path)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = dataclasses.replace(small, engine=Says(small, lambda _, place: -1.0 - 2.0 * place))
    result = run("mine", mine(tmp_path).model_copy(update={"metric": "acc_norm"}), other, data_root=None,
                 store=tmp_path / "store")  # fmt: skip
    values = {score.metric: score.value for score in result.scores}
    assert values == {"acc": 0.0, "acc_norm": 0.75}
    assert [item.answer for item in result.items] == ["a", "bb", "bb", "bb"]


def test_a_figure_drawn_anew_has_an_error_and_keeps_its_score(small: Candidate, tmp_path: Path) -> None:
    metrics = [{"metric": "acc", "aggregation": "median"}, {"metric": "brier_score"}, {"metric": "acc_norm"}]
    own_task(tmp_path, "mine", 12, metric_list=metrics)
    other = dataclasses.replace(small, engine=Says(small, lambda at, place: -abs(at % 5 - 2.0 * place)))
    result = run("mine", mine(tmp_path), other, data_root=None, store=tmp_path / "store")
    score = {one.metric: one for one in result.scores}
    assert all(one.standard_error is not None for one in result.scores)
    assert score["acc_norm"].standard_error == pytest.approx(stats.sem([it.values["acc_norm"] for it in result.items]))
    other = dataclasses.replace(small, engine=Says(small, lambda at, place: -abs(at % 5 - 2.0 * place)))
    again = run("mine", mine(tmp_path), other, data_root=None, store=tmp_path / "again")
    assert [one.standard_error for one in again.scores] == [one.standard_error for one in result.scores]


def test_a_perplexity_too_large_for_a_number_says_so(small: Candidate, tmp_path: Path) -> None:
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{text}}",
        "doc_to_text": "",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")],
    }
    folder = own_task(tmp_path, **rolling)
    definition = yaml.safe_load((folder / "mine.yaml").read_text())
    del definition["doc_to_choice"]
    (folder / "mine.yaml").write_text(yaml.safe_dump(definition))
    other = dataclasses.replace(small, engine=Says(small, lambda at, _: -3000.0 - at))
    asked = asking("mine", "word_perplexity", include=str(folder))
    result = run("mine", asked, other, data_root=None, store=tmp_path / "store")
    words, bits = result.scores
    assert (words.value, words.note, bits.note) == (None, "no score: too large for a number", "")
    assert bits.value is not None and bits.standard_error is not None and bits.unit == "bits"
