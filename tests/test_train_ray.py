"""Training on Ray and DeepSpeed: the same step on any cluster, and the same end after any kill.

Each run starts worker processes that import torch and DeepSpeed: half a minute each on a busy machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ratchet.errors import ClusterError, ModelError, RunError, StorageError, TrainingError
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster
from ratchet.plan.cluster import Ray as RaySettings
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.launch import TrainResult
from ratchet.train.launch import train as launch
from ratchet.train.spec import CheckpointSettings, DeepSpeedSettings, LoraSettings, TrainSpec
from ratchet.train.worker import work
from train_bench import CPU, spec_of, write_inputs

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

DIVIDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Without this ZeRO-3 keeps weights as small as these whole on every worker."""


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(Cluster(workers=4, ray=RaySettings(num_cpus=6))):
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def spec_at(folder: Path, inputs: dict[str, Any], zero: int = 0, workers: int = 1, **changes: Any) -> TrainSpec:
    folder.mkdir(parents=True, exist_ok=True)
    settings = DeepSpeedSettings(zero=zero, overrides=DIVIDED if zero == 3 else {})
    fields = {"workers": workers, "micro_batch": 2, "deepspeed": settings, **inputs, **changes}
    return spec_of(folder, **fields)


def go(spec: TrainSpec, max_restarts: int = 0) -> TrainResult:
    return launch(spec, cpus_per_worker=1, gpus_per_worker=0, max_restarts=max_restarts)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in lines_of(folder)]


def state_of(folder: Path) -> list[torch.Tensor]:
    """Every tensor of the last checkpoint: weights, masters and moments of every worker."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    found: list[torch.Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for key in value:
                collect(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)

    for path in sorted(last.rglob("*.pt")):
        collect(torch.load(path, weights_only=False))
    return found


def assert_same_end(folder: Path, base: Path) -> None:
    """Weights, optimiser state, ledger and metrics are those of the uninterrupted run, to the bit."""
    ours, theirs = state_of(folder), state_of(base)
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for name in ("model/model.safetensors", "ledger.jsonl"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    assert timeless(folder) == timeless(base)


@pytest.fixture(scope="module")
def base(session: None, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """ZeRO-2 on two workers, uninterrupted."""
    folder = tmp_path_factory.mktemp("base")
    return folder, go(spec_at(folder, inputs, zero=2, workers=2))


def test_a_step_on_ray_leaves_what_it_promises(base: tuple[Path, TrainResult]) -> None:
    folder, result = base
    lines = lines_of(folder)
    assert result.counts == {"steps": 12, "pairs_seen": 88, "pairs": 22, "epochs": 4}
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
    with pytest.raises(TrainingError, match=r"at step 6 the loss of .* not finite") as raised:
        go(spec_at(tmp_path / "run", inputs, zero=1, workers=2), max_restarts=3)
    assert "step-000004" in str(raised.value)
    assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(1, 6))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-000004"]


@pytest.fixture(scope="module")
def plain(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The metrics of the same step by torch alone, in this process."""
    folder = tmp_path_factory.mktemp("plain")
    work(spec_at(folder, inputs), Alone(), CPU, TorchEngine)
    return lines_of(folder)


