"""Faults of a worker group on Ray: one that hangs, numbers that are not finite on one of two, sizes that change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raised import raises
from ratchet.documents.events import events_of
from ratchet.errors import ClusterError
from ratchet.plan.training import Checkpoint
from ratchet.train.launch import TrainResult
from ratchet.train.launch import train as launch
from ratchet.train.notice import WORKERS
from train_bench import lines_of
from train_ray_bench import CALM, assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def base(session: None, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """ZeRO-2 on two workers, uninterrupted."""
    folder = tmp_path_factory.mktemp("base")
    return folder, go(spec_at(folder, inputs, zero=2, workers=2, **CALM))


def fault(monkeypatch: pytest.MonkeyPatch, folder: Path, what: str) -> None:
    monkeypatch.setenv("RATCHET_FAULT", what)
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(folder / "acted"))


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_automatic_budget_that_was_too_large_is_halved_and_training_goes_on(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: int
) -> None:
    """Ray begins the group again, after a lost worker, or the driver, where Ray may not."""
    fault(monkeypatch, tmp_path, "step:memory@2#1")
    spec = spec_at(tmp_path / "run", inputs, zero=2, workers=2, max_steps=3, **{**CALM, "token_budget": None})
    result = go(spec, max_restarts=restarts)
    assert (tmp_path / "acted").exists() and result.steps == 3
    found = int(re.findall(r"token_budget ([\d,]+):", result.events[1].what)[0].replace(",", ""))
    assert result.token_budget == found // 2
    codes = [event.code for event in result.events if event.code != "worker-failed"]
    assert codes == ["group-began", "budget-found", "budget-halved", "group-began"]


@pytest.mark.parametrize("again", [False, True])
def test_memory_that_runs_out_again_ends_the_step_with_figures(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A budget of the plan is the plan's, and is not tried again; a found one once."""
    monkeypatch.setenv("RATCHET_FAULT", "step:memory@1#0")
    tokens = {"token_budget": None if again else 64}
    with raises("training.out-of-memory", "out of memory") as caught:
        go(spec_at(tmp_path / "run", inputs, **{**CALM, **tokens}))
    events = events_of(tmp_path / "run")
    assert sum(event.code == "group-began" for event in events) == 1 + again
    now = 2048 if again else 64
    assert f"it is {now:,} now: try {now // 2:,}" in caught.value.fix


@pytest.mark.slow
def test_a_hung_worker_is_named_with_its_step_and_training_goes_on(
    base: tuple[Path, TrainResult], inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, tmp_path, "step:hang@7#1")
    result = go(spec_at(tmp_path / "run", inputs, zero=2, workers=2, collective_timeout=10, **CALM), max_restarts=1)
    assert (tmp_path / "acted").exists() and result.resumed_from == 4
    told = [event.what for event in result.events if event.code == "worker-failed"]
    assert any(
        "in step 7 worker 0 gave up waiting for worker 1 (last heard of in step 7)" in event for event in told
    ), result.events
    assert_same_end(tmp_path / "run", base[0])


@pytest.mark.slow
def test_a_worker_that_always_hangs_ends_the_run_with_its_name(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", "step:hang@2#0")
    with raises("cluster.workers", "in step 2 worker 1", "for worker 0"):
        go(spec_at(tmp_path / "run", inputs, zero=0, workers=2, collective_timeout=10), max_restarts=1)
    began = [event for event in events_of(tmp_path / "run") if event.code == "group-began"]
    assert len(began) == 2  # once more, and not for ever


@pytest.mark.parametrize("zero", [*(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 1, 2)), 3])
def test_a_number_that_is_not_finite_on_one_worker_is_skipped_on_all(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: int
) -> None:
    """What comes out is finite, no pair's turn is lost, and the steps after it are made."""
    fault(monkeypatch, tmp_path, "step:nan@8#1")
    result = go(spec_at(tmp_path / "run", inputs, zero=zero, workers=2, skip_nonfinite=2))
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines if line.get("update_skipped")] == [8]
    assert all(line["grad_norm"] > 0 for line in lines if not line.get("update_skipped"))
    [skipped] = [event for event in result.events if event.code == "step-skipped"]
    assert skipped.step == 8 and "pair-0-" in skipped.what
    assert result.counts["pairs_seen"] == 88
    weights = load_file(tmp_path / "run/model/model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def begun(folder: Path) -> bool:
    return (folder / WORKERS).exists()


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_loses_no_step(
    base: tuple[Path, TrainResult], inputs: dict[str, Any], tmp_path: Path
) -> None:
    """Asked while the workers begin; no checkpoint is due for long."""
    run = tmp_path / "run"
    late = Checkpoint(every=1000, keep=2)
    spec = spec_at(run, inputs, zero=2, workers=2, checkpoint=late, **CALM)
    with raises("stopped.at-checkpoint", "asked") as stopped:
        launch(spec, cpus_per_worker=1, gpus_per_worker=0, max_restarts=0, stop=lambda: "asked" if begun(run) else None)
    at = int(re.findall(r"step (\d+)", str(stopped.value.what))[0])
    assert [line["step"] for line in lines_of(run)] == list(range(1, at + 1)) and at < 12
    assert go(spec).resumed_from == at
    assert (run / "model/model.safetensors").read_bytes() == (base[0] / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_sizes_that_change_train_on_the_same_batches_to_the_same_losses(
    base: tuple[Path, TrainResult], inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one, and two again, each from the checkpoint of the others."""
    for workers, kill in ((2, "step:kill@5#1"), (1, "step:kill@10#0")):
        monkeypatch.setenv("RATCHET_FAULT", kill)
        with pytest.raises(ClusterError):
            go(spec_at(tmp_path / "run", inputs, zero=2, workers=workers, **CALM))
    monkeypatch.delenv("RATCHET_FAULT")
    result = go(spec_at(tmp_path / "run", inputs, zero=2, workers=2, **CALM))
    assert result.resumed_from == 8
    groups = [(event.code, event.workers, event.step) for event in result.events if event.attempt]
    assert groups == [("group-began", 2, None), ("group-went-on", 1, 4), ("group-went-on", 2, 8)]
    assert (tmp_path / "run/ledger.jsonl").read_bytes() == (base[0] / "ledger.jsonl").read_bytes()
    losses = [[line["loss"] for line in lines_of(folder)] for folder in (tmp_path / "run", base[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow  # the default tier has it without Ray
def test_a_trial_that_is_dropped_says_so(session: None, inputs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "stop.json").write_text("{}")
    with raises("training.dropped"):
        go(spec_at(tmp_path / "run", inputs, workers=1, stop_file=str(tmp_path / "stop.json")))
