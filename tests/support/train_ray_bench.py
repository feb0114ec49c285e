"""Training steps on Ray and DeepSpeed for the tests: what is run, and what two runs are compared by."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, DeepSpeed, Ray
from ratchet.train.launch import TrainResult
from ratchet.train.launch import train as launch
from ratchet.train.spec import TrainSpec
from train_bench import spec_of, timeless

DIVIDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""Without this ZeRO-3 keeps weights as small as these whole on every worker."""
CALM: dict[str, Any] = {"learning_rate": 3e-4}
"""Losses that stay near ln 2: relative differences of tiny ones are those of their last digits."""


def four_workers() -> AbstractContextManager[None]:
    """A Ray of this machine with room for four workers."""
    return ray_session(Cluster(workers=4, ray=Ray(num_cpus=6)))


def spec_at(folder: Path, inputs: dict[str, Any], zero: int = 0, workers: int = 1, **changes: Any) -> TrainSpec:
    folder.mkdir(parents=True, exist_ok=True)
    settings = DeepSpeed(zero=zero, overrides=DIVIDED if zero == 3 else {})
    fields = {"workers": workers, "token_budget": 64, "deepspeed": settings, **inputs, **changes}
    return spec_of(folder, **fields)


def go(spec: TrainSpec, max_restarts: int = 0) -> TrainResult:
    return launch(spec, cpus_per_worker=1, gpus_per_worker=0, max_restarts=max_restarts)


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
