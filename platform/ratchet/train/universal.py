"""DeepSpeed's universal layout of a checkpoint, by way of which another count of workers goes on from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor


def part_groups(optimizer: Any, given: list[dict[str, Any]]) -> None:
    """Give each group of weights its own settings and count of updates again.

    At stage 3 DeepSpeed hands all of them those of the first, so that each weight decays, and one tensor counts the
    updates of all (deepspeed 0.19.8, runtime/zero/stage3.py:3668).
    """
    for group, settings in zip(optimizer.param_groups, given, strict=True):
        group.update(settings)
    for state in getattr(optimizer, "optimizer", optimizer).state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def to_universal(folder: Path, out: Path, seconds: float) -> str:
    """Convert in a process of its own: DeepSpeed's converter starts processes and prints. Return what failed, or ""."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(folder), "--output_folder", str(out)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"it took more than {seconds:.0f} s (cluster.collective_timeout)"
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else said[-1] if said else f"status {done.returncode}"
