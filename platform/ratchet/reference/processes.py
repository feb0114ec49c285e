"""The processes of a pass: how often they died over a block, and waiting until they have ended.

A block that kills its process must not go on killing. How often it was begun is counted beside its file while it is
computed, and for one pass. A run that a person stops and starts again begins at none.

Ray Data releases its actors when a pass is over, and does not look back.

An engine holds its GPU's memory until its process is gone, whatever Ray says of the GPU; training
that starts before that runs out of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ratchet.errors import ClusterError
from ratchet.store.files import write_text
from ratchet.store.machine import stat

PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.05


class Register:
    """Where the processes of a pass write down themselves and their children: an actor, so that a failure leaves it."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], None] = {}
        self.actors: dict[int, Any] = {}

    def add(self, node: str, pids: list[int], actor: Any) -> None:
        self.known.update(dict.fromkeys((node, pid) for pid in pids))
        # `family` has the process itself first.
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

    # No CPU of its own, since the pass that signs it may take them all. DEFAULT, because a trial of a sweep is itself
    # in a placement group, which has no room for it.
    register = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(Register).remote()
    try:
        yield register
    finally:
        processes, actors = ray.get(register.all.remote())
        for actor in (*actors, register):
            ray.kill(actor)
        wait_until_gone(processes)


def start_one() -> None:
    """Let Ray start a process that does nothing, and wait for nothing."""
    import ray

    ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_nothing).remote()


def _nothing() -> None:
    """Do what a process does that is there for its fork server's sake."""


def sign(register: Any) -> None:
    """Write this process and its children down in a register."""
    import ray

    here = ray.get_runtime_context()
    ray.get(register.add.remote(here.get_node_id(), family(os.getpid()), here.current_actor))


def family(pid: int) -> list[int]:
    """Return a process of this machine and all that descend from it; of a Ray node, all that belong to it.

    Workers that begin warm descend from their server (`ratchet.warm`), which outlives the process that started it. So
    a process belongs to the node that its environment names, too.
    """
    above: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                above[int(entry.name)] = {int(stat(int(entry.name))[1])}
                above[int(entry.name)] |= _node_of(entry)
    found = {pid: None}
    new = [pid]
    while new:
        known = {*new}
        new = [one for one, those in above.items() if one not in found and those & known]
        found.update(dict.fromkeys(new))
    return [*found]


def _node_of(process: Path) -> set[int]:
    """Return the process id of the Ray node that a folder of /proc says it belongs to. Raises OSError."""
    told = re.search(rb"(?:^|\0)RAY_RAYLET_PID=(\d+)", (process / "environ").read_bytes())
    return {int(told[1])} if told else set()


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


MOST = 2
"""Processes that may die over one block."""


@contextlib.contextmanager
def attempt(work: Path, run: str) -> Iterator[int]:
    """Note beside `work` that it is begun in the pass named `run`; yield how often it was before.

    The note goes away with any end but the death of the process. Raises StorageError.
    """
    path = work.with_suffix(".begun")
    before = _count(path, run)
    write_text(path, json.dumps({"run": run, "count": before + 1}) + "\n")
    try:
        yield before
    finally:
        path.unlink(missing_ok=True)


def _count(path: Path, run: str) -> int:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    return int(found["count"]) if found["run"] == run else 0
