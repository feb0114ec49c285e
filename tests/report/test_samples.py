"""Answers before and after: which prompts are asked, and how page, Markdown and terminal show what was written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ratchet.documents.heldout import SampledPrompt, WrittenAnswer
from ratchet.documents.report import read_report
from ratchet.model.scratch import make_scratch
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.samples import LIMIT, PROMPTS, ChosenPrompt, all_answered, chosen_prompts, sampled_models
from ratchet.plan.schema import Plan
from ratchet.reference.models import Model
from ratchet.report.answers import sample_lines
from ratchet.report.page import write_report
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from report_page import Page
from tests.pairs.test_tokens_flow import some_pairs, write_pairs
from tests.report.test_diagnoses import document, sample
from token_pairs import SPEC, TEXTS, pair

PLAN = """
name: tiny
model: {name: some/model}
data: {a: {path: a.jsonl}, b: {path: b.jsonl}}
stages:
  warm: {kind: sft, data: [a], max_length: 128}
  align: {kind: dpo, after: warm, data: [a, b], max_length: 128, steps: {by: source}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, made)
    return made


def run_of(root: Path, model: Path, heldout: dict[str, list[Any]]) -> Run:
    """Return a run whose sources are read and tokenised."""
    root.mkdir(exist_ok=True)
    run = Run(Plan.model_validate(yaml.safe_load(PLAN)), Layout(root), Console(), False, None)
    for number, (name, pairs) in enumerate(heldout.items()):
        folder = write_pairs(root / name, some_pairs(9, start=100 * (number + 1)), pairs)
        arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
        fp, tokens = prepare_tokens(folder, name, model, run.layout, **arguments)
        run.pairs[name] = (name, folder)
        run.tokens[name, 128, "drop"] = Tokens(name, fp, tokens)
    return run


def test_prompts_are_held_out_different_from_all_sources_and_the_same_every_time(tmp_path: Path, model: Path) -> None:
    twins = [pair("Which one?", "This.", f"That {n}.") for n in range(4)]
    held = {"a": [*some_pairs(7), *twins], "b": [pair("Only one?", "Yes.", "No.")]}
    found = chosen_prompts(run_of(tmp_path / "one", model, held))
    assert len(found) == PROMPTS == 5 and {one.split for one in found} == {"heldout"}
    assert sorted(one.source for one in found) == ["a"] * 4 + ["b"]
    assert [one.source for one in found][:2] == ["a", "b"], "sources take turns"
    assert len({one.text for one in found}) == 5
    tokenizer = load_tokenizer(model, None)
    texts = {one.prompt[-1].content: one.chosen.content for pairs in held.values() for one in pairs}
    for one in found:
        assert one.chosen == texts[one.text] and one.text in tokenizer.decode(one.ids)
        assert one.chosen_tokens == len(tokenizer(one.chosen)["input_ids"]) + 1, "with the end of its turn"
    again = chosen_prompts(run_of(tmp_path / "two", model, {"a": list(reversed(held["a"])), "b": held["b"]}))
    assert [one.text for one in again] == [one.text for one in found], "the order of rows decides nothing"


def test_where_nothing_is_held_out_prompts_of_training_are_asked(tmp_path: Path, model: Path) -> None:
    found = chosen_prompts(run_of(tmp_path, model, {"a": [], "b": []}))
    assert len(found) == 5 and {one.split for one in found} == {"train"}


def test_the_start_model_and_what_each_stage_ends_with_answer(tmp_path: Path, model: Path) -> None:
    run = run_of(tmp_path, model, {"a": [], "b": []})
    for name in ("base", "warm", "align.1", "align.2"):
        run.models[name] = Model(name, model, name, name, "float32")
    assert sampled_models(run) == ["base", "warm", "align.2"]
    scratch = run.plan.model_copy(update={"model": run.plan.model.model_copy(update={"scratch": SPEC})})
    assert sampled_models(dataclasses.replace(run, plan=scratch)) == ["base", "warm", "align.2"]


def test_a_run_is_to_ask_again_where_a_model_has_not_answered(tmp_path: Path, model: Path) -> None:
    run = run_of(tmp_path, model, {"a": [], "b": []})
    run.models["base"] = run.models["warm"] = Model("base", model, "base", "base", "float32")
    answer = WrittenAnswer(model="base", text="A text.", tokens=3, ended=True, record="store/answers/one.jsonl")
    prompt = SampledPrompt(
        source="a", split="train", chosen="Yes.", chosen_tokens=2, limit=128, prompt="One?", answers=(answer, answer)
    )
    assert all_answered(run, (prompt,)) and not all_answered(run, (dataclasses.replace(prompt, answers=(answer,)),))
    assert not all_answered(run, ()), "no model could be asked"
    nothing = run.plan.model_copy(update={"stages": {}})
    assert all_answered(dataclasses.replace(run, plan=nothing), ()), "there is nothing to ask"


@pytest.mark.parametrize(("chosen", "limit"), [(12, 128), (64, 128), (65, 130), (256, 512), (900, 512)])
def test_an_answer_may_be_twice_as_long_as_the_chosen_one(chosen: int, limit: int) -> None:
    assert ChosenPrompt("a", "heldout", np.arange(3, dtype=np.int32), "Hi.", "Yes.", chosen).limit == limit


def test_answers_stand_at_the_head_of_the_page_and_whole_below(tmp_path: Path) -> None:
    long = "It is a long story, told in full. " + "x" * 300
    some = [sample(f"Before, {n}.", long if n == 4 else f"After <b>{n}</b>.") for n in range(5)]
    html, report = write_report(tmp_path, read_report(document({}, samples=some)))
    text = Page(html.read_text()).text
    head, _, rest = text.partition("Answers, before and after")
    assert "Before, 2." in head and "Before, 3." not in head, "three at the head"
    assert all(f"Before, {n}." in rest and (n == 4 or f"After <b>{n}</b>." in rest) for n in range(5))
    assert "x" * 300 in rest and "Try the lowest." in rest
    assert "<b>2</b>" not in html.read_text(), "what a model writes is no HTML"
    assert f"Greedy answers of at most {LIMIT} tokens to held-out prompts" in rest
    markdown = (tmp_path / "report.md").read_text()
    assert "Before, 4." in markdown and "<b>" not in markdown
    assert len(json.loads((tmp_path / "report.json").read_text())["samples"]) == 5
    lines = list(sample_lines(report))
    assert [line.split()[0] for line in lines] == ["asked", "base", "align"] * 2
    assert all("\n" not in line and len(line) < 140 for line in lines)


def test_what_a_model_writes_moves_no_cursor() -> None:
    wild = sample("Be\x1b[2Jfore.", "A\x07f\x9bt\r\ner\u202e.")
    said = [line.split(maxsplit=1)[1] for line in sample_lines(read_report(document({}, samples=[wild])))]
    assert said[1:] == ["Be [2Jfore.", "A f t er ."]


def test_a_bad_answer_is_marked_and_an_empty_one_is_said(tmp_path: Path) -> None:
    some = [sample("Before.", " about" * 90), sample("Before.", " ")]
    html, _ = write_report(tmp_path, read_report(document({}, samples=some)))
    text = Page(html.read_text()).text
    assert "repeats itself" in text and "is empty" in text
    assert any("(nothing)" in line for line in sample_lines(read_report(document({}, samples=some))))
