"""Twenty random places to be killed, on two workers of DeepSpeed: the same end every time, to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from train_ray_bench import assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EVERY, STEPS = 4, 12
SAVES = [("ckpt:after_shard", 0), ("ckpt:after_shard", 1), ("ckpt:before_marker", 0), ("ckpt:after_marker", 0)]
"""Where a save can be cut, and on which rank: the manifest and the marker are rank 0's alone."""


def places(seed: int) -> list[tuple[str, int, int]]:
    """(point, rank, step): eight kills while a checkpoint is saved, every hook and rank among them, twelve between."""
    draw = random.Random(seed)
    saves = [(point, rank, draw.randrange(EVERY, STEPS + 1, EVERY)) for point, rank in 2 * SAVES]
    steps = draw.sample([(rank, step) for rank in (0, 1) for step in range(1, STEPS + 1)], 12)
    return saves + [("step:kill", rank, step) for rank, step in steps]


@pytest.fixture(scope="module")
def base(session: None, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a kill."""
    folder = tmp_path_factory.mktemp("base")
    assert go(spec_at(folder, inputs, zero=2, workers=2)).steps == STEPS
    return folder


@pytest.mark.parametrize(("point", "rank", "step"), places(9))
def test_a_kill_at_a_random_place_changes_no_bit_and_costs_no_more_than_one_interval(
    base: Path, inputs: dict[str, Any], tmp_path: Path, monkeypatch: Any, point: str, rank: int, step: int
) -> None:
    monkeypatch.setenv("RATCHET_FAULT", f"{point}@{step}#{rank}")
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    result = go(spec_at(tmp_path / "run", inputs, zero=2, workers=2), max_restarts=1)
    assert (tmp_path / "acted").exists()
    committed = step if point == "ckpt:after_marker" else (step - 1) // EVERY * EVERY
    updates = step if point.startswith("ckpt:") else step - 1  # that the killed group had made
    assert result.resumed_from == committed
    assert updates - committed <= EVERY  # what was done again
    assert_same_end(tmp_path / "run", base)
