"""One driver on a run folder: who is alive is not displaced, who is lost is, and who was displaced records nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raised import raises
from ratchet.store import lease
from ratchet.store.lease import Holder
from ratchet.store.machine import Process
from ratchet.store.made import HELD, hold


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "_PAUSES", (0.02, 0.05))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The lease of a process on another machine."""
    path = tmp_path / HELD / "1.json"
    path.parent.mkdir()
    holder = Holder("token", "a run", Process("pod-7", "pod-7 boot 1", 12, 34), 1, "2026-11-21T10:00:00Z")
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    return path


@pytest.fixture
def beating(elsewhere: Path) -> Iterator[Path]:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(elsewhere)

    thread = threading.Thread(target=beat)
    thread.start()
    yield elsewhere
    over.set()
    thread.join()


def test_a_driver_on_another_machine_that_renews_its_lease_is_not_displaced(tmp_path: Path, beating: Path) -> None:
    said: list[str] = []
    alive = "process 12 on pod-7, since 2026-11-21T10:00:00Z"
    with raises("run.held", alive) as raised, hold(tmp_path, said.append):
        pass
    assert "another name" in raised.value.fix and raised.value.exit_code == 6
    assert len(said) == 1 and "waiting" in said[0]


def test_a_driver_on_another_machine_that_is_lost_is_displaced(tmp_path: Path, elsewhere: Path) -> None:
    with hold(tmp_path) as held:
        held.check()
        assert held.generation == 2


def test_a_displaced_driver_may_record_nothing(tmp_path: Path) -> None:
    """It was cut off for longer than the lease lasts, and another one goes on with its run."""
    with hold(tmp_path) as old:
        (tmp_path / HELD / "2.json").write_text(json.dumps(dataclasses.asdict(old.holder) | {"token": "another"}))
        with raises("run.taken-over"):
            old.check()
