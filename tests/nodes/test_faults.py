"""Hosts that are taken away, cut off and lost, jobs that are stopped: what training goes on from, what comes out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes import ADDRESSES, HEAD, WORKERS, Job, Nodes, needs_nodes
from nodes_run import (
    COURSE,
    EVERY,
    done,
    lines,
    losses,
    saved,
    settings,
    step_folder,
    timeless,
    until,
    weights,
    write_plan,
)
from ratchet.documents.events import Event, events_of
from ratchet.train.driver_loop import on_nodes

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(1800), needs_nodes]
BEGUN = 50
"""Steps after which something happens; checkpoints are at 40 and 80."""
Record = Callable[[str, object], None]


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster with all its hosts, whatever the last test did to them."""
    cluster.ready()
    yield cluster
    for host in ADDRESSES:
        cluster.heal(host)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plan(tmp_path_factory.mktemp("sent") / "plan", COURSE)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def calm(cluster: Nodes, plan: Path, storage: Path) -> Path:
    """The step's folder of a run that nothing happened to."""
    cluster.ready()
    done(cluster, cluster.submit(plan, *settings(storage), name="calm"))
    return step_folder(storage, "calm")


class Runs:
    """One run folder, and the jobs that work on it."""

    def __init__(self, nodes: Nodes, plan: Path, storage: Path, name: str, *changes: str) -> None:
        self.nodes, self.plan, self.folder = nodes, plan, step_folder(storage, name)
        self.name, self.arguments, self.jobs = name, settings(storage, f"name={name}", *changes), 0

    def submit(self, **variables: str) -> Job:
        self.jobs += 1
        return self.nodes.submit(self.plan, *self.arguments, name=f"{self.name}-{self.jobs}", variables=variables)

    def until_step(self, step: int, job: Job) -> None:
        until(self.nodes, lambda: len(lines(self.folder)) >= step, f"step {step}", job)

    def until_event(self, job: Job, code: str, fits: Callable[[Event], bool], seconds: float = 400) -> Event:
        """Wait until the step has an event of this code that fits, and return it."""
        until(self.nodes, lambda: self._found(code, fits) is not None, f"event {code}", job, seconds)
        found = self._found(code, fits)
        assert found is not None
        return found

    def _found(self, code: str, fits: Callable[[Event], bool]) -> Event | None:
        return next((event for event in events_of(self.folder) if event.code == code and fits(event)), None)

    def host_of(self, rank: int) -> str:
        """The host that a rank is on."""
        address = self.nodes.alive()[on_nodes(self.folder)[rank]]
        return next(host for host, one in ADDRESSES.items() if one == address)


def same(folder: Path, calm: Path) -> None:
    """To the bit: the same group of two workers, whatever happened to it."""
    assert weights(folder) == weights(calm)
    assert timeless(folder) == timeless(calm)
    assert lines(folder, "ledger.jsonl") == lines(calm, "ledger.jsonl")


def alike(folder: Path, calm: Path) -> None:
    """The same global batches, and losses up to rounding: groups of other sizes add up in another order."""
    assert lines(folder, "ledger.jsonl") == lines(calm, "ledger.jsonl")
    assert losses(folder) == pytest.approx(losses(calm), rel=1e-6)


def test_a_job_that_is_stopped_loses_no_step(
    nodes: Nodes, plan: Path, storage: Path, calm: Path, record_property: Record
) -> None:
    runs = Runs(nodes, plan, storage, "stopped")
    job = runs.submit(RAY_JOB_STOP_WAIT_TIME_S="120")
    runs.until_step(BEGUN, job)
    asked = time.time()
    nodes.stop(job)
    job.wait(200)
    record_property("seconds from the stop to the job's end", round(time.time() - asked, 1))
    assert nodes.job_info(job)["status"] == "STOPPED"
    told = job.log.read_text() + nodes.log_of(job)
    [step] = {int(step) for step in re.findall(r"stopped after step (\d+), which is saved", told)}
    assert step >= BEGUN and step % EVERY and max(saved(runs.folder)) == step == len(lines(runs.folder)), told
    job = runs.submit()
    done(nodes, job)
    assert ("group-went-on", 2, step) in [(event.code, event.workers, event.step) for event in events_of(runs.folder)]
    same(runs.folder, calm)


