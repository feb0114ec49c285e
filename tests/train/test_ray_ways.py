"""Training on Ray and DeepSpeed: the same step on any cluster, in any precision, and with adapters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raised import raises
from ratchet.plan.training import Checkpoint, Lora
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from train_bench import CPU, lines_of, train_whole, write_inputs
from train_ray_bench import assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def plain(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The metrics of the same step by torch alone, in this process."""
    folder = tmp_path_factory.mktemp("plain")
    train_whole(spec_at(folder, inputs), Alone(), CPU, TorchEngine)
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
    lora = Lora(rank=4, alpha=16.0, dropout=0.1)
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
    best = Checkpoint(every=2, keep=1, publish="best")
    result = go(spec_at(tmp_path / "best", inputs, checkpoint=best, **changes))
    losses = {line["step"]: line["heldout/loss"] for line in lines_of(tmp_path / "best") if "heldout/loss" in line}
    step = min(losses, key=lambda at: losses[at])
    assert result.published["step"] == step < 24
    upto = go(spec_at(tmp_path / "upto", inputs, max_steps=step, **changes))
    assert upto.published["step"] == step
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("best", "upto")]
    assert weights[0] == weights[1]


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
    with raises("cluster.workers"):
        go(spec_at(tmp_path, inputs, zero=zero, workers=workers))
    monkeypatch.delenv("RATCHET_FAULT")
    result = go(spec_at(tmp_path, inputs, zero=zero, workers=after))
    assert result.resumed_from == 4 and result.workers == after
    assert not [event for event in result.events if event.checkpoint]
    assert distance(lines_of(tmp_path), plain, "loss") < 1e-5
    assert result.counts["pairs_seen"] == 88
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_another_zero_stage_does_not_go_on_silently(session: None, inputs: dict[str, Any], tmp_path: Path) -> None:
    go(spec_at(tmp_path, inputs, zero=2, max_steps=4))
    with raises("run.other-engine", "zero 2 → 3"):
        go(spec_at(tmp_path, inputs, zero=3))


@pytest.mark.slow
def test_a_precision_that_cannot_be_is_refused(session: None, inputs: dict[str, Any], tmp_path: Path) -> None:
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this CPU trains in float16")
    with raises("model", "float16"):
        go(spec_at(tmp_path / "run", inputs, zero=2, dtype="float16"))
