"""A run that takes the less trodden ways: parts by count, a start that is not the reference, two workers, ZeRO 3."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import template_text
from ratchet.pairs.table import open_table
from ratchet.plan.model import Scratch
from whole_run import metrics, ratchet, record, steps, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PLAN = """\
name: tiny
model: {path: models/first, chat_template: chat.jinja}
data:
  slips:
    generate: {kind: arithmetic, rows: 100, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    max_rows: 48
    held_out: 0.2
  quiz: {generate: {kind: arithmetic_quiz, rows: 40, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  flat:
    kind: ipo
    data: {slips: 1.0, quiz: 0.5}
    steps: {by: count, count: 2, order: easy_to_hard, target: start}
    batch: 16
    learning_rate: 1e-3
    max_length: 52
    overlong: trim_prompt
  plain:
    kind: dpo
    data: [quiz]
    reference: {path: models/second}
    batch: 16
    learning_rate: 1e-3
    max_length: 64
  alone:
    kind: cpo
    data: [quiz]
    batch: 16
    learning_rate: 1e-3
    max_length: 64
cluster: {workers: 2, token_budget: 400, storage: out, deepspeed: {zero: 3}}
"""
STEPS = ("flat.1", "flat.2", "plain", "alone")
SMALL = {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 64}
SHARES = {"slips": 1.0, "quiz": 0.5}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plan has run to its end, from models that lay there before."""
    folder = tmp_path_factory.mktemp("ways")
    texts = [f"What is {a} + {b}? The answer is {a + b}." for a in range(20) for b in range(20)]
    for name, seed in (("first", 0), ("second", 1)):
        spec = Scratch(tokenizer_from=("slips",), max_positions=128, seed=seed, **SMALL)
        make_scratch(spec, texts, folder / "models" / name)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "chat.jinja").write_text(template_text("plain"))  # a path from here: workers run elsewhere
    found = ratchet(folder, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr
    return folder


def test_the_template_of_the_plan_goes_along_with_each_model(done: Path) -> None:
    for step in STEPS:
        assert (steps(done) / step / "model/chat_template.jinja").read_text() == template_text("plain")


def test_the_parts_are_the_table_and_the_easier_half_comes_first(done: Path) -> None:
    data = record(done, "flat.1")["identity"]["data"]
    assert {name: one["share"] for name, one in data.items()} == SHARES
    files = [done / "out/store/tokens" / data[name]["tokens"] / "train.arrow" for name in SHARES]
    table = open_table(files, list(SHARES.values()), 0)
    whole = open_table(files, [1.0, 1.0], 0)
    assert 0 < (table.file_of_N == 1).sum() < (whole.file_of_N == 1).sum()
    first, second = (np.load(steps(done) / step / "rows.npy").tolist() for step in ("flat.1", "flat.2"))
    assert not set(first) & set(second)
    assert sorted(first + second) == list(range(len(table)))
    assert abs(len(first) - len(second)) <= 1
    found = json.loads((done / "out/runs/tiny/orders/flat.json").read_text())["difficulties"]
    easier, harder, *sources = found
    assert easier["accuracy"] > harder["accuracy"]
    assert [one["chunk"] for one in sources] == list(SHARES)
    for step, rows in (("flat.1", first), ("flat.2", second)):
        lines = (steps(done) / step / "ledger.jsonl").read_text().splitlines()
        seen = [row for line in lines for row in json.loads(line)["rows"]]
        assert sorted(seen) == list(range(len(rows)))  # the ledger counts within the part
        assert record(done, step)["counts"]["pairs"] == len(rows)


def test_two_workers_score_the_next_part_whole_though_each_trained_a_part_of_the_weights(done: Path) -> None:
    scored = {step: record(done, step)["facts"]["training"]["scored"] for step in STEPS}
    assert [one["why_not"] for one in scored.values()] == [None] * len(STEPS)
    assert record(done, "flat.2")["facts"]["reference"]["in_training"]
    evaluated = scored["flat.2"]["pairs"]  # no step has it as its reference
    assert scored["flat.1"]["pairs"] == evaluated + record(done, "flat.2")["facts"]["reference"]["pairs"]


def test_long_prompts_are_trimmed_and_rows_sampled(done: Path) -> None:
    sources = {one["name"]: one for one in json.loads((done / "out/runs/tiny/report.json").read_text())["sources"]}
    assert sources["slips"]["kept"] <= 48
    data = record(done, "flat.1")["identity"]["data"]
    assert sum(one["trimmed"] for one in sources["slips"]["tokens"]) > 0
    lengths = open_table([done / "out/store/tokens" / data["slips"]["tokens"] / "train.arrow"], [1.0], 0).lengths_N3
    longest = lengths[:, 0] + lengths[:, 1:].max(axis=1)
    assert longest.max() == 52  # a trimmed pair fills the length to the token


def test_part_2_starts_at_the_base_and_refers_to_part_1(done: Path) -> None:
    base = digest_model(done / "models/first")
    first, second = record(done, "flat.1"), record(done, "flat.2")
    assert first["inputs"] == {"start": base, "reference": base}
    assert second["inputs"] == {"start": base, "reference": first["facts"]["weights"]}
    assert first["facts"]["weights"] != base
    # IPO where policy and reference are one: (0 − 1/(2β))² with β = 0.1. Part 2 starts elsewhere.
    assert metrics(done, "flat.1")[0]["loss"] == pytest.approx(25, rel=1e-3)
    assert abs(metrics(done, "flat.2")[0]["loss"] - 25) > 1e-3


def test_the_reference_from_a_folder_is_the_one_that_is_recorded(done: Path) -> None:
    inputs = record(done, "plain")["inputs"]
    assert inputs == {"start": digest_model(done / "models/first"), "reference": digest_model(done / "models/second")}
    assert inputs["start"] != inputs["reference"]
    assert all(math.isfinite(line["loss"]) for line in metrics(done, "plain"))


def test_a_loss_without_a_reference_has_none_scored_and_is_judged_by_its_own_reward(done: Path) -> None:
    made = record(done, "alone")
    assert made["inputs"] == {"start": digest_model(done / "models/first")}
    assert made["identity"]["reference"] is made["facts"]["reference"] is made["facts"]["reference_model"] is None
    assert "logps/chosen_delta" not in metrics(done, "alone")[0]
    scores = json.loads((done / "out/runs/tiny/scores/alone.json").read_text())
    (row,) = [one for one in scores["heldout"] if one["source"] == "quiz"]
    (own,) = [one for one in scores["gamma"] if one["split"] == "heldout" and one["source"] == "quiz"]
    # its reward over β is its own log-probability, so that its margin is γ, whatever the start model says
    assert row["against"] == "base" and row["margin"]["mean"] == pytest.approx(own["mean"], rel=1e-9)
    moved = row["chosen_delta"]["mean"] - row["rejected_delta"]["mean"]
    assert abs(row["margin"]["mean"] - moved) > 1e-3


def test_fresh_puts_the_steps_aside_and_makes_the_same_again(done: Path) -> None:
    before = {step: weights(done, step) for step in STEPS}
    inodes = {step: (steps(done) / step).stat().st_ino for step in STEPS}
    again = ratchet(done, "run", "plan.yaml", "--fresh")
    assert again.returncode == 0, again.stderr
    aside = {path.stat().st_ino: path for path in (done / "out/runs/tiny/set-aside").iterdir()}
    for step in STEPS:
        assert aside[inodes[step]].name.startswith(f"{step}-")
        assert (aside[inodes[step]] / "record.json").exists()
        assert weights(done, step) == before[step], step
