"""Faults on demand, for tests of recovery. Off unless the environment asks for one.

    RATCHET_FAULT="ckpt:before_marker@10"       kill this process when step 10's checkpoint gets there
    RATCHET_FAULT="step:kill@7#1"               `#1`: on rank 1 only
    RATCHET_FAULT_ONCE=/some/file               act once: the file is made when the fault acts, and stops it after

Points, in the order a step meets them:
    step:nan            the step's first loss becomes NaN on this rank
    step:hang           this rank stands still before the step's exchange, for good
    step:memory         this rank finds no memory for the step's passes
    step:kill           SIGKILL after the step's backward passes, before its update
    ckpt:after_shard    SIGKILL once this rank's files of a checkpoint are written
    ckpt:before_marker  SIGKILL once the manifest is written, before COMMITTED
    ckpt:after_marker   SIGKILL once the checkpoint is committed, before older ones go
    ckpt:disk_full      this rank's write of the checkpoint fails with ENOSPC
    score:kill          SIGKILL before this rank scores a block, whose number stands for the step, with its model
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_VARIABLES = ("RATCHET_FAULT", "RATCHET_FAULT_ONCE")
POINTS = (
    *("step:nan", "step:hang", "step:memory", "step:kill"),
    *("ckpt:after_shard", "ckpt:before_marker", "ckpt:after_marker", "ckpt:disk_full"),
    "score:kill",
)


def asked_for() -> dict[str, str]:
    """Return the variables of this process that ask for a fault: what its workers must get too."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def due(point: str, step: int, rank: int) -> bool:
    """Whether the fault of the environment is `point` at this step and rank, and has not acted yet."""
    wanted = os.environ.get("RATCHET_FAULT", "")
    if not wanted:
        return False
    name, _, rest = wanted.partition("@")
    at, _, on = rest.partition("#")
    if name not in POINTS:
        raise ValueError(f"RATCHET_FAULT names no point {name!r}: use one of {', '.join(POINTS)}")
    if name != point or int(at) != step or (on and int(on) != rank):
        return False
    once = os.environ.get("RATCHET_FAULT_ONCE")
    if once:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def kill_if_due(point: str, step: int, rank: int) -> None:
    """End this process with SIGKILL if the fault is due: no handler runs, nothing is flushed."""
    if due(point, step, rank):
        os.kill(os.getpid(), signal.SIGKILL)


def no_memory_if_due(step: int, rank: int) -> None:
    """Raise what a device without memory raises if `step:memory` is due."""
    if due("step:memory", step, rank):
        raise MemoryError("out of memory, as RATCHET_FAULT asks")


def hang_if_due(step: int, rank: int) -> None:
    """Stand still for good if `step:hang` is due: the others wait until they give up."""
    if due("step:hang", step, rank):
        while True:
            time.sleep(3600)