def test_a_job_that_is_stopped_with_rays_three_seconds_replays_less_than_an_interval(
    nodes: Nodes, plan: Path, storage: Path, calm: Path, record_property: Record
) -> None:
    runs = Runs(nodes, plan, storage, "killed")
    job = runs.submit()
    runs.until_step(BEGUN, job)
    nodes.stop(job)
    job.wait(200)
    trained = len(lines(runs.folder))
    job = runs.submit()
    done(nodes, job)
    resumed = [event.step or 0 for event in events_of(runs.folder) if event.code == "group-went-on"]
    record_property("steps replayed", trained - resumed[-1])
    assert len(resumed) == 1 and trained - resumed[0] <= EVERY
    same(runs.folder, calm)


def test_a_host_that_is_taken_away_with_notice_costs_no_step_and_its_place_is_taken_again(
    nodes: Nodes, plan: Path, storage: Path, record_property: Record
) -> None:
    """Two workers, one, and two again, with no restart allowed.

    It is long enough for Ray to count its nodes again, and learns so slowly that losses stay near ln 2.
    """
    long = ("stages.align.epochs=600", "stages.align.learning_rate=1e-6")
    done(nodes, nodes.submit(plan, *settings(storage, "name=long", *long), name="long"))
    runs = Runs(nodes, plan, storage, "notice", "cluster.workers=[1, 2]", *long)
    job = runs.submit()
    runs.until_step(BEGUN, job)
    noticed = time.time()
    nodes.terminate(WORKERS[0])
    ended = runs.until_event(job, "group-ended", lambda event: True)
    record_property("seconds from notice to commit", round(time.time() - noticed, 1))
    step = ended.step or 0
    runs.until_event(job, "group-went-on", lambda event: (event.workers, event.step) == (1, step))
    record_property("seconds from notice to training again", round(time.time() - noticed, 1))
    assert step >= BEGUN
    nodes.rays[WORKERS[0]].wait(120)
    nodes.begin(WORKERS[0])
    grown = runs.until_event(job, "group-ended", lambda event: event.step != step)
    done(nodes, job)
    groups = [(event.code, event.workers, event.step) for event in events_of(runs.folder) if event.attempt]
    assert groups == [("group-began", 2, None), ("group-went-on", 1, step), ("group-went-on", 2, grown.step)]
    assert (grown.step or 1) % EVERY == 0
    alike(runs.folder, step_folder(storage, "long"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_that_is_cut_off_writes_nothing_when_it_is_back(
    nodes: Nodes, plan: Path, storage: Path, calm: Path, record_property: Record, rank: int
) -> None:
    changes = ("cluster.workers=[1, 2]", "cluster.collective_timeout=20", "cluster.max_restarts=5")
    runs = Runs(nodes, plan, storage, f"cut{rank}", *changes)
    job = runs.submit()
    runs.until_step(BEGUN, job)
    stale = (runs.folder / "attempt").read_text().strip()
    host = runs.host_of(rank)
    cut, trained = time.time(), len(lines(runs.folder))
    nodes.cut(host)
    resumed = runs.until_event(job, "group-went-on", lambda event: event.workers == 1, 600)
    record_property("seconds from the cut to training again", round(time.time() - cut, 1))
    record_property("steps replayed", trained - (resumed.step or 0))
    assert 0 <= trained - (resumed.step or 0) <= EVERY
    nodes.heal(host)
    seen: dict[int, str] = {}

    def over() -> bool:
        seen.update(saved(runs.folder))
        assert not list((runs.folder / "checkpoints").glob(f".step-*.{stale}")), "the stale group writes a checkpoint"
        return job.submit.poll() is not None

    until(nodes, over, "the end of the run", None)
    done(nodes, job)
    late = {step: attempt for step, attempt in seen.items() if step > (resumed.step or 0)}
    assert late and stale not in late.values()
    alike(runs.folder, calm)


def test_a_head_that_is_lost_costs_less_than_an_interval(
    nodes: Nodes, plan: Path, storage: Path, calm: Path, record_property: Record
) -> None:
    """Driver, job and Ray's own state are gone with it; the same plan is submitted to a new head."""
    runs = Runs(nodes, plan, storage, "headless")
    job = runs.submit()
    runs.until_step(BEGUN, job)
    lost = time.time()
    nodes.kill(HEAD)
    job.wait(200)
    nodes.ready()
    job = runs.submit()
    trained = len(lines(runs.folder))
    resumed = runs.until_event(job, "group-went-on", lambda event: event.workers == 2)
    record_property("seconds from the loss to training again", round(time.time() - lost, 1))
    record_property("steps replayed", trained - (resumed.step or 0))
    assert 0 <= trained - (resumed.step or 0) <= EVERY
    done(nodes, job)
    same(runs.folder, calm)
