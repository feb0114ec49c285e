"""wandb's own sweep and agent, with a stand-in of the service, drive trials of a real plan."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import sweep_run
import whole_run
from ratchet.track.jsonl import read_metrics
from wandb_service import ENTITY, PROJECT, SWEEP, service, wandb_says

pytestmark = pytest.mark.slow

BETAS = (0.1, 1.0)
SPACE = """\
name: betas
keys:
  stages.align.beta: {grid: [0.1, 1.0]}
objectives: {align/heldout/margin: max}
"""


def test_an_agent_drives_whole_trials_that_share_their_stages(tmp_path: Path) -> None:
    track = f"\ntrack: {{wandb: {{project: {PROJECT}, entity: {ENTITY}}}}}\n"
    sweep_run.write_files(tmp_path, SPACE, sweep_run.SMALL + track)
    written = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml", "--wandb-config")
    (tmp_path / "sweep.yaml").write_text(written.stdout)
    with service() as wandb:
        wandb.trials = [{"stages.align.beta": beta} for beta in BETAS]
        own = {key: value for key, value in whole_run.environment().items() if not key.startswith("WANDB")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**own, **wandb.environment(tmp_path), "PATH": path}
        wandb_says(tmp_path, environment, "sweep", "sweep.yaml")
        said = wandb_says(tmp_path, environment, "agent", f"{ENTITY}/{PROJECT}/{SWEEP}", seconds=900)

    trials = sweep_run.trials(tmp_path, "small-betas")
    assert [one["status"] for one in trials.values()] == ["finished"] * 2, said
    made = sweep_run.made_steps(tmp_path)
    assert sorted(record["facts"]["step"] for record in made.values()) == ["align", "align", "warm"]
    runs = {one["point"]["stages.align.beta"]: (name, one) for name, one in trials.items()}
    for number, beta in enumerate(BETAS, 1):
        name, trial = runs[beta]
        assert trial["wandb"] == f"{PROJECT}/run{number}"
        config = {key: one["value"] for key, one in json.loads(wandb.runs[f"run{number}"]["config"]).items()}
        assert config["stages.align.beta"] == config["sweep/point/stages.align.beta"] == beta
        summary, metric = wandb.summary[f"run{number}"], "align/heldout/margin"
        assert summary[metric] == trial["metrics"][metric]["value"]
        assert summary["status"] == "finished"
        told = [line for line in wandb.history[f"run{number}"].values() if "align/step" in line]
        lines = read_metrics(tmp_path / "out/sweeps/small-betas/trials" / name / "steps/align/metrics.jsonl")
        assert [line["align/loss"] for line in told] == [line["loss"] for line in lines]
    document = json.loads((tmp_path / "out/sweeps/small-betas/sweep.json").read_text())
    assert len(document["points"]) == 2 and document["best"]
