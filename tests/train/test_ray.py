"""Training on Ray and DeepSpeed: the same end after any kill, and by any way through memory.

Each run starts worker processes that import torch and DeepSpeed: half a minute each on a busy machine.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayError

from raised import raises
from ratchet.plan.cluster import DeepSpeed
from ratchet.train.launch import TrainResult, _plain_errors
from train_bench import lines_of, spec_of
from train_ray_bench import DIVIDED, assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def base(session: None, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """ZeRO-2 on two workers, uninterrupted."""
    folder = tmp_path_factory.mktemp("base")
    return folder, go(spec_at(folder, inputs, zero=2, workers=2))


def test_a_step_on_ray_leaves_what_it_promises(base: tuple[Path, TrainResult]) -> None:
    folder, result = base
    lines = lines_of(folder)
    assert result.counts == {"steps": 12, "pairs_seen": 88, "pairs": 22, "epochs": 4, "of_file": [22]}
    assert result.workers == 2 and result.steps == 12 and result.resumed_from == 0
    assert result.first is not None and result.first["largest_h"] <= result.first["h_tolerance"]
    assert result.published["difference_nats"] <= result.published["allowed_nats"]
    assert len(lines) == 12 and lines[-1]["loss"] < 0.02 and lines[-1]["heldout/accuracy"] > 0.7
    assert not list(folder.glob(".ray-*"))
    json.dumps(result.to_dict())


def test_a_killed_worker_changes_no_bit(
    session: None, inputs: dict[str, Any], base: tuple[Path, TrainResult], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", "step:kill@7#1")
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    result = go(spec_at(tmp_path / "run", inputs, zero=2, workers=2), max_restarts=1)
    assert (tmp_path / "acted").exists() and result.resumed_from == 4
    assert_same_end(tmp_path / "run", base[0])


def test_an_error_of_ours_is_not_tried_again(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """NaN on one of two workers: both stop at that step, Ray restarts nothing, nothing bad is saved."""
    monkeypatch.setenv("RATCHET_FAULT", "step:nan@6#1")
    with raises("training.not-finite", "at step 6") as raised:
        go(spec_at(tmp_path / "run", inputs, zero=1, workers=2), max_restarts=3)
    assert "step-000004" in str(raised.value)
    assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(1, 6))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-000004"]


FAULTS = [
    (0, "step:kill@6#0", 4),
    (1, "ckpt:after_shard@8#1", 4),
    (3, "ckpt:before_marker@8#0", 4),
    (3, "ckpt:after_marker@8#0", 8),
    (3, "step:kill@11#1", 8),
]


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "fault", "resumed"), FAULTS)
def test_a_kill_anywhere_changes_no_bit(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any, zero: int, fault: str, resumed: int
) -> None:
    go(spec_at(tmp_path / "base", inputs, zero=zero, workers=2))
    monkeypatch.setenv("RATCHET_FAULT", fault)
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    result = go(spec_at(tmp_path / "run", inputs, zero=zero, workers=2), max_restarts=1)
    assert (tmp_path / "acted").exists() and result.resumed_from == resumed
    assert_same_end(tmp_path / "run", tmp_path / "base")


DRIVER = """
import sys
from pathlib import Path
import pickle
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, Ray
from ratchet.train.launch import train
if __name__ == "__main__":
    spec = pickle.loads(Path(sys.argv[1]).read_bytes())
    with ray_session(Cluster(workers=2, ray=Ray(num_cpus=3))):
        train(spec, cpus_per_worker=1, gpus_per_worker=0, max_restarts=0)
"""


@pytest.mark.slow
def test_a_killed_driver_changes_no_bit(
    session: None, inputs: dict[str, Any], base: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    """The driver and its Ray die in the middle; a new driver goes on from the last checkpoint."""
    spec = spec_at(tmp_path / "run", inputs, zero=2, workers=2)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "spec.pickle").write_bytes(pickle.dumps(spec))
    environment = {**os.environ, "RATCHET_FAULT": "step:kill@7#0", "RATCHET_FAULT_ONCE": str(tmp_path / "acted")}
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "spec.pickle")]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 6) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    result = go(spec)
    assert result.resumed_from == 4
    assert_same_end(tmp_path / "run", base[0])


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_offload_changes_no_step(session: None, inputs: dict[str, Any], base: Any, tmp_path: Path, zero: int) -> None:
    settings = DeepSpeed(zero=zero, offload_optimizer=True, offload_parameters=zero == 3, overrides=DIVIDED)
    go(spec_at(tmp_path / "run", inputs, workers=2, deepspeed=settings))
    losses = [[line["loss"] for line in lines_of(folder)] for folder in (tmp_path / "run", base[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_recomputation_changes_no_step(session: None, inputs: dict[str, Any], base: Any, tmp_path: Path) -> None:
    go(spec_at(tmp_path / "run", inputs, zero=3, workers=2, gradient_checkpointing=True))
    losses = [[line["loss"] for line in lines_of(folder)] for folder in (tmp_path / "run", base[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_a_full_disk_on_one_worker_stops_all(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", "ckpt:disk_full@8#1")
    with raises("storage.full"):
        go(spec_at(tmp_path / "run", inputs, zero=3, workers=2), max_restarts=3)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-000004"]
    monkeypatch.delenv("RATCHET_FAULT")
    assert go(spec_at(tmp_path / "run", inputs, zero=3, workers=2)).resumed_from == 4


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("CUDA out of memory", "training.out-of-memory"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 20 bytes", "training.out-of-memory"),
        ("Task was killed due to the node running low on memory", "training.out-of-memory"),
        ("a node is gone", "cluster.workers"),
    ],
)
def test_memory_that_runs_out_is_the_plans_affair_and_a_lost_node_the_clusters(
    tmp_path: Path, said: str, code: str
) -> None:
    with raises(code, said), _plain_errors(spec_of(tmp_path)):
        raise RayError(said)
