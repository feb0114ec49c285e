"""The six tasks of the leaderboard, offline, on real rows and with a real small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation_run import by_task, kept, scores_of, timeless, units
from mirror import make_mirror
from tests.conftest import ROOT
from whole_run import ratchet

pytestmark = pytest.mark.ray
SIX = ("arc", "hellaswag", "mmlu", "truthfulqa", "winogrande", "gsm8k")


@pytest.mark.slow
def test_the_six_leaderboard_tasks_are_the_same_from_one_process_and_from_two(
    stories: Path, shared: Path, tmp_path: Path
) -> None:
    make_mirror(shared, tmp_path / "mirror", rows=2)
    suite = str(ROOT / "eval" / "open_llm_leaderboard.yaml")
    for actors in ("1", "2"):
        found = ratchet(
            tmp_path, "evaluate", f"tales={stories}", suite, "--set", "data_root=mirror", "--actors", actors,
            "--storage", actors,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
    one, two = (scores_of(tmp_path / actors) for actors in ("1", "2"))
    assert timeless(one) == timeless(two)
    assert kept(tmp_path / "1") == kept(tmp_path / "2")
    assert sorted(units(tmp_path / "1")) == sorted(units(tmp_path / "2"))

    found_by = by_task(one, "tales")
    assert tuple(found_by) == SIX
    value = {task: found_by[task]["scores"][0]["value"] for task in SIX}
    error = {task: found_by[task]["scores"][0]["standard_error"] for task in SIX}
    averages = {row["name"]: row for row in one["averages"]}
    for name, of in (("H4", SIX[:4]), ("H6", SIX)):
        assert averages[name]["value"] == pytest.approx(sum(value[task] for task in of) / len(of))
        expected = sum(error[task] ** 2 for task in of) ** 0.5 / len(of)
        assert averages[name]["standard_error"] == pytest.approx(expected)
    mmlu = {score["name"]: score for score in found_by["mmlu"]["scores"] if not score["group"]}
    subjects = [score for score in found_by["mmlu"]["scores"] if score["group"]]
    assert found_by["mmlu"]["settings"]["headline_mean"] == "groups"
    assert sum("acc" in name for name in mmlu) >= 2, "MMLU's mean over subjects and over questions"
    assert subjects
