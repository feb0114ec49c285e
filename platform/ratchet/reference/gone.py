"""Wait until processes have ended: Ray Data lets its actors go when a pass is over, and does not look back.

An engine holds its GPU's memory until its process is gone, whatever Ray says of the GPU; training
that starts before that runs out of memory.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ratchet.errors import ClusterError
from ratchet.store.process import stat

PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.05


class Register:
    """Where the processes of a pass write down themselves and their children: an actor, so that a failure leaves it."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], None] = {}
        self.actors: dict[int, Any] = {}

    def add(self, node: str, pids: list[int], actor: Any) -> None:
        self.known.update(dict.fromkeys((node, pid) for pid in pids))
        self.actors[pids[0]] = actor

    def all(self) -> tuple[list[tuple[str, int]], list[Any]]:
        return list(self.known), list(self.actors.values())


@contextlib.contextmanager
def gone_afterwards() -> Iterator[Any]:
    """Yield a register for the processes of a pass; at its end, whatever end, end them and wait until they are gone.

    After an error Ray Data would keep them for as long as the error object lives. Raises
    ClusterError where they do not end.
    """
    import ray

    register = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(Register).remote()
    try:
        yield register
    finally:
        processes, actors = ray.get(register.all.remote())
        for actor in (*actors, register):
            ray.kill(actor)
        wait_until_gone(processes)


def sign(register: Any) -> None:
    """Write this process and its children down in a register."""
    import ray

    here = ray.get_runtime_context()
    ray.get(register.add.remote(here.get_node_id(), family(os.getpid()), here.current_actor))


def family(pid: int) -> list[int]:
    """Return a process of this machine and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parents[int(entry.name)] = int(stat(int(entry.name))[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


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
        return stat(pid)[0] not in {"Z", "X"}
    except OSError:
        return False
