"""Tasks of lm-eval: scores as by its own model class, requests built once, data that are what they are said to be."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT
from mirror import write_hub_folder
from plain_engine import PlainEngine, run, run_all
from ratchet.errors import CorruptError, DataError, ModelError, PlanError
from ratchet.evaluate.candidate import Candidate
from ratchet.evaluate.harness_model import Encoder, sampling_of
from ratchet.evaluate.harness_tasks import quiet
from ratchet.evaluate.results import TaskResult
from ratchet.evaluate.statistics import estimate
from ratchet.model.scratch import make_scratch
from ratchet.plan.model import Scratch
from ratchet.plan.suite import Harness
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest
from token_pairs import CHATML, TEXTS

OWN = ROOT / "eval" / "harness"
SPEC = Scratch(
    tokenizer_from=("a",), vocab_size=320, hidden_size=16, layers=2, heads=2, key_value_heads=1, max_positions=96
)


def asking(task: str, metric: str, **more: Any) -> Harness:
    return Harness(kind="harness", task=task, metric=metric, **more)


SUMS = asking("small_sums", "acc", include=str(OWN), limit=8)
WORDS = asking("word_letters", "exact_match", include=str(OWN), limit=6)


def candidate_of(folder: Path, longest: int) -> Candidate:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Candidate(PlainEngine(model, tokenizer), tokenizer, longest, folder.name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A model of random weights whose 96 positions cut every context of the own tasks from the left."""
    folder = tmp_path_factory.mktemp("models") / "small"
    make_scratch(SPEC, TEXTS, folder)
    return candidate_of(folder, 96)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def small_scores(small: Candidate, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskResult]:
    store = tmp_path_factory.mktemp("store")
    return run_all({"sums": SUMS, "words": WORDS}, small, data_root=None, store=store)


def by_lm_eval(candidate: Candidate, tasks: list[Any], manager: TaskManager, **more: Any) -> Mapping[str, Any]:
    """What lm-eval says with its own model class over the same weights."""
    engine = candidate.engine
    assert isinstance(engine, PlainEngine)
    with quiet():
        model = HFLM(engine.model, tokenizer=candidate.tokenizer, batch_size=1, max_length=candidate.longest)
        options = {"bootstrap_iters": 1, "log_samples": True, **more}
        found = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, **options)
    assert found is not None
    return found


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


def recorded(candidate: Candidate, work: Any) -> dict[str, Any]:
    """What the engine was asked in the one call that `work` makes."""
    engine = candidate.engine
    assert isinstance(engine, PlainEngine)
    before = len(engine.asked)
    work()
    (groups,) = engine.asked[before:]
    return groups


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


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the tasks that built a prompt, one for each prompt."""
    names: list[str] = []
    plain = ConfigurableTask.fewshot_context

    def counted(self: Any, **options: Any) -> Any:
        names.append(self.task_name)
        return plain(self, **options)

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", counted)
    return names


def own_task(folder: Path, name: str = "mine", rows: int = 4, **more: Any) -> Path:
    """Write a task of one's own with its data: which of two letters comes first?"""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"text": f"{n} of", "choices": ["a", "bb", "ccc"], "answer": n % 3} for n in range(rows)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition))
    return folder


def mine(folder: Path, **more: Any) -> Harness:
    return asking("mine", "acc", include=str(folder), **more)


def test_requests_are_built_once_for_all_models(small: Candidate, built: list[str], tmp_path: Path) -> None:
    folder, store = own_task(tmp_path / "tasks"), tmp_path / "store"
    first = run("t", mine(folder), small, data_root=None, store=store)
    assert first.warnings == ()
    assert built == ["mine"] * 4
    other = dataclasses.replace(small, longest=64, identity="other")
    second = run("t", mine(folder), other, data_root=None, store=store)
    assert built == ["mine"] * 4, "the second model's requests were there"
    assert [item.item for item in first.items] == [item.item for item in second.items]
    assert run("t", mine(folder), small, data_root=None, store=store) == first


