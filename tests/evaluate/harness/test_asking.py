"""How lm-eval's tasks are asked: windows, templates, drawn texts, beginnings, and what cannot be asked."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import datasets
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from harness_example import WORDS, asking, by_lm_eval, mine, own_task, recorded
from plain_engine import run
from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.asking import Encoder, sampling_of
from ratchet.evaluate.harness.definitions import quiet
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.tokenizer import load_tokenizer
from token_pairs import CHATML

pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.heavy
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
    with raises("model.no-template"):
        tokenizer.chat_template = None
        run("t", task, chat, data_root=None, store=tmp_path / "store")


def test_requests_of_another_day_are_others_and_lie_beside_the_first(small: Candidate, tmp_path: Path) -> None:
    dated = "{{ 'Today is ' + strftime_now('%Y-%m-%d') + '\\n' }}" + CHATML
    folder = own_task(tmp_path / "tasks", training_split="test", fewshot_split="test")
    task = mine(folder, chat_template=True, shots=0, limit=1)
    texts = []
    for day in ("2024-07-26", "2026-11-30", "2024-07-26"):
        tokenizer = load_tokenizer(Path(small.tokenizer.name_or_path), ChatTemplate(dated, day=day))
        chat = dataclasses.replace(small, tokenizer=tokenizer, longest=4000)
        groups = recorded(chat, lambda chat=chat: run("t", task, chat, data_root=None, store=tmp_path / "store"))
        texts.append(tokenizer.decode(groups["t/mine"][0].context))
    assert "2024-07-26" in texts[0] and "2026-11-30" in texts[1] and texts[2] == texts[0]
    assert len(list((tmp_path / "store" / "requests").glob("mine-*"))) == 2


def test_text_is_drawn_as_the_task_says() -> None:
    assert sampling_of({"until": ["\n", ""]}).stop == ("\n",)
    assert sampling_of({"until": "x", "max_gen_toks": 7}).max_tokens == 7
    assert sampling_of({"until": []}).max_tokens == 256
    drawn = sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (drawn.temperature, drawn.top_p) == (0.7, 0.9)
    with quiet():
        assert sampling_of({"do_sample": False, "temperature": 0.7}).temperature == 0.0
    with raises("plan.task") as caught:
        sampling_of({"num_beams": 4})
    assert "num_beams" in caught.value.what


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
    with raises("data") as caught:
        run("t", mine(own_task(tmp_path / "tasks")), narrow, data_root=None, store=tmp_path / "store")
    assert caught.value.where == "mine, document 0"
    with raises("model"):
        run("t", WORDS, dataclasses.replace(small, longest=16), data_root=None, store=tmp_path / "store")
    with raises("data") as caught:
        run("t", mine(own_task(tmp_path / "tasks"), shots=9), small, data_root=None, store=tmp_path / "store")
    assert "fewer shots" in caught.value.fix
