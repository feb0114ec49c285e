"""Twenty minutes of trouble: workers are killed, hosts are taken away, killed and cut off at random, and come back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes import ADDRESSES, WORKERS, Job, Nodes, needs_nodes
from nodes_run import (
    COURSE,
    done,
    lines,
    record,
    settings,
    step_folder,
    timeless,
    until,
    weights,
    write_plan,
)
from ratchet.documents.events import events_of

MINUTES = float(os.environ.get("RATCHET_SOAK_MINUTES", "20"))
SEED = int(os.environ.get("RATCHET_SOAK_SEED", "0"))
CALM_MINUTES = 4.0
"""What a round would take where nothing happened to it. Rounds begin as long as there are minutes left."""
pytestmark = [
    pytest.mark.nodes,
    pytest.mark.slow,
    pytest.mark.timeout(int(60 * (2 * MINUTES + 60))),
    needs_nodes,
]


def kill_a_worker(nodes: Nodes, host: str) -> None:
    """SIGKILL to one training process."""
    for pid in nodes.pids(host):
        title = Path(f"/proc/{pid}/cmdline")
        if title.exists() and b"ray::RayTrainWorker" in title.read_bytes():
            os.kill(pid, signal.SIGKILL)
            return


def take_away(nodes: Nodes, host: str) -> None:
    """Notice, and another host in its place."""
    nodes.terminate(host)
    nodes.rays[host].wait(120)
    nodes.begin(host)


def lose(nodes: Nodes, host: str) -> None:
    """No notice, and another host in its place."""
    nodes.begin(host)


def cut_off(nodes: Nodes, host: str) -> None:
    """A cable that is out until Ray gives the host up, and another host in its place."""
    nodes.cut(host)
    until(nodes, lambda: ADDRESSES[host] not in nodes.alive().values(), f"{host} given up")
    nodes.heal(host)
    nodes.begin(host)


FAULTS: tuple[Callable[[Nodes, str], None], ...] = (kill_a_worker, take_away, lose, cut_off)


def rate(folder: Path) -> float:
    """Steps a second of a run that nothing happened to."""
    return len(lines(folder)) / float(record(folder)["facts"]["training"]["seconds"]["training"])


def groups(folder: Path) -> int:
    """Worker groups that have trained so far."""
    return sum(event.code in {"group-began", "group-went-on"} for event in events_of(folder))


def trouble(nodes: Nodes, job: Job, folder: Path, draw: random.Random) -> list[str]:
    """A fault every one to two minutes until the job ends; each is over when another group trains. Returns them all."""
    faults: list[str] = []
    while True:
        calm_until = time.monotonic() + draw.uniform(60, 120)
        until(nodes, lambda t=calm_until: job.submit.poll() is not None or time.monotonic() > t, "a pause", None, 200)
        if job.submit.poll() is not None:
            return faults
        fault, host, before = draw.choice(FAULTS), draw.choice(WORKERS), groups(folder)
        faults.append(f"{fault.__name__} {host}")
        fault(nodes, host)
        until(
            nodes,
            lambda n=before: job.submit.poll() is not None or groups(folder) > n,
            f"training after {faults}",
            None,
            600,
        )


def test_trouble_changes_no_bit(cluster: Nodes, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """One course where nothing befalls it, and then the same in trouble, again and again until the time is over."""
    cluster.ready()
    plan, storage = write_plan(tmp_path / "plan", COURSE), tmp_path / "storage"
    done(cluster, cluster.submit(plan, *settings(storage, "name=short"), name="short"))
    epochs = max(80, int(60 * CALM_MINUTES * rate(step_folder(storage, "short")) / 5))
    changes = (f"stages.align.epochs={epochs}", "cluster.collective_timeout=20", "cluster.max_restarts=1000")
    job = cluster.submit(plan, *settings(storage, "name=long", *changes), name="long")
    done(cluster, job, 60 * (4 * CALM_MINUTES + 10))
    calm, draw, end = step_folder(storage, "long"), random.Random(SEED), time.monotonic() + 60 * MINUTES
    happened: list[str] = []
    while time.monotonic() < end:
        cluster.ready()
        name = f"soak{len(list(storage.glob('runs/soak*'))) + 1}"
        soaked = step_folder(storage, name)
        job = cluster.submit(plan, *settings(storage, f"name={name}", *changes), name=name)
        until(cluster, lambda folder=soaked: groups(folder) > 0, "the first group", job)
        faults = trouble(cluster, job, soaked, draw)
        done(cluster, job)
        assert groups(soaked) == 1 + len(faults), (faults, events_of(soaked))
        assert weights(soaked) == weights(calm)
        assert lines(soaked, "ledger.jsonl") == lines(calm, "ledger.jsonl")
        assert timeless(soaked) == timeless(calm)
        happened += faults
    assert happened
    record_property("faults", happened)
    record_property("runs", len(list(storage.glob("runs/soak*"))))
