"""A plan on a Ray and in one process: the same bits, and each finds what the other made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import frames
from whole_run import Whole, environment, metrics, ratchet, record, steps, weights, write_plan

pytestmark = pytest.mark.ray
STEPS = ("warm", "align.1", "align.2", "control", "blend")


@pytest.fixture(scope="module")
def both(whole_run: Whole, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders in which the plan has run to its end: on a Ray, and in one process."""
    folder = tmp_path_factory.mktemp("here")
    write_plan(folder)
    line = [sys.executable, frames.__file__, "run", "plan.yaml", "--here"]
    found = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return whole_run.folder, folder


def test_the_way_to_a_loss_is_short(both: tuple[Path, Path]) -> None:
    """From the command by way of the thread that starts workers, and in a worker to the loss."""
    for folder in both:
        way = frames.way(folder)
        assert way[0] == "losses/preference.py dpo" and way[-1] == "cli.py main"
        assert len(way) <= frames.MOST_FRAMES, "\n".join(way)
    assert "train/launch.py train" in frames.way(both[0]) and "train/here.py train_here" in frames.way(both[1])


def test_the_same_bits_come_out(both: tuple[Path, Path]) -> None:
    there, here = both
    for step in STEPS:
        assert weights(here, step) == weights(there, step)
        assert record(here, step)["fingerprint"] == record(there, step)["fingerprint"]
    for step in STEPS[:-1]:
        assert _timeless(here, step) == _timeless(there, step)
        ledgers = [(steps(folder) / step / "ledger.jsonl").read_bytes() for folder in both]
        assert ledgers[0] == ledgers[1]
    files = [_files(folder / "out/store") for folder in both]
    assert files[0] == files[1] and any(name.startswith("logps/") for name in files[0])


def test_a_reference_is_scored_by_the_workers_that_trained_it(both: tuple[Path, Path]) -> None:
    """Its pass has no processes to start, and its time is the reference's and not the step's that trained it."""
    for folder in both:
        for step in STEPS[:-1]:
            facts = record(folder, step)["facts"]["training"]
            assert facts["scored"]["why_not"] is None and facts["scored"]["pairs"] and facts["seconds"]["scoring"] > 0
            # Each figure is rounded by itself.
            assert record(folder, step)["seconds"] <= facts["seconds"]["all"] - facts["seconds"]["scoring"] + 1
        passed = record(folder, "align.2")["facts"]["reference"]
        assert (passed["in_training"], passed["reused"], passed["start_seconds"]) == (True, False, 0.0)
        assert "scored in training" in (folder / "out/runs/tiny/report.md").read_text()


@pytest.mark.slow
def test_each_finds_what_the_other_made(both: tuple[Path, Path]) -> None:
    for folder, words in zip(both, (["--here"], []), strict=True):
        before = {step: (steps(folder) / step / "record.json").stat().st_mtime_ns for step in STEPS}
        found = ratchet(folder, "run", "plan.yaml", *words)
        assert found.returncode == 0, found.stderr
        assert found.stderr.count("is there already") == len(STEPS) and "pairs scored" not in found.stderr
        assert before == {step: (steps(folder) / step / "record.json").stat().st_mtime_ns for step in STEPS}


def _timeless(folder: Path, step: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in metrics(folder, step)]


def _files(store: Path) -> dict[str, bytes]:
    """What lies in a store, by its place; records say when it was made, so their identities stand for them.

    What lies in `answered/` names the folders of a command, and goes by its whole plan, of which one is tracked.
    """
    found = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file() and path.parent.name != "answered"):
        content = path.read_bytes()
        if path.name == "record.json":
            content = json.dumps(json.loads(content)["identity"]).encode()
        if path.suffix == ".jsonl":  # processes of an evaluation end their units in any order
            content = b"\n".join(sorted(content.splitlines()))
        found[str(path.relative_to(store))] = content
    return found
