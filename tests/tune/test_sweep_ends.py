"""Trials that end before their time: stopped by a scheduler, or their process lost."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sweep_run
import whole_run
from ratchet.track.jsonl import read_metrics

pytestmark = pytest.mark.slow

LONG = sweep_run.SMALL.replace("checkpoint: {", "epochs: 4\n    checkpoint: {")
STOPPED = """\
name: stopped
keys:
  stages.align.learning_rate: {grid: [2e-3, 1e-3, 1e-6, 1e-7]}
objectives: {align/heldout/margin: max}
scheduler: {kind: asha, metric: align/train/learning_rate, mode: max, grace: 4, reduction: 2}
at_once: 4
"""


def test_asha_ends_bad_trials_and_more_trials_than_there_are_slots_end_too(tmp_path: Path) -> None:
    """Four trials at once on a Ray with room for one: none waits for ever, and slots of ended ones go to others."""
    sweep_run.write_files(tmp_path, STOPPED, LONG.replace("storage: out", "storage: out, ray: {num_cpus: 2}"))
    done = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml", seconds=1200)
    assert done.returncode == 0, done.stderr
    trials = sorted(sweep_run.trials(tmp_path, "small-stopped").values(), key=lambda one: one["number"])
    statuses = {one["point"]["stages.align.learning_rate"]: one["status"] for one in trials}
    assert statuses[2e-3] == "finished"
    assert "stopped" in statuses.values()
    whole = next(len(read_metrics(steps_of(tmp_path, one))) for one in trials if one["status"] == "finished")
    for one in trials:
        if one["status"] == "stopped":
            assert "did worse than others at step" in one["reason"]["what"]
            assert len(read_metrics(steps_of(tmp_path, one))) < whole
        assert not (tmp_path / "out/sweeps/small-stopped/trials" / one["trial"] / "slots").exists()


def steps_of(folder: Path, trial: dict[str, Any]) -> Path:
    return folder / "out/sweeps/small-stopped/trials" / trial["trial"] / "steps/align/metrics.jsonl"


ONE = """\
name: one
keys:
  stages.align.beta: {grid: [0.1]}
objectives: {align/heldout/margin: max}
"""


def test_a_trial_whose_process_is_lost_goes_on_with_the_slots_that_it_had(tmp_path: Path) -> None:
    """On a Ray with one slot: Ray itself would keep that for the workers of the lost process."""
    sweep_run.write_files(tmp_path, ONE, LONG.replace("storage: out", "storage: out, ray: {num_cpus: 1}"))
    run = subprocess.Popen(
        whole_run.command("sweep", "plan.yaml", "space.yaml"),
        cwd=tmp_path,
        env=whole_run.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "out/sweeps/small-one/trials"
    with run:
        whole_run.until(
            lambda: any(len(read_metrics(path)) > 3 for path in folder.glob("*/steps/align/metrics.jsonl")), run
        )
        assert list(folder.glob("*/slots"))
        lost = [pid for pid, title in whole_run.processes_below(run.pid) if "ImplicitFunc" in title]
        assert len(lost) == 1
        os.kill(lost[0], signal.SIGKILL)
        _, said = run.communicate(timeout=500)
    assert run.returncode == 0, said
    assert [one["status"] for one in sweep_run.trials(tmp_path, "small-one").values()] == ["finished"]
    assert not list(folder.glob("*/slots"))