@pytest.mark.parametrize("change", ["data", "definition", "limit", "shots"])
def test_what_decides_requests_is_in_their_key(change: str, small: Candidate, built: list[str], tmp_path: Path) -> None:
    folder, store, task = own_task(tmp_path / "tasks"), tmp_path / "store", mine(tmp_path / "tasks")
    run("t", task, small, data_root=None, store=store)
    built.clear()
    match change:
        case "data":
            path = folder / "mine.jsonl"
            path.write_text(path.read_text().replace("2 of", "9 of"))
        case "definition":
            own_task(folder, description="Think.\n")
        case "limit":
            task = mine(folder, limit=3)
        case "shots":
            task = mine(folder, shots=1)
    run("t", task, small, data_root=None, store=store)
    assert len(built) == (3 if change == "limit" else 4)
    assert len(list((store / "requests").iterdir())) == 2


@pytest.mark.parametrize("damage", ["bit", "end", "empty"])
def test_damaged_requests_are_told(damage: str, small: Candidate, tmp_path: Path) -> None:
    folder, store = own_task(tmp_path / "tasks"), tmp_path / "store"
    run("t", mine(folder), small, data_root=None, store=store)
    (path,) = (store / "requests").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {"bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "end": whole[:-9], "empty": b""}[
            damage
        ]
    )
    with pytest.raises(CorruptError, match="delete the file"):
        run("t", mine(folder), small, data_root=None, store=store)


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
        with pytest.raises(PlanError, match=r"one by one|each of them"):
            run("t", asked, small, data_root=None, store=tmp_path / "store")


def test_folders_of_the_same_name_do_not_share_rows(small: Candidate, tmp_path: Path) -> None:
    definition = own_task(tmp_path / "tasks", dataset_path="team/letters", dataset_kwargs={})
    found = {}
    for root, rows in (("one", 3), ("two", 5)):
        letters = [{"text": f"{root} {n}", "choices": ["a", "bb", "ccc"], "answer": 0} for n in range(rows)]
        write_hub_folder(tmp_path / root / "team" / "letters", {"default": {"test": letters}})
        result = run("t", mine(definition), small, data_root=tmp_path / root, store=tmp_path / "store")
        assert [item.question for item in result.items] == [letter["text"] for letter in letters]
        found[root] = result.settings["data"]
    assert found["one"] != found["two"]


def test_text_in_windows_scores_as_by_lm_evals_own_model(
    small: Candidate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    texts = ["How are you today? " * n for n in (1, 7, 30)]
    (folder / "mine.jsonl").write_text("".join(json.dumps({"page": text}) + "\n" for text in texts))
    metric = {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}
    definition = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "mine.jsonl"}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{page}}",
        "metric_list": [metric],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(definition))
    task = asking("mine", "word_perplexity", include=str(folder))
    groups = recorded(small, lambda: run("t", task, small, data_root=None, store=tmp_path / "store"))
    ours = run("t", task, small, data_root=None, store=tmp_path / "store")
    tokens = sum(len(part) for request in groups["t/mine"] for part in request.continuations)
    assert tokens == sum(len(small.tokenizer(text)["input_ids"]) for text in texts)
    monkeypatch.chdir(folder)
    manager = TaskManager(include_defaults=False, include_path=folder)
    theirs = by_lm_eval(small, ["mine"], manager, bootstrap_iters=0)
    assert ours.headline.value == pytest.approx(theirs["results"]["mine"]["word_perplexity,none"], rel=1e-5)
    assert (ours.headline.unit, ours.headline.lower_is_better) == ("perplexity", True)


def test_a_chat_template_is_asked_through_with_examples_as_turns(small: Candidate, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small.tokenizer.name_or_path)
    tokenizer.chat_template = CHATML
    chat = dataclasses.replace(small, tokenizer=tokenizer, longest=4000)
    folder = own_task(tmp_path / "tasks", training_split="test", fewshot_split="test")
    task = mine(folder, chat_template=True, shots=2, limit=1)
    groups = recorded(chat, lambda: run("t", task, chat, data_root=None, store=tmp_path / "store"))
    warnings = run("t", task, chat, data_root=None, store=tmp_path / "store").warnings
    assert warnings[-1].startswith("mine draws its examples from the questions themselves")
    request = groups["t/mine"][0]
    text = tokenizer.decode([*request.context, *request.continuations[0]])
    assert text.count("<|turn|>user") == 3
    assert text.count("<|turn|>assistant") == 3
    assert text.endswith("<|turn|>assistant\na")
    with pytest.raises(ModelError, match="no chat template"):
        tokenizer.chat_template = None
        run("t", task, chat, data_root=None, store=tmp_path / "store")