def distance(lines: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> float:
    """The largest relative difference of a metric."""
    return max(abs(a[key] / b[key] - 1) for a, b in zip(lines, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_cluster_changes_no_step(
    session: None, inputs: dict[str, Any], plain: Any, tmp_path: Path, capsys: Any, zero: int, workers: int
) -> None:
    """ZeRO 0 to 3 × (1 worker × 4, 2 × 2, 4 × 1): the losses of plain torch within 1e-5 relative."""
    go(spec_at(tmp_path, inputs, zero=zero, workers=workers))
    lines = lines_of(tmp_path)
    off = {key: distance(lines, plain, key) for key in ("loss", "grad_norm")}
    with capsys.disabled():
        told = ", ".join(f"{key} {value:.1e}" for key, value in off.items())
        sys.stderr.write(f"\nZeRO {zero}, {workers} workers × {4 // workers}: largest relative difference {told}\n")
    assert off["loss"] < 1e-5
    assert off["grad_norm"] < 1e-4
    assert lines[-1]["heldout/loss"] == pytest.approx(plain[-1]["heldout/loss"], rel=1e-5)


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
import json
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, Ray
from ratchet.train.launch import train
from ratchet.train.spec import TrainSpec
if __name__ == "__main__":
    spec = TrainSpec.from_dict(json.loads(Path(sys.argv[1]).read_text()))
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
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    environment = {**os.environ, "RATCHET_FAULT": "step:kill@7#0", "RATCHET_FAULT_ONCE": str(tmp_path / "acted")}
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "spec.json")]
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
    settings = DeepSpeedSettings(zero=zero, offload_optimizer=True, offload_parameters=zero == 3, overrides=DIVIDED)
    go(spec_at(tmp_path / "run", inputs, workers=2, deepspeed=settings))
    losses = [[line["loss"] for line in lines_of(folder)] for folder in (tmp_path / "run", base[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_recomputation_changes_no_step(session: None, inputs: dict[str, Any], base: Any, tmp_path: Path) -> None:
    go(spec_at(tmp_path / "run", inputs, zero=3, workers=2, gradient_checkpointing=True))
    losses = [[line["loss"] for line in lines_of(folder)] for folder in (tmp_path / "run", base[0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bfloat16_trains_and_goes_on(session: None, tmp_path: Path, monkeypatch: Any, zero: int) -> None:
    inputs = write_inputs(tmp_path, torch.bfloat16)
    result = go(spec_at(tmp_path / "base", inputs, zero=zero, workers=2, dtype="bfloat16"))
    assert result.first is not None and abs(result.first["loss"] - 0.693147) < 0.02
    assert result.metrics["loss"] < 0.1
    monkeypatch.setenv("RATCHET_FAULT", "step:kill@7#1")
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    go(spec_at(tmp_path / "run", inputs, zero=zero, workers=2, dtype="bfloat16"), max_restarts=1)
    assert_same_end(tmp_path / "run", tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_adapters_train_and_are_merged(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any, zero: int
) -> None:
    lora = LoraSettings(rank=4, alpha=16.0, dropout=0.1)
    changes: dict[str, Any] = {"zero": zero, "workers": 2, "lora": lora, "learning_rate": 2e-2}
    result = go(spec_at(tmp_path / "base", inputs, **changes))
    assert result.first is not None and result.metrics["loss"] < 0.5
    assert (tmp_path / "base/adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "base/model/model.safetensors").is_file()
    monkeypatch.setenv("RATCHET_FAULT", "step:kill@7#1")
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    go(spec_at(tmp_path / "run", inputs, **changes), max_restarts=1)
    assert_same_end(tmp_path / "run", tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_the_best_checkpoint_is_published(session: None, inputs: dict[str, Any], tmp_path: Path, zero: int) -> None:
    """A run that overfits: the best step lies before the last, and its weights are the ones published."""
    changes: dict[str, Any] = {"zero": zero, "workers": 2, "epochs": 8, "learning_rate": 2e-2, "schedule": "constant"}
    best = CheckpointSettings(every=2, keep=1, publish="best")
    result = go(spec_at(tmp_path / "best", inputs, checkpoint=best, **changes))
    losses = {line["step"]: line["heldout/loss"] for line in lines_of(tmp_path / "best") if "heldout/loss" in line}
    step = min(losses, key=lambda at: losses[at])
    assert result.published["step"] == step < 24
    upto = go(spec_at(tmp_path / "upto", inputs, max_steps=step, **changes))
    assert upto.published["step"] == step
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("best", "upto")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_full_disk_on_one_worker_stops_all(
    session: None, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", "ckpt:disk_full@8#1")
    with pytest.raises(StorageError, match="no space left"):
        go(spec_at(tmp_path / "run", inputs, zero=3, workers=2), max_restarts=3)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-000004"]
    monkeypatch.delenv("RATCHET_FAULT")
    assert go(spec_at(tmp_path / "run", inputs, zero=3, workers=2)).resumed_from == 4


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "workers", "after"), [(0, 2, 1), (1, 2, 1), (2, 2, 4), (3, 4, 2)])
def test_a_run_goes_on_with_more_or_fewer_workers(
    session: None,
    inputs: dict[str, Any],
    plain: Any,
    tmp_path: Path,
    monkeypatch: Any,
    zero: int,
    workers: int,
    after: int,
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", "step:kill@7#0")
    with pytest.raises(ClusterError, match="workers failed"):
        go(spec_at(tmp_path, inputs, zero=zero, workers=workers))
    monkeypatch.delenv("RATCHET_FAULT")
    result = go(spec_at(tmp_path, inputs, zero=zero, workers=after))
    assert result.resumed_from == 4 and result.workers == after and not result.events
    assert distance(lines_of(tmp_path), plain, "loss") < 1e-5
    assert result.counts["pairs_seen"] == 88
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_another_zero_stage_does_not_go_on_silently(session: None, inputs: dict[str, Any], tmp_path: Path) -> None:
    go(spec_at(tmp_path, inputs, zero=2, max_steps=4))
    with pytest.raises(RunError, match="zero 2 → 3"):
        go(spec_at(tmp_path, inputs, zero=3))


@pytest.mark.slow
def test_a_precision_that_cannot_be_is_refused(session: None, inputs: dict[str, Any], tmp_path: Path) -> None:
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this CPU trains in float16")
    with pytest.raises(ModelError, match="float16"):
        go(spec_at(tmp_path / "run", inputs, zero=2, dtype="float16"))
