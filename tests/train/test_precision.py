"""What a step does to the weights, whichever way they are divided, held against AdamW written out in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nightly import nightly
from precision_run import asked, by_engines, by_hand, spec_at
from train_bench import tiny_model

pytestmark = pytest.mark.heavy

PASSES = [1, 8, 64]
STRAIGHT = {"epsilon": 1e4, "learning_rate": 1e3, "weight_decay": 0.0, "clip": None, "warmup": 0.0}
"""AdamW's first update is then the gradient times 0.1 to within 1e-4: what is off in one is off in the other."""


def moved(masters: dict[str, torch.Tensor], dtype: str) -> torch.Tensor:
    """How far the masters are from where they began, in one row."""
    start = tiny_model(dtype=getattr(torch, dtype)).named_parameters()
    return torch.cat([(masters[name].double() - weight.detach().double()).flatten() for name, weight in start])


def off(masters: dict[str, torch.Tensor], other: dict[str, torch.Tensor], dtype: str = "bfloat16") -> float:
    theirs = moved(other, dtype)
    return float((moved(masters, dtype) - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module", params=nightly([((0, 3),), ((0, 1, 2),)], lambda zeros: 3 in zeros))
def zeros(request: pytest.FixtureRequest) -> tuple[int, ...]:
    """ZeRO stages that are tried, each beside the engine that divides nothing."""
    return tuple(request.param)


@pytest.fixture(scope="module")
def found(zeros: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, list[dict[str, Any]]]:
    """Runs of one process: AdamW's steps at each ZeRO stage, and one step's gradient in one to 64 passes."""
    runs = {("steps", zero): asked(zero, "bfloat16") for zero in zeros}
    for zero in zeros:
        for passes in PASSES:
            runs["float32", zero, passes] = asked(zero, "bfloat16", passes, 1, **STRAIGHT)
        runs["bfloat16", zero, 64] = asked(zero, "bfloat16", 64, 1, gradients="bfloat16", **STRAIGHT)
    folder = tmp_path_factory.mktemp("precision")
    return dict(zip(runs, by_engines(folder, list(runs.values())), strict=True))


@pytest.fixture(scope="module")
def exact() -> dict[int, dict[str, torch.Tensor]]:
    """One step from gradients that are added up in float64, by the count of passes."""
    return {passes: by_hand(spec_at(0, "bfloat16", **STRAIGHT), passes, 1)[0] for passes in PASSES}


def test_every_zero_stage_makes_adamws_updates_in_bfloat16(found: dict[Any, Any], zeros: tuple[int, ...]) -> None:
    """Nothing happens to the masters before the first step, and three steps are those of the formula."""
    wanted = by_hand(spec_at(0, "bfloat16"), 2)
    for zero in zeros:
        before, *steps = found["steps", zero]
        assert not moved(before["masters"], "bfloat16").any()
        for step, (after, bound) in enumerate(zip(steps, (1e-4, 1e-4, 2e-2), strict=True)):
            # A last bit of a master that rounds otherwise makes another forward pass, hence the third bound.
            assert off(after["masters"], wanted[step]) < bound, (zero, step)
            assert off(after["masters"], found["steps", 0][step + 1]["masters"]) < 1e-5, (zero, step)
            assert after["norm"] == pytest.approx(found["steps", 0][step + 1]["norm"], rel=1e-5)


@pytest.mark.slow
def test_two_workers_add_up_as_one_does(found: dict[Any, Any], zeros: tuple[int, ...], tmp_path: Path) -> None:
    one = {zero: asked(zero, "bfloat16", 8, 1, **STRAIGHT) for zero in zeros}
    for zero, (before, after) in zip(zeros, by_engines(tmp_path, list(one.values()), world=2), strict=True):
        assert not moved(before["masters"], "bfloat16").any()
        assert off(after["masters"], found["float32", zero, 8][1]["masters"]) < 1e-5, zero


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 1])
def test_a_run_goes_on_from_its_checkpoint_in_bfloat16(
    found: dict[Any, Any], zeros: tuple[int, ...], tmp_path: Path, workers: int
) -> None:
    """Two steps by two workers, and the third by as many, or by one."""
    folders = [tmp_path / str(zero) for zero in zeros]
    first = [
        asked(zero, "bfloat16", steps=2) | {"save": str(folder)} for zero, folder in zip(zeros, folders, strict=True)
    ]
    for folder in folders:
        folder.mkdir()
    begun = by_engines(tmp_path, first, world=2)
    rest = [
        asked(zero, "bfloat16", steps=1) | {"after": 2, "load": str(folder), "written_by": 2}
        for zero, folder in zip(zeros, folders, strict=True)
    ]
    (tmp_path / "again").mkdir()
    for zero, before, (loaded, after) in zip(
        zeros, begun, by_engines(tmp_path / "again", rest, world=workers), strict=True
    ):
        assert not off(loaded["masters"], before[-1]["masters"]), zero
        assert off(after["masters"], found["steps", zero][3]["masters"]) < 1e-2, zero


@pytest.mark.parametrize("passes", PASSES)
def test_the_passes_of_a_step_are_added_up_in_float32(
    found: dict[Any, Any], zeros: tuple[int, ...], exact: dict[int, dict[str, torch.Tensor]], passes: int
) -> None:
    """So what is off does not grow with their count; each pass rounds its own gradient to bfloat16."""
    for zero in zeros:
        ours = found["float32", zero, passes][1]["masters"]
        assert off(ours, exact[passes]) < 1e-5, zero
        assert off(ours, exact[1]) < 5e-3, zero


def test_added_up_in_bfloat16_they_are_off(
    found: dict[Any, Any], zeros: tuple[int, ...], exact: dict[int, dict[str, torch.Tensor]]
) -> None:
    """Which the stage may ask for by name."""
    for zero in zeros:
        assert 5e-3 < off(found["bfloat16", zero, 64][1]["masters"], exact[64]) < 2e-2, zero
