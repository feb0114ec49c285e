"""A sweep on Ray: what is shared, what fails, what is written, and that a second call makes nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sweep_run
import whole_run
from ratchet.plan.load import load_plan

pytestmark = pytest.mark.ray

RATES = """\
name: rates
keys:
  stages.align.learning_rate: {grid: [RATES]}
objectives: {align/heldout/accuracy: max}
at_once: 2
"""


@pytest.mark.slow
def test_a_plan_that_does_not_fit_the_cluster_is_told_before_any_trial(tmp_path: Path) -> None:
    large = sweep_run.SMALL.replace("storage: out", "storage: out, workers: 64, ray: {num_cpus: 2}")
    sweep_run.write_files(tmp_path, RATES.replace("RATES", "1e-3, 1e30"), large)
    done = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml")
    assert done.returncode == 69
    assert "the plan needs 64 CPUs and Ray has 2" in done.stderr
    assert not list((tmp_path / "out/sweeps/small-rates").glob("trials/*"))


@pytest.mark.parametrize("rates", ["1e-3, 1e30", pytest.param("1e-3, 2e-3, 1e30", marks=pytest.mark.slow)])
def test_trials_share_what_they_have_in_common_and_one_that_fails_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: str
) -> None:
    good = rates.count(",")
    suite = "evaluate: [{suite: suite.yaml, models: final}]\n"
    sweep_run.write_files(tmp_path, RATES.replace("RATES", rates), sweep_run.SMALL + suite)
    (tmp_path / "suite.yaml").write_text(whole_run.SUITE)
    done = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml")
    assert done.returncode == 0, done.stderr
    trials = sweep_run.trials(tmp_path, "small-rates")
    assert sorted(one["status"] for one in trials.values()) == ["failed", *["finished"] * good]
    failed = next(one for one in trials.values() if one["status"] == "failed")
    assert failed["point"] == {"stages.align.learning_rate": 1e30}
    assert failed["reason"]["kind"] == "TrainingError"
    assert f"failed: {failed['reason']['what']}" in done.stderr

    for one in trials.values():
        score = one["metrics"].get("align/score/sums", {}).get("value")
        assert (score is not None) == (one["status"] == "finished")

    made = sweep_run.made_steps(tmp_path)
    assert sorted(record["facts"]["step"] for record in made.values()) == [*["align"] * good, "warm"]
    said = [one.split(": ")[1] for one in sweep_run.trained(tmp_path, "small-rates")]
    assert sorted(said) == [*["align"] * good, "warm"]
    references = {one for trial in trials.values() for step in trial["steps"] for one in step["references"]}
    assert len(references) == 2  # one pass over the pairs to train on, one over those held out
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/store/logps").glob("*/record.json")]
    assert sweep_run.pairs_scored(tmp_path, "small-rates") == sum(one["counts"]["pairs"] for one in records)
    assert not [one for one in made if (tmp_path / "out/store/steps" / one / "checkpoints").exists()]

    document = json.loads((tmp_path / "out/sweeps/small-rates/sweep.json").read_text())
    finished = {name: one for name, one in trials.items() if one["status"] == "finished"}
    values = {one["point_id"]: one["metrics"]["align/heldout/accuracy"]["value"] for one in finished.values()}
    if len(set(values.values())) == good:
        assert (document["best"], document["tied"]) == (max(values, key=values.__getitem__), [])
    else:
        assert document["best"] is None and sorted(document["tied"]) == sorted(values)
        assert "tie: 2 points came to the same" in done.stderr
    assert document["work"]["stages"] == 1 + good
    assert (tmp_path / "out/sweeps/small-rates/sweep.html").exists()
    if good == 1:
        return
    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/sweeps/small-rates/trials").glob("*/trial.json")
    }
    chosen = document["best"] or document["tied"][0]
    again = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml", "--promote", chosen)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    monkeypatch.chdir(tmp_path)
    promoted = load_plan(Path("jobs/small-rates.yaml"))
    point = next(one for one in document["points"] if one["id"] == chosen)
    assert promoted.stages["align"].learning_rate == point["values"]["stages.align.learning_rate"]

    run = whole_run.ratchet(tmp_path, "run", "jobs/small-rates.yaml")  # the winner's models are in the store
    assert run.returncode == 0, run.stderr
    assert "align                is there already" in run.stderr
    assert len(sweep_run.made_steps(tmp_path)) == 3
