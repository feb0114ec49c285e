"""What `--dry-run` says of sweeps whose points are chosen as they go: what drawn points in their place would share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratchet.tune.definition import open_sweep
from ratchet.tune.dry_run import dry_run

PLAN = """\
name: plan
model: {scratch: {tokenizer_from: [sums], max_positions: 1024}}
data:
  sums: {generate: {kind: arithmetic, rows: 100}}
  more: {generate: {kind: arithmetic, rows: 100, seed: 1}}
stages:
  warm: {kind: sft, data: [sums]}
  align: {kind: dpo, data: [sums, more], steps: {order: listed}, after: warm}
"""
BETA = "stages.align.beta: {loguniform: [0.03, 3.0]}"
ORDER = "stages.align.data: {permutation: [sums, more]}"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(keys: str, rest: str, plan: str = PLAN) -> list[str]:
    Path("plan.yaml").write_text(plan)
    Path("space.yaml").write_text(f"name: x\nkeys:\n  {keys}\nobjectives: {{align/heldout/accuracy: max}}\n{rest}\n")
    return dry_run(open_sweep(Path("plan.yaml"), Path("space.yaml"))).splitlines()


def counts(lines: list[str]) -> dict[str, list[str]]:
    """Return the cells of the rows that count models."""
    return {
        name: line.removeprefix(name).split()
        for line in lines
        for name in ("stages", "reference passes")
        if line.startswith(name)
    }


def test_what_a_search_over_beta_shares_is_told_beforehand() -> None:
    whole = PLAN.replace("data: [sums, more], steps: {order: listed}", "data: [sums]")
    lines = said(BETA, "search: {by: tpe}\nbudget: {trials: 12}", whole)
    assert lines[0].split() == ["12", "trials", "unshared", "shared", "saved"]
    assert counts(lines) == {"stages": ["24", "≈", "13", "46%"], "reference passes": ["12", "≈", "1", "92%"]}
    assert lines[5] == "points are chosen as the sweep goes: these were drawn in their place"


def test_points_that_are_drawn_are_distinct_and_have_their_seeds() -> None:
    """Both orders, each with two seeds: 4 × (1 warm + 2 steps), of which warm is one and no order begins as another."""
    lines = said(ORDER, "search: {by: tpe}\nbudget: {trials: 40}\nseeds: [1, 2]")
    assert counts(lines)["stages"] == ["12", "≈", "9", "25%"]
    cut = said(ORDER, "search: {by: tpe}\nbudget: {trials: 3}\nseeds: [1, 2]")
    assert counts(cut)["stages"] == ["9", "≈", "7", "22%"]


def test_of_many_trials_some_are_drawn_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.tune.dry_run._MOST_DRAWN", 5)
    lines = said(BETA, "search: {by: tpe}\nbudget: {trials: 2000}")
    assert lines[0].startswith("5 trials ")
    assert lines[5] == (
        "points are chosen as the sweep goes: these were drawn in their place, for 5 of 2,000 trials; more share more"
    )


def test_where_a_model_decides_an_order_counts_are_at_most() -> None:
    lines = said(BETA, "search: {by: tpe}\nbudget: {trials: 3}", PLAN.replace("listed", "easy_to_hard"))
    assert counts(lines)["stages"][1] == "≤"
    assert any(line.startswith("at most: models decide") for line in lines)


@pytest.mark.parametrize("by", ["tpe", "random"])
def test_a_sweep_that_only_hours_end_is_told_by_one_trial(by: str) -> None:
    lines = said(BETA, f"search: {{by: {by}}}\nbudget: {{hours: 2}}")
    assert lines[0].split() == ["each", "trial"]
    assert "points are chosen as the sweep goes, for 2 hours: what they share is known then" in lines


def test_points_that_are_known_are_told_without_words() -> None:
    lines: Any = said(BETA, "search: {by: random}\nbudget: {trials: 4}")
    assert counts(lines)["stages"] == ["12", "9", "25%"]
    assert not any("drawn" in line for line in lines)
