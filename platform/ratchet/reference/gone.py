"""Wait until processes have ended: Ray Data lets its actors go when a pass is over, and does not look back.

An engine holds its GPU's memory until its process is gone, whatever Ray says of the GPU; training
that starts before that runs out of memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ratchet.errors import ClusterError

PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.05


def wait_until_gone(processes: Iterable[tuple[str, int]]) -> None:
    """Return once none of the processes, each a Ray node's id and a pid there, runs. Raises ClusterError."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    by_node: dict[str, list[int]] = {}
    for node, pid in processes:
        by_node.setdefault(node, []).append(pid)
    for node, pids in by_node.items():
        if node == here:
            left = still_there(pids, PATIENCE_SECONDS)
        else:  # soft: where that machine is gone, so are its processes
            strategy = NodeAffinitySchedulingStrategy(node, soft=True)
            look = ray.remote(num_cpus=0, scheduling_strategy=strategy)(_look_on)
            left = ray.get(look.remote(node, pids, PATIENCE_SECONDS))
        if left:
            raise ClusterError(
                f"scoring is over, and its processes {left} on node {node} did not end in {PATIENCE_SECONDS:g} s",
                fix="end them, and run again: the scores are kept",
            )


def still_there(pids: Iterable[int], seconds: float) -> list[int]:
    """Return the processes of this machine that run after `seconds`, as soon as there are none."""
    end = time.monotonic() + seconds
    left = list(pids)
    while left := [pid for pid in left if _runs(pid)]:
        if time.monotonic() >= end:
            break
        time.sleep(_PAUSE_SECONDS)
    return left


def _look_on(node: str, pids: list[int], seconds: float) -> list[int]:
    import ray

    return still_there(pids, seconds) if ray.get_runtime_context().get_node_id() == node else []


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
