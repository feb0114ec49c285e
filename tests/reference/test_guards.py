"""What guards a scoring pass: blocks that kill their process, and processes that stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.reference.processes import attempt, family, still_there


def test_a_block_that_ended_was_not_begun_in_vain(tmp_path: Path) -> None:
    for _ in range(3):
        with attempt(tmp_path / "block-4", "run") as before:
            assert before == 0
    with pytest.raises(ZeroDivisionError), attempt(tmp_path / "block-4", "run"):  # an error is no death
        raise ZeroDivisionError
    with attempt(tmp_path / "block-4", "run") as before:
        assert before == 0
    assert not list(tmp_path.iterdir())


def test_deaths_over_a_block_are_counted_in_one_run_only(tmp_path: Path) -> None:
    dies = (
        "import os, sys; from pathlib import Path; from ratchet.reference.processes import attempt\n"
        "with attempt(Path(sys.argv[1]) / 'block-4', sys.argv[2]): os._exit(9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", dies, str(tmp_path), "run"], check=False)
    with attempt(tmp_path / "block-5", "run") as other_block:
        assert other_block == 0
    with attempt(tmp_path / "block-4", "run") as before:
        assert before == 2
    subprocess.run([sys.executable, "-c", dies, str(tmp_path), "run"], check=False)
    with attempt(tmp_path / "block-4", "another run") as before:
        assert before == 0


def test_a_process_is_waited_for_until_it_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert still_there([process.pid], 0.2) == [process.pid]
    process.kill()
    assert still_there([process.pid], 500) == []  # though nobody has waited for it yet
    process.wait()
    assert still_there([process.pid], 0) == []


def test_a_node_has_processes_that_hang_below_no_one_of_it() -> None:
    """As a fork server and its workers do, once the process that started it has ended."""
    node = subprocess.Popen(["sleep", "600"])
    try:
        theirs = {**os.environ, "RAY_RAYLET_PID": str(node.pid)}
        with subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; wait"], env=theirs, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            worker = int(server.stdout.readline())
            assert sorted(family(node.pid)) == sorted([node.pid, server.pid, worker])
            server.kill()
            server.wait()
            assert family(node.pid) == [node.pid, worker]
            assert family(worker) == [worker]
            os.kill(worker, signal.SIGKILL)
        assert family(os.getpid())[0] == os.getpid()
    finally:
        node.kill()
        node.wait()
