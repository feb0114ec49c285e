"""Ends of trials that a sweep tells wandb of: each is told, and a service that fails costs one wait for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from track_example import wandb_records
from trial_example import CHOSEN
from wandb_service import Service, service

pytestmark = pytest.mark.heavy

_DRIVER = """
import dataclasses, json, sys
from pathlib import Path
from ratchet.documents.trial import TrialPoint
from ratchet.plan.schema import Wandb
from ratchet.track import trial
folder, chosen, options = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
trial.ENDS_SECONDS = options["seconds"]
ends = trial.Ends()
for number in range(options["count"]):
    mine = TrialPoint(**(chosen | {"trial": f"t{number:08x}"}))
    run = trial.trial_run(Wandb(project="p", mode=options["mode"]), "demo-beta", mine, {}, folder / str(number))
    ends.tell(dataclasses.replace(run, init_timeout=options["init_timeout"]), "stopped", f"worse, {number}")
ends.close()
"""


def drive(folder: Path, wandb: Service, **options: Any) -> list[str]:
    """Tell ends in a process of its own, and return the lines of its log."""
    chosen = {"mode": "online", "init_timeout": 60.0, "seconds": 60.0, "count": 10, **options}
    environment = {**os.environ, **wandb.environment(folder)}
    command = [sys.executable, "-c", _DRIVER, str(folder), json.dumps(CHOSEN), json.dumps(chosen)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("mode", nightly(["offline", "online"], lambda mode: mode == "online"))
def test_each_end_is_told_to_its_own_run(tmp_path: Path, mode: str) -> None:
    with service() as wandb:
        said = drive(tmp_path, wandb, mode=mode, count=2)
        told = [wandb.summary[run] for run in sorted(wandb.summary)]
    if mode == "offline":
        assert wandb.asked == []
        files = sorted(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
        updates = [[item for one in wandb_records(file) for item in one.summary.update] for file in files]
        told = [{item.key: json.loads(item.value_json) for item in mine} for mine in updates]
    assert [(one["status"], one["reason"]) for one in told] == [("stopped", "worse, 0"), ("stopped", "worse, 1")]
    assert said == []


@pytest.mark.parametrize("fault", nightly([500, "hang"], lambda fault: fault == 500))
def test_after_the_first_end_that_fails_no_other_is_tried(tmp_path: Path, fault: int | str) -> None:
    with service() as wandb:
        wandb.fault = fault
        first, second = drive(tmp_path, wandb, init_timeout=1.0)
    assert first.startswith("wandb is off for the rest of this step")
    assert second == "wandb did not receive how 10 of 10 trials ended; trial.json has it"


def test_all_ends_have_one_deadline_while_the_service_hangs(tmp_path: Path) -> None:
    with service() as wandb:
        wandb.fault = "hang"
        word, *after = drive(tmp_path, wandb, seconds=0.5)
    assert word == "wandb did not receive how 10 of 10 trials ended; trial.json has it"
    # The one that hung may still say that it was cut off, as its process ends; no other was tried.
    assert len(after) <= 1 and all(one.startswith("wandb is off for the rest of this step") for one in after)


def test_nothing_to_tell_is_no_wait_and_no_word(tmp_path: Path) -> None:
    with service() as wandb:
        said = drive(tmp_path, wandb, count=0)
        assert wandb.asked == []
    assert said == []
