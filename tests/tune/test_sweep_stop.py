"""A sweep that is asked to stop: what trains is saved, and the same command goes on with it."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

import sweep_run
import whole_run
from evaluation_run import begun
from ratchet.documents.events import events_of
from ratchet.reference.processes import still_there
from ratchet.track.jsonl import read_metrics
from whole_run import processes_below, until

pytestmark = pytest.mark.slow

LATE = sweep_run.SMALL.replace("checkpoint: {every: 1, keep: 2}", "epochs: 40\n    checkpoint: {every: 1000}").replace(
    "batch: 32, learning_rate: 2e-3", "batch: 32, epochs: 100, learning_rate: 2e-3"
)
"""Long enough to be stopped, and no checkpoint is due on the way: what a stop saves is all that there is."""
PLAN = LATE.replace("storage: out", "storage: out, ray: {num_cpus: 2}")
SPACE = """\
name: two
keys:
  stages.align.beta: {grid: [0.1, 0.3]}
objectives: {align/heldout/margin: max}
at_once: 2
"""
TRIALS = "out/sweeps/small-two/trials"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the trials of a sweep come to that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    sweep_run.write_files(folder, SPACE, PLAN)
    done = whole_run.ratchet(folder, "sweep", "plan.yaml", "space.yaml")
    assert done.returncode == 0, done.stderr
    return metrics(folder)


def metrics(folder: Path) -> dict[str, Any]:
    trials = sweep_run.trials(folder, "small-two")
    assert [one["status"] for one in trials.values()] == ["finished", "finished"]
    return {
        name: {key: value for key, value in one["metrics"].items() if "per_second" not in key}
        for name, one in trials.items()
    }


def under_way(folder: Path, step: str) -> list[Path]:
    """Folders of a step that has been trained for a while, in the trials that have it."""
    with contextlib.suppress(OSError):  # a link is laid again
        return [
            path for path in folder.glob(f"{TRIALS}/*/steps/{step}") if len(read_metrics(path / "metrics.jsonl")) > 3
        ]
    return []


@pytest.mark.parametrize(("step", "makers"), [("warm", 1), ("align", 2)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_asked_to_stop_loses_no_step(
    whole: dict[str, Any], tmp_path: Path, step: str, makers: int, number: signal.Signals
) -> None:
    """In `warm` one trial trains for both and the other waits for it; in `align` each trains its own."""
    sweep_run.write_files(tmp_path, SPACE, PLAN)
    with begun(tmp_path, "sweep", "plan.yaml", "space.yaml") as run:
        until(lambda: len(under_way(tmp_path, step)) >= makers, run)
        below = [pid for pid, _ in processes_below(run.pid)]
        run.send_signal(number)
        said = run.communicate(timeout=200)[1]
    assert (run.returncode, "Traceback" in said) == (75, False), said
    assert f"asked to stop by {number.name}" in said
    assert not still_there(below, 60)
    assert not sweep_run.trials(tmp_path, "small-two"), said
    assert not (tmp_path / "out/sweeps/small-two/pause.json").exists()
    made = {path.resolve(): len(read_metrics(path / "metrics.jsonl")) for path in under_way(tmp_path, step)}
    assert len(made) == makers

    again = whole_run.ratchet(tmp_path, "sweep", "plan.yaml", "space.yaml")
    assert again.returncode == 0, again.stderr
    for path, steps in made.items():
        assert [event.step for event in events_of(path) if event.code == "group-went-on"] == [steps]
    assert metrics(tmp_path) == whole
