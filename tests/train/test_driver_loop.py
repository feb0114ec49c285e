"""The driver beside training: when it waits for workers that are gone, when it ends, and what it says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.documents.events import Event, write_event
from ratchet.errors import StoppedError
from ratchet.store.files import write_json
from ratchet.store.machine import has_ray
from ratchet.store.made import hold
from ratchet.train import driver_loop as module
from ratchet.train import launch
from ratchet.train.driver_loop import Nodes, NodeWatch, Told, refuse_stopped, watched
from ratchet.train.group import scratch_folder
from ratchet.train.notice import WORKERS, Notice, read_notice
from ratchet.train.worker import check_driver
from train_bench import spec_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("ratchet.train.driver_loop.live_nodes", lambda: Nodes({}, {}, frozenset()))


def test_a_ray_train_that_cannot_be_loaded_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that starts it says why it ended, whatever it was: the driver waits for its word."""
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    fitted: Future[Mapping[str, Any]] = Future()
    launch._fit(fitted, spec_of(tmp_path), {"CPU": 1.0}, 0, None, lambda config: {})
    assert isinstance(fitted.exception(timeout=0), ImportError)


class Training:
    """Stands for Ray Train: begins, and ends when it is let go."""

    def __init__(self, folder: Path, begun: bool = True) -> None:
        self.folder, self.begun, self.over, self.calls = folder, begun, threading.Event(), 0

    def __call__(self) -> Mapping[str, Any]:
        self.calls += 1
        if self.begun:
            write_json(self.folder / WORKERS, {"nodes": ["a"]})
        self.over.wait(600)
        return {"ended": {"kind": "stop", "step": 7}}


def beside(folder: Path, training: Training, stop: Any, **fields: Any) -> tuple[Any, list[str]]:
    spec, said = spec_of(folder, **fields), []
    refuse_stopped(spec, stop())
    fitted: Future[Mapping[str, Any]] = Future()
    threading.Thread(target=lambda: fitted.set_result(training()), daemon=True).start()
    return watched(spec, fitted, NodeWatch(spec, {"CPU": 1.0}), stop, Told(spec, said.append)), said


def test_a_stop_that_was_obeyed_is_told_as_what_it_was(tmp_path: Path) -> None:
    """Ray takes the workers away some seconds before their word arrives."""
    training, looks = Training(tmp_path), 0

    def stop() -> str | None:
        nonlocal looks
        if read_notice(tmp_path, None) == Notice("stop", "asked"):
            (tmp_path / WORKERS).unlink(missing_ok=True)
            threading.Timer(0.1, training.over.set).start()
        looks += (tmp_path / WORKERS).exists()
        return "asked" if looks > 1 else None  # once the driver has seen the workers too

    outcome, _ = beside(tmp_path, training, stop)
    assert outcome["ended"] == {"kind": "stop", "step": 7}


def test_where_training_never_began_a_stop_is_not_waited_for(tmp_path: Path) -> None:
    training = Training(tmp_path, begun=False)
    with raises("stopped.without-workers"):
        beside(tmp_path, training, lambda: "asked" if training.calls else None)
    training.over.set()


def test_a_stop_that_is_known_before_begins_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with pytest.raises(StoppedError):
        beside(tmp_path, training, lambda: "asked")
    assert training.calls == 0


def test_workers_that_do_not_come_back_are_not_waited_for_after_a_stop(tmp_path: Path) -> None:
    training, lost = Training(tmp_path), []

    def stop() -> str | None:
        if (tmp_path / WORKERS).exists() and not lost:
            (tmp_path / WORKERS).unlink()
            lost.append(True)
        return "asked" if lost else None

    with pytest.raises(StoppedError):
        beside(tmp_path, training, stop)
    training.over.set()


def test_a_trial_that_was_dropped_before_begins_no_workers(tmp_path: Path) -> None:
    training = Training(tmp_path, begun=False)
    (tmp_path / "stop.json").touch()
    with raises("training.dropped"):
        beside(tmp_path, training, lambda: None, stop_file=str(tmp_path / "stop.json"))
    assert training.calls == 0


def test_waiting_for_room_is_said_once_and_so_is_what_happens_to_the_step(tmp_path: Path) -> None:
    write_event(tmp_path, Event(code="group-began", what="of an earlier call"))
    training = Training(tmp_path, begun=False)
    looks = iter(range(1000))

    def stop() -> None:
        if next(looks) == 100:
            write_event(tmp_path, Event(code="group-began", what="1 worker (abc) began"))
            training.over.set()

    _, said = beside(tmp_path, training, stop, workers=3)
    assert [line.split(maxsplit=1)[1].strip() for line in said] == [
        "waits for room for 3 workers on the cluster",
        "1 worker (abc) began",
    ]


def test_a_cluster_that_does_not_answer_for_a_moment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, training = [], Training(tmp_path)

    def seen() -> Nodes:
        looks.append(True)
        if len(looks) > 3:
            training.over.set()
        raise RuntimeError("the GCS is away")

    monkeypatch.setattr("ratchet.train.driver_loop.live_nodes", seen)
    outcome, _ = beside(tmp_path, training, lambda: None)
    assert outcome["ended"]["step"] == 7


def test_workers_of_a_driver_that_was_displaced_do_not_begin(tmp_path: Path) -> None:
    with hold(tmp_path) as lease:
        spec = spec_of(tmp_path, lease=str(lease.folder), generation=lease.generation)
        check_driver(spec)
        (lease.folder / f"{lease.generation + 1}.json").write_text("{}")
        with raises("run.taken-over"):
            check_driver(spec)
        for path in lease.folder.iterdir():
            path.unlink()
        with raises("storage.gone"):
            check_driver(spec)


def test_what_ended_the_training_comes_out_where_places_cannot_be_removed(tmp_path: Path) -> None:
    slots = tmp_path / "slots"
    slots.write_bytes(b"\xff")  # no text
    with pytest.raises(ArithmeticError, match="first") as caught, scratch_folder(tmp_path, "one", slots):
        raise ArithmeticError("the first failure")
    assert ["places were not removed" in note for note in caught.value.__notes__] == [True]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.heavy
def test_no_ray_is_started_to_remove_places_of_one_that_is_gone(tmp_path: Path) -> None:
    slots, before = tmp_path / "slots", has_ray()
    slots.write_text("07" * 18)  # a placement group's id
    with pytest.raises(ArithmeticError, match="first"), scratch_folder(tmp_path, "one", slots):
        raise ArithmeticError("the first failure")
    assert has_ray() == before
    assert [*tmp_path.iterdir()] == []