def test_text_is_drawn_as_the_task_says() -> None:
    assert sampling_of({"until": ["\n", ""]}).stop == ("\n",)
    assert sampling_of({"until": "x", "max_gen_toks": 7}).max_tokens == 7
    assert sampling_of({"until": []}).max_tokens == 256
    drawn = sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (drawn.temperature, drawn.top_p) == (0.7, 0.9)
    with quiet():
        assert sampling_of({"do_sample": False, "temperature": 0.7}).temperature == 0.0
    with pytest.raises(PlanError, match="num_beams"):
        sampling_of({"num_beams": 4})


def test_a_bos_token_is_there_once_by_todays_rule(small: Candidate) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small.tokenizer.name_or_path)
    start = tokenizer.bos_token = tokenizer.eos_token
    first = tokenizer.eos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, first)])
    for special, text, count in ((None, "Hi", 1), (None, f"{start}Hi", 1), (False, "Hi", 0), (True, "Hi", 1)):
        encoder = Encoder(tokenizer, 96, special=special)
        assert encoder.tok_encode(text).count(first) == count
        model = HFLM(small.engine.model, tokenizer=tokenizer, add_bos_token=special)  # type: ignore[attr-defined]
        assert encoder.tok_encode(text) == model.tok_encode(text)


def test_repeats_of_drawn_text_have_seeds_of_their_own(small: Candidate, tmp_path: Path) -> None:
    folder = own_task(
        tmp_path / "tasks",
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="a",
        repeats=3,
        generation_kwargs={"do_sample": True, "temperature": 0.5, "until": ["\n"], "max_gen_toks": 4},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    task = asking("mine", "exact_match", include=str(folder), limit=2)
    groups = recorded(small, lambda: run("t", task, small, data_root=None, store=tmp_path / "store"))
    assert [request.sampling.seed for request in groups["t/mine"]] == [0, 1, 2] * 2
    assert len(set(groups["t/mine"])) == 6


def test_nothing_reaches_the_terminal_and_nothing_stays_changed(
    small: Candidate, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("lm_eval")
    logger.setLevel(logging.WARNING)
    before = Path.cwd(), datasets.are_progress_bars_disabled()
    run("t", mine(own_task(tmp_path / "tasks"), shots=1), small, data_root=None, store=tmp_path / "store")
    assert capfd.readouterr() == ("", "")
    assert before == (Path.cwd(), datasets.are_progress_bars_disabled())
    assert logger.level == logging.WARNING


def test_a_document_that_cannot_be_asked_is_named(small: Candidate, tmp_path: Path) -> None:
    narrow = dataclasses.replace(small, longest=1)
    with pytest.raises(DataError, match="mine, document 0"):
        run("t", mine(own_task(tmp_path / "tasks")), narrow, data_root=None, store=tmp_path / "store")
    with pytest.raises(ModelError, match="16 new tokens"):
        run("t", WORDS, dataclasses.replace(small, longest=16), data_root=None, store=tmp_path / "store")
    with pytest.raises(DataError, match="fewer shots"):
        run("t", mine(own_task(tmp_path / "tasks"), shots=9), small, data_root=None, store=tmp_path / "store")


def test_data_that_are_not_there_are_named(small: Candidate, tmp_path: Path) -> None:
    gsm8k = asking("gsm8k", "exact_match")
    with pytest.raises(DataError, match="openai/gsm8k is not in data_root"):
        run("t", gsm8k, small, data_root=tmp_path, store=tmp_path / "store")
    with pytest.raises(DataError, match="data_root") as error:
        run("t", gsm8k, small, data_root=None, store=tmp_path / "store")
    assert "openai/gsm8k" in error.value.where


def test_what_a_task_has_not_is_told_before_the_model_is_asked(small: Candidate, tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks")
    with pytest.raises(PlanError, match="it has acc, acc_norm"):
        run("t", asking("mine", "f1", include=str(folder)), small, data_root=None, store=tmp_path / "store")
    with pytest.raises(PlanError, match="takes no examples"):
        run("t", mine(own_task(folder, num_fewshot=0), shots=3), small, data_root=None, store=tmp_path / "store")
    with pytest.raises(PlanError, match="no folder"):
        run("t", mine(tmp_path / "absent"), small, data_root=None, store=tmp_path / "store")


@pytest.mark.slow
def test_an_unknown_task_is_met_with_near_names(small: Candidate, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="arc_challenge"):
        run("t", asking("arc_chalenge", "acc"), small, data_root=None, store=tmp_path / "store")
