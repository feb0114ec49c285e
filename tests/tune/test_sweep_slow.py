"""Whole sweeps: what is computed once, what a kill costs, and what wandb is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sweep_run
import whole_run
from ratchet.reference.processes import still_there
from ratchet.track.jsonl import read_metrics
from track_example import wandb_run

pytestmark = pytest.mark.slow

OFFLINE = "\ntrack: {wandb: {project: ratchet-tests, mode: offline}}\n"


def test_three_orders_of_three_sources_train_each_prefix_once(tmp_path: Path) -> None:
    """All orders of T = 3 sources: Σ T!/(T−k)! = 3 + 6 + 6 = 15 steps in place of 18, and as many reference passes."""
    sweep_run.write_files(tmp_path, sweep_run.ORDERS, sweep_run.PLAN + OFFLINE)
    forecast = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml", "--dry-run").stdout
    assert [line.split()[1:3] for line in forecast.splitlines() if line.startswith("stages")] == [["24", "16"]]
    assert [line.split()[2:4] for line in forecast.splitlines() if line.startswith("reference passes")] == [
        ["18", "15"]
    ]

    done = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml", seconds=2400)
    assert done.returncode == 0, done.stderr
    trials = sweep_run.trials(tmp_path, "tiny-orders")
    assert [one["status"] for one in trials.values()] == ["finished"] * 6
    made = sweep_run.made_steps(tmp_path)
    names = [record["facts"]["step"] for record in made.values()]
    assert {name: names.count(name) for name in set(names)} == {"warm": 1, "align.1": 3, "align.2": 6, "align.3": 6}
    assert len(sweep_run.trained(tmp_path, "tiny-orders")) == 16  # by what each process says that it made
    passes = {
        (one, json.loads((tmp_path / "out/store/logps" / one / "record.json").read_text())["identity"]["split"])
        for trial in trials.values()
        for step in trial["steps"]
        for one in step["references"]
    }
    assert sum(split == "train" for _, split in passes) == 15
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/store/logps").glob("*/record.json")]
    assert sweep_run.pairs_scored(tmp_path, "tiny-orders") == sum(one["counts"]["pairs"] for one in records)

    document = json.loads((tmp_path / "out/sweeps/tiny-orders/sweep.json").read_text())
    assert (document["work"]["stages"], document["work"]["stages_unshared"]) == (16, 24)
    assert len(document["stages"]) == 16
    marked = [mark for point in document["points"] for mark in point["marks"]]
    assert sorted(marked) == ["easy to hard", "random"]
    easy = next(point for point in document["points"] if "easy to hard" in point["marks"])
    check_order(tmp_path, easy["values"]["stages.align.data"])
    check_wandb(tmp_path / "out/sweeps/tiny-orders/trials", trials)


def check_order(folder: Path, easy: list[str]) -> None:
    """A plain run with `order: easy_to_hard` takes the order that the page marks, and finds its models made."""
    (folder / "easy.yaml").write_text((folder / "plan.yaml").read_text().replace("name: tiny", "name: easy"))
    run = whole_run.ratchet(folder, "run", "easy.yaml", "--set", "stages.align.steps.order=easy_to_hard")
    assert run.returncode == 0, run.stderr
    order = json.loads((folder / "out/runs/easy/orders/align.json").read_text())
    assert order["chunks"] == easy


def check_wandb(folder: Path, trials: dict[str, dict[str, Any]]) -> None:
    """Each trial is one run, whose offline file has every line of every step, also of those that another trial made."""
    for name, trial in trials.items():
        ids, history, run = wandb_run(folder / name)
        assert ids == {trial["wandb"].partition("/")[2]}
        assert (run.run_group, run.job_type, run.display_name) == ("tiny-orders", "trial", name)
        wanted: dict[int, dict[str, Any]] = {}
        for step in trial["steps"]:
            offset = max(wanted, default=0)
            for line in read_metrics(folder / name / "steps" / step["name"] / "metrics.jsonl"):
                wanted[offset + line["step"]] = {f"{step['name']}/{key}": value for key, value in line.items()}
        steps = tuple(f"{step['name']}/" for step in trial["steps"])
        found = {n: {key: value for key, value in line.items() if key.startswith(steps)} for n, line in history.items()}
        assert {n: line for n, line in found.items() if line} == wanted


GRID = """\
name: grid
keys:
  stages.align.beta: {grid: [0.1, 0.3, 1.0]}
objectives: {align/heldout/margin: max}
at_once: 1
"""


def test_a_killed_driver_goes_on_with_the_same_trials_and_the_same_best(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("whole", "cut")}
    for folder in folders.values():
        folder.mkdir()
        sweep_run.write_files(folder, GRID, sweep_run.SMALL)
    whole = whole_run.ratchet(folders["whole"], "sweep", "plan.yaml", "space.yaml")
    assert whole.returncode == 0, whole.stderr

    cut = folders["cut"]
    place = cut / "out/sweeps/small-grid/trials"
    command = whole_run.command("sweep", "plan.yaml", "space.yaml")
    run = subprocess.Popen(
        command,
        cwd=cut,
        env=whole_run.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with run:
        whole_run.until(lambda: len(list(place.glob("*/point.json"))) == 2, run)
        below = whole_run.processes_below(run.pid)
        os.kill(run.pid, signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in place.glob("*/trial.json")}
    assert len(before) == 1
    assert not still_there([pid for pid, _ in below], 120)
    again = whole_run.ratchet(cut, "sweep", "plan.yaml", "space.yaml")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before

    found = {name: sweep_run.trials(folder, "small-grid") for name, folder in folders.items()}
    assert {name: [one["status"] for one in trials.values()] for name, trials in found.items()} == {
        name: ["finished"] * 3 for name in folders
    }
    metric = "align/heldout/margin"
    values = [{trial: one["metrics"][metric] for trial, one in trials.items()} for trials in found.values()]
    assert values[0] == values[1]
    documents = [json.loads((folder / "out/sweeps/small-grid/sweep.json").read_text()) for folder in folders.values()]
    assert documents[0]["best"] == documents[1]["best"] is not None
    assert len(sweep_run.made_steps(cut)) == 4


def test_two_trials_racing_for_one_stage_make_it_once(tmp_path: Path) -> None:
    """Two processes, each with a Ray of its own, want `warm` and the same scores at the same moment."""
    sweep_run.write_files(tmp_path, GRID, sweep_run.SMALL)
    runs = [
        subprocess.Popen(
            whole_run.command("sweep", "plan.yaml", "space.yaml", "--trial", f"stages.align.beta={beta}"),
            cwd=tmp_path,
            env=whole_run.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for beta in ("0.1", "1.0")
    ]
    for run in runs:
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said
    assert [one["status"] for one in sweep_run.trials(tmp_path, "small-grid").values()] == ["finished"] * 2
    made = sweep_run.made_steps(tmp_path)
    assert sorted(record["facts"]["step"] for record in made.values()) == ["align", "align", "warm"]
    assert len(sweep_run.trained(tmp_path, "small-grid")) == 3
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/store/logps").glob("*/record.json")]
    assert sweep_run.pairs_scored(tmp_path, "small-grid") == sum(one["counts"]["pairs"] for one in records)
