"""The real `wandb sweep` and `wandb agent`, with a stand-in of the service, driving trials of a space."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.plan.schema import Wandb
from ratchet.plan.space import Space
from ratchet.tune.wandb_config import values_of_arguments, wandb_config, wandb_yaml
from track_example import wandb_run
from wandb_service import ENTITY, PROJECT, SWEEP, Service, service, wandb_says

pytestmark = pytest.mark.slow

PLATFORM = Path(__file__).resolve().parents[2] / "platform"
PLAN, SPACE_FILE = Path("jobs/some plan.yaml"), Path("tune_spaces/both.yaml")
SPACE = Space.model_validate(
    {
        "name": "both",
        "keys": {
            "stages.align.beta": {"loguniform": [1e-6, 1.0]},
            "stages.align.data": {"permutation": ["maths", "two-words"]},
            "stages.align.lora": {"choice": [None, {"rank": 8}]},
        },
        "objectives": {"align/heldout/accuracy": "max"},
        "search": {"by": "random"},
        "budget": {"trials": 2},
        "seeds": [1, 2],
    }
)
POINTS: list[dict[str, Any]] = [
    {"stages.align.beta": 2e-06, "stages.align.data": '["two-words", "maths"]', "stages.align.lora": "null", "seed": 2},
    {
        "stages.align.beta": 1,
        "stages.align.data": '["maths", "two-words"]',
        "stages.align.lora": '{"rank": 8}',
        "seed": 1,
    },
]

_PROGRAM = """#!{python}
import json, os, sys
from pathlib import Path
sys.path.insert(0, {platform!r})
from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialPoint
from ratchet.plan.schema import Wandb
from ratchet.track.trial import TrialRun, trial_run
told = {{"argv": sys.argv, "environment": {{k: v for k, v in os.environ.items() if k.startswith("WANDB")}}}}
Path(os.environ["WANDB_RUN_ID"] + ".json").write_text(json.dumps(told))
words = dict(word.split("=", 1) for word in sys.argv[sys.argv.index("--trial") + 1:])
beta, data = float(words["stages.align.beta"]), json.loads(words["stages.align.data"])
point = {{"stages.align.beta": beta, "stages.align.data": data}}
chosen = TrialPoint("t1", 1, point, "p1", int(words["seed"]), "agent", "now")
plan = {{"stages": {{"align": {{"beta": beta, "data": data}}}}}}
trial = TrialRun(trial_run(Wandb(project="its-own", mode="offline"), "demo-both", chosen, plan, Path("trial")))
for step in range(1, 6):
    trial.line("align.1", {{"step": step, "loss": 1 / step}})
trial.finish("finished", {{"align/heldout/accuracy": Value(0.75)}})
trial.close()
Path(os.environ["WANDB_RUN_ID"] + ".path").write_text(trial.path)
"""


@pytest.fixture
def at(tmp_path: Path) -> Iterator[tuple[Service, dict[str, str]]]:
    """A service, and the environment in which `ratchet` is a program that writes down how it was called."""
    program = tmp_path / "bin" / "ratchet"
    program.parent.mkdir()
    program.write_text(_PROGRAM.format(python=sys.executable, platform=str(PLATFORM)))
    program.chmod(0o755)
    with service() as wandb:
        own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        path = f"{program.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield wandb, {**own, **wandb.environment(tmp_path), "PATH": path}


def sweep(tmp_path: Path, wandb: Service, environment: dict[str, str], **more: str) -> str:
    """Register the sweep and let one agent run all its trials; return what the agent and the trials said."""
    owner = Wandb(project=PROJECT, entity=ENTITY)
    (tmp_path / "sweep.yaml").write_text(wandb_yaml(PLAN, SPACE_FILE, SPACE, ["stages.align.batch=4"], owner))
    said = wandb_says(tmp_path, environment, "sweep", "sweep.yaml")
    assert f"wandb agent {ENTITY}/{PROJECT}/{SWEEP}" in said
    assert wandb.config == wandb_config(PLAN, SPACE_FILE, SPACE, ["stages.align.batch=4"], owner)
    return wandb_says(tmp_path, {**environment, **more}, "agent", f"{ENTITY}/{PROJECT}/{SWEEP}")


def test_an_agent_runs_each_point_as_one_trial_in_its_own_run(
    tmp_path: Path, at: tuple[Service, dict[str, str]]
) -> None:
    wandb, environment = at
    wandb.trials = POINTS
    said = sweep(tmp_path, wandb, environment)
    assert "ignored" not in said.lower() and "Ignoring" not in said
    for number, point in enumerate(POINTS, 1):
        told = json.loads((tmp_path / f"run{number}.json").read_text())
        _, *words = told["argv"]
        given = ["--set", "stages.align.batch=4", "--trial"]
        assert words[:6] == ["sweep", str(PLAN), str(SPACE_FILE), *given]
        data, lora = json.loads(point["stages.align.data"]), json.loads(point["stages.align.lora"])
        values = {"stages.align.beta": point["stages.align.beta"], "stages.align.data": data, "stages.align.lora": lora}
        assert values_of_arguments(words[6:], SPACE) == (values, point["seed"])
        names = {"SWEEP_ID": SWEEP, "RUN_ID": f"run{number}", "PROJECT": PROJECT, "ENTITY": ENTITY}
        assert {key: told["environment"].get(f"WANDB_{key}") for key in names} == names
        run = wandb.runs[f"run{number}"]
        assert (run["sweep"], run["project"], run["groupName"], run["jobType"]) == (
            SWEEP,
            PROJECT,
            "demo-both",
            "trial",
        )
        config = {key: one["value"] for key, one in json.loads(run["config"]).items()}
        assert {key: config[key] for key in point} == point  # as the sweep gave them, or its search would not know them
        assert config["sweep/point/stages.align.beta"] == point["stages.align.beta"]
        assert (tmp_path / f"run{number}.path").read_text() == f"{PROJECT}/run{number}"
        lines = list(wandb.history[f"run{number}"].values())
        assert [line["align.1/loss"] for line in lines] == [1 / step for step in range(1, 6)]
        assert wandb.summary[f"run{number}"]["align/heldout/accuracy"] == 0.75
    assert set(wandb.runs) == {"run1", "run2"}


def test_an_agent_told_to_be_offline_has_its_run_in_offline_files(
    tmp_path: Path, at: tuple[Service, dict[str, str]]
) -> None:
    wandb, environment = at
    wandb.trials = POINTS[:1]
    sweep(tmp_path, wandb, environment, WANDB_MODE="offline")
    ids, history, run = wandb_run(tmp_path / "trial")
    assert (ids, run.sweep_id, run.run_group) == ({"run1"}, SWEEP, "demo-both")
    assert sorted(history) == [1, 2, 3, 4, 5] and not wandb.runs
