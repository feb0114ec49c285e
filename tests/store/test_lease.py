"""Leases between processes: one maker at a time, whatever happens to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.store import lease
from ratchet.store.lease import Holder, Wait, leased
from ratchet.store.machine import Process, this_process

# A child that holds the lease until its standard input ends, then checks it: what it says is what it saw.
HOLD = """
import sys
from pathlib import Path
from ratchet.store import lease
lease.BEAT_SECONDS = 0.05
try:
    with lease.leased(Path(sys.argv[1]), what="the thing") as held:
        print("held", flush=True)
        sys.stdin.readline()
        held.check()
        print("checked", flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""

# A child that makes a thing unless it is there, and writes down what it saw.
MAKE = """
import os, sys, time
from pathlib import Path
from ratchet.store import lease
lease.LAPSE_SECONDS = 1e9
folder, thing, log = map(Path, sys.argv[1:4])
sys.stdin.readline()
said = []
with lease.leased(folder, what="the thing", wait=lease.Wait(said.append)) as held:
    with log.open("a") as file:
        file.write(f"in {os.getpid()}\\n")
    if not thing.exists():
        time.sleep(0.3)
        held.check()
        with log.open("a") as file:
            file.write(f"made {os.getpid()}\\n")
        thing.write_text("made")
    with log.open("a") as file:
        file.write(f"out {os.getpid()}\\n")
print(thing.read_text(), len(said), flush=True)
"""


@contextlib.contextmanager
def child(script: str, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stranger(folder: Path, generation: int = 1, **changes: Any) -> Path:
    """Write a lease as a process of another machine has it."""
    process = Process("elsewhere", "elsewhere 1 1", 1, 5)
    holder = Holder("t", "the thing", dataclasses.replace(process, **changes), 1, "2026-01-01T00:00:00Z")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{generation}.json"
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    return path


@dataclasses.dataclass
class Clock:
    """A clock of its own, which only sleeping moves: nothing depends on how busy the machine is."""

    now: float = 0.0
    then: Callable[[float], None] = lambda _: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


@pytest.mark.heavy
def test_of_many_processes_that_want_a_thing_one_makes_it_and_all_get_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        places = tmp_path / "lease", tmp_path / "thing", tmp_path / "log"
        children = [stack.enter_context(child(MAKE, *places)) for _ in range(8)]
        for one in children:
            go(one)
        answers = [line(one).split() for one in children]
    assert [answer[0] for answer in answers] == ["made"] * 8
    assert {answer[1] for answer in answers} <= {"0", "1"}  # told once, if at all
    log = [entry.split() for entry in (tmp_path / "log").read_text().splitlines()]
    assert sum(entry[0] == "made" for entry in log) == 1
    inside = [entry for entry in log if entry[0] != "made"]
    assert len(inside) == 16
    for first, second in zip(inside[::2], inside[1::2], strict=True):  # nobody comes in before the other is out
        assert (first[0], second[0], first[1]) == ("in", "out", second[1])
    assert files(tmp_path / "lease") == ["8.json"]
    assert (tmp_path / "lease" / "8.json").read_bytes() == b""


def test_a_killed_holder_is_followed_at_once_by_exactly_one(tmp_path: Path) -> None:
    places = tmp_path / "lease", tmp_path / "thing", tmp_path / "log"
    with child(HOLD, tmp_path / "lease") as first, contextlib.ExitStack() as stack:
        assert line(first) == "held"
        children = [stack.enter_context(child(MAKE, *places)) for _ in range(3)]
        for one in children:
            go(one)
        time.sleep(0.5)
        assert not (tmp_path / "log").exists()
        first.kill()  # not waited for: what is left of it is a zombie
        assert [line(one).split()[0] for one in children] == ["made"] * 3
    assert (tmp_path / "log").read_text().count("made") == 1


def test_a_stopped_holder_is_taken_over_and_must_not_publish_when_it_wakes(tmp_path: Path, clock: Clock) -> None:
    with child(HOLD, tmp_path) as first:
        assert line(first) == "held"
        first.send_signal(signal.SIGSTOP)
        with leased(tmp_path, what="the thing") as mine:
            assert clock.now >= lease.LAPSE_SECONDS
            first.send_signal(signal.SIGCONT)
            go(first)
            said = line(first)
            assert said.startswith("RunError") and f"process {os.getpid()}" in said
            assert first.wait() == 0
            mine.check()  # its end leaves the other's lease alone
            assert files(tmp_path) == ["2.json"]


@pytest.mark.parametrize("after", ["let go", "held by a third", "its folder removed", "begun again"])
def test_a_sleeper_that_wakes_when_others_are_long_done_knows_it(tmp_path: Path, clock: Clock, after: str) -> None:
    folder = tmp_path / "lease"
    with child(HOLD, folder) as first, contextlib.ExitStack() as stack:
        assert line(first) == "held"
        first.send_signal(signal.SIGSTOP)
        with leased(folder, what="the thing"):
            pass
        if after in {"its folder removed", "begun again"}:
            (folder / "2.json").unlink()
            folder.rmdir()
        if after in {"held by a third", "begun again"}:
            third = stack.enter_context(leased(folder, what="the thing"))
            assert third.generation == (3 if after == "held by a third" else 1)
        first.send_signal(signal.SIGCONT)
        go(first)
        lost = "it was there and is gone" if after == "its folder removed" else "the thing: another process took over"
        assert lost in line(first)
        assert first.wait() == 0
        if after in {"held by a third", "begun again"}:
            third.check()


def test_a_holder_that_renews_is_waited_for_and_named_once(tmp_path: Path, clock: Clock) -> None:
    path, said = stranger(tmp_path), list[str]()

    def renew(now: float) -> None:
        if now < 3 * lease.LAPSE_SECONDS:
            os.utime(path, (now, now))
        else:
            path.write_bytes(b"")  # as one that has released it

    clock.then = renew
    with leased(tmp_path, what="the thing", wait=Wait(said.append)):
        assert clock.now >= 3 * lease.LAPSE_SECONDS
    assert said == ["waiting for the thing: process 1 on elsewhere, since 2026-01-01T00:00:00Z is at it"]


@pytest.mark.slow  # the holder has real seconds to renew it in, which a busy machine may not give
def test_a_process_that_renews_is_waited_for_and_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 5.0)
    said: list[str] = []
    with child(HOLD, tmp_path) as first:
        assert line(first) == "held"
        threading.Timer(15, go, [first]).start()
        began = time.monotonic()
        with leased(tmp_path, what="the thing", wait=Wait(said.append)):
            assert time.monotonic() - began >= 12
        assert line(first) == "checked"
    assert len(said) == 1 and said[0].startswith(f"waiting for the thing: process {first.pid} on ")


@pytest.mark.parametrize("content", ["whole", "{", "[]", '{"token": 1}', "\xff"])
def test_a_lease_of_another_machine_or_that_cannot_be_read_lapses(tmp_path: Path, clock: Clock, content: str) -> None:
    path = stranger(tmp_path)
    if content != "whole":
        path.write_bytes(content.encode("latin-1"))
    said: list[str] = []
    with leased(tmp_path, what="the thing", wait=Wait(said.append)) as mine:
        assert clock.now >= lease.LAPSE_SECONDS
        mine.check()
    who = "process 1 on elsewhere, since 2026-01-01T00:00:00Z" if content == "whole" else "an unknown process"
    assert said == [f"waiting for the thing: {who} is at it"]
    assert files(tmp_path) == ["2.json"]


def test_a_holder_that_is_not_heard_of_is_waited_for_as_long_as_told_and_no_longer(
    tmp_path: Path, clock: Clock
) -> None:
    stranger(tmp_path)
    with leased(tmp_path, what="the thing") as mine:
        mine.check()
    longest_look = lease._PAUSES[1]
    assert lease.LAPSE_SECONDS <= clock.now <= lease.LAPSE_SECONDS + 2 * longest_look
    assert lease.LAPSE_SECONDS == 60.0  # as docs/sweeps.md says


@pytest.mark.parametrize(
    ("pid", "started", "waits"),
    [(os.getpid(), lambda ticks: ticks, True), (os.getpid(), lambda ticks: ticks + 1, False), (2**22 + 1, int, False)],
    ids=["alive", "its number is another's now", "gone"],
)
def test_a_holder_on_this_machine_is_asked_of_the_system(
    tmp_path: Path, clock: Clock, pid: int, started: Callable[[int], int], waits: bool
) -> None:
    me = this_process()
    assert me.started is not None
    stranger(tmp_path / "a", machine=me.machine, pid=pid, started=started(me.started))
    said: list[str] = []
    with leased(tmp_path / "a", what="the thing", wait=Wait(said.append)):
        assert bool(said) == waits


def test_who_was_stopped_with_the_holder_does_not_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger(tmp_path)
    watch = lease._Watch()
    watch.look(tmp_path)
    clock = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watch.look(tmp_path)
    assert watch.still <= lease._LONGEST_GAP < lease.LAPSE_SECONDS


def test_two_threads_exclude_each_other_and_one_does_not_wait_for_itself(tmp_path: Path) -> None:
    seen: list[str] = []

    def work(name: str) -> None:
        with leased(tmp_path, what=name):
            seen.append(f"in {name}")
            time.sleep(0.05)
            seen.append(f"out {name}")

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    with leased(tmp_path, what="mine"):
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert seen == []
        with pytest.raises(RuntimeError, match="waits for a lease that it holds"), leased(tmp_path, what="mine"):
            pass
    for thread in threads:
        thread.join()
    assert [entry.split()[0] for entry in seen] == ["in", "out"] * 4
    assert [entry.split()[1] for entry in seen[::2]] == [entry.split()[1] for entry in seen[1::2]]
