"""A run whose stages see sources more than once, or in proportion: what was trained on, and what is written of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ratchet import cli
from ratchet.pairs.table import TokenTable, open_table
from whole_run import TINY, metrics, record, steps

PLAN = (
    TINY
    + """\
  quiz: {generate: {kind: arithmetic_quiz, rows: 12, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [slips, quiz], mix: {weights: {slips: 1, quiz: 2}, until: all_exhausted}, max_length: 96}
  align: {kind: dpo, after: warm, data: {slips: 2.5, quiz: 0.5}, batch: 4, learning_rate: 1e-3, max_length: 96}
cluster: {token_budget: 512, storage: out}
"""
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plan has run to its end."""
    folder = tmp_path_factory.mktemp("mix")
    (folder / "plan.yaml").write_text(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["run", "plan.yaml", "--here"]) == 0
    return folder


def tables(folder: Path, step: str) -> list[TokenTable]:
    data = record(folder, step)["identity"]["data"]
    files = [folder / "out/store/tokens" / data[name]["tokens"] / "train.arrow" for name in ("slips", "quiz")]
    return [open_table([file], [1.0], 0) for file in files]


def seen_rows(folder: Path, step: str) -> list[int]:
    lines = (steps(folder) / step / "ledger.jsonl").read_text().splitlines()
    return [row for line in lines for row in json.loads(line)["rows"]]


@pytest.mark.heavy
def test_an_epoch_has_the_sources_in_the_proportion_of_their_weights(done: Path) -> None:
    slips, quiz = map(len, tables(done, "warm"))
    # Weights 1 and 2: the epoch is as long as it takes to see each pair once.
    wanted = {"slips": slips, "quiz": 2 * slips} if 2 * slips >= quiz else {"slips": round(quiz / 2), "quiz": quiz}
    counts = record(done, "warm")["counts"]
    assert counts["sources"] == wanted and counts["pairs"] == sum(wanted.values())
    assert sorted(seen_rows(done, "warm")) == list(range(counts["pairs"]))


@pytest.mark.heavy
def test_pairs_are_trained_as_often_as_their_share_and_scored_once(done: Path) -> None:
    slips, quiz = tables(done, "align")
    counts = record(done, "align")["counts"]
    assert counts["sources"] == {"slips": round(2.5 * len(slips)), "quiz": round(0.5 * len(quiz))}
    files = [table.files[0] for table in (slips, quiz)]
    table = open_table(files, [2.5, 0.5], 0)
    assert Counter(Counter(table.pair_ids().to_pylist()).values())[3] == round(0.5 * len(slips))
    assert sorted(seen_rows(done, "align")) == list(range(len(table)))
    scored = record(done, "align")["facts"]["reference"]["pairs"]
    assert scored == len(slips) + len(quiz) + sum(
        len(open_table([file.with_name("heldout.arrow")], [1.0], 0)) for file in files
    )
    assert metrics(done, "align")[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.heavy
def test_show_names_the_counts_that_the_record_has(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    assert cli.main(["show", "plan.yaml"]) == 0
    told = capsys.readouterr().out
    for step in ("warm", "align"):
        counts = record(done, step)["counts"]["sources"]
        assert f"on slips ({counts['slips']}) + quiz ({counts['quiz']})" in told
