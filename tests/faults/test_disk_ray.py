"""Disks that are really full, under the real command: the status is 74, and what was there stays good."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from whole_run import ratchet, record, steps, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PLAN = """\
name: tiny
model:
  scratch: {tokenizer_from: [sums], vocab_size: 320, hidden_size: 128, layers: 4, heads: 4, key_value_heads: 2,
            intermediate_size: 512, max_positions: 128}
data:
  sums: {generate: {kind: arithmetic, rows: 100, steps: 1, largest: 20}, held_out: 0.1}
stages:
  warm: {kind: sft, data: [sums], batch: 16, max_steps: 4, max_length: 96, checkpoint: {every: 2, keep: 2}}
cluster: {token_budget: 512, storage: out}
"""
MB = 1 << 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan, run where there is room."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "plan.yaml").write_text(PLAN)
    found = ratchet(folder, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr
    return folder


def resize(disk: Path, size: int, *options: str) -> None:
    """Mount a file system of `size` bytes at `disk`, or with `remount` give it that size."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(disk)]
    subprocess.run(command, check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, that only root can mount."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    (tmp_path / "plan.yaml").write_text(PLAN)
    found = tmp_path / "out"
    found.mkdir()
    resize(found, 400 * MB)
    yield found
    subprocess.run(["umount", "--lazy", str(found)], check=True)


def used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


def checkpoint_size(whole: Path) -> int:
    """Return the bytes of a checkpoint: weights and Adam's two moments. A finished step keeps none to look at."""
    return 3 * (steps(whole) / "warm/model/model.safetensors").stat().st_size


@pytest.mark.parametrize("at", ["the first checkpoint", "the second checkpoint"])
def test_a_disk_that_fills_under_a_checkpoint_ends_with_74_and_the_run_goes_on_when_there_is_room(
    whole: Path, disk: Path, at: str
) -> None:
    size = checkpoint_size(whole)
    shutil.copytree(whole / "out/store", disk / "store")  # pairs, tokens and the model: the run begins with training
    folder = disk.parent
    room = size // 2 if at == "the first checkpoint" else size * 3 // 2
    resize(disk, used(disk) + room + 2 * MB, "remount")
    full = ratchet(folder, "run", "plan.yaml")
    assert full.returncode == 74, full.stderr
    assert ("no space left" in full.stderr) is (at == "the first checkpoint"), full.stderr
    assert ("asks for" in full.stderr) is (at == "the second checkpoint"), full.stderr
    kept = Checkpoints(steps(folder) / "warm", Alone(), 2)
    last = kept.newest()
    assert (last.step if last else 0) == (0 if at == "the first checkpoint" else 2)
    assert not kept.events, "nothing half-made lies about"

    resize(disk, 400 * MB, "remount")
    again = ratchet(folder, "run", "plan.yaml")
    assert again.returncode == 0, again.stderr
    assert record(folder, "warm")["facts"]["training"]["resumed_from"] == (last.step if last else 0)
    assert weights(folder, "warm") == weights(whole, "warm")
