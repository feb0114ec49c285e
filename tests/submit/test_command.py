"""`ratchet submit` as a process: Ctrl-C, what stands on standard output, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from job_server import JobServer, job_server
from ratchet import cli

PLAN = """\
name: small
model: {scratch: {tokenizer_from: [sums], max_positions: 1024}}
data: {sums: {generate: {kind: arithmetic}}}
stages: {warm: {kind: sft, data: [sums]}}
cluster: {storage: /mnt/store}
"""


@pytest.fixture
def server() -> Iterator[JobServer]:
    with job_server() as found:
        yield found


# A shell's background job, and so its children, are born deaf to Ctrl-C.
COMMAND = """
import signal, sys
from ratchet.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


Said = tuple[int, str, str]
"""An exit status, standard output and standard error."""


@pytest.fixture
def here(
    server: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """`ratchet submit` in this process, which costs none of the seconds that a new one takes to load."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server.address)

    def call(*more: str) -> Said:
        return cli.main(["submit", "plan.yaml", *more]), *capfd.readouterr()

    return call


def submit(server: JobServer, folder: Path, *more: str) -> subprocess.Popen[str]:
    (folder / "plan.yaml").write_text(PLAN)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "submit", "plan.yaml", *more], cwd=folder, text=True,
        env=kept | {"RAY_API_SERVER_ADDRESS": server.address, "HOME": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.heavy
def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(server: JobServer, tmp_path: Path) -> None:
    with submit(server, tmp_path, "--set", "cluster.storage=/mnt/my store", "--stop-wait", "90") as following:
        assert following.stdout is not None
        name = following.stdout.readline().removeprefix("job: ").strip()
        server.logs[name] = "a line\n"
        assert following.stdout.readline() == "a line\n", "so it follows"
        following.send_signal(signal.SIGINT)
        try:
            _, told = following.communicate()
        finally:
            following.kill()
    assert following.returncode == 130
    assert "Traceback" not in told
    assert f"{name} goes on" in told
    job = f"ratchet submit plan.yaml --address {server.address} --id {name}"
    sets = ["--set", "cluster.storage=/mnt/my store", "--stop-wait", "90"]
    assert f"to stop it: {job} --stop\n" in told
    assert server.jobs[name]["status"] == "PENDING"
    assert not [asked for asked in server.requests if asked.endswith("/stop")]
    again = next(line for line in told.splitlines() if line.startswith("to follow it again: "))
    assert shlex.split(again)[4:] == [*shlex.split(job), *sets]
    jobs = list(server.jobs)
    with submit(server, tmp_path, *shlex.split(again)[7:], "--no-wait") as same:  # as printed, it is the same job
        _, told = same.communicate()
    assert "is there already" in told and list(server.jobs) == jobs
    with submit(server, tmp_path, "--address", server.address, "--id", name, "--stop", "--patience", "1") as stopping:
        stopping.communicate()
    assert any(asked.endswith(f"{name}/stop") for asked in server.requests), "the printed command stops it"


def test_a_stop_by_name_needs_no_plan_that_could_be_submitted(here: Callable[..., Said]) -> None:
    status, _, told = here("--set", "cluster.storage=outputs", "--stop")
    assert status != 2 and "no such job runs" in told
    _, _, told = here("--set", "stages.none=1", "--id", "small-1", "--stop")
    assert "small-1: no such job runs" in told


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("status", "exit_code", "returned", "words"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 5, 5, ""),
        ("STOPPED", None, 75, "the job was stopped"),
        ("FAILED", None, 69, "the job failed, and not by its command: the worker died"),
    ],
)
def test_the_command_ends_as_the_job_does(
    server: JobServer, here: Callable[..., Said], status: str, exit_code: int | None, returned: int, words: str
) -> None:
    def on_log(name: str) -> None:
        server.logs[name] = "all\n"
        server.end(name, status, exit_code, "a trace\nthe worker died")

    server.on_log = on_log
    ended, out, told = here()
    assert ended == returned, told
    assert out.splitlines() == [f"job: {next(iter(server.jobs))}", "all"]
    assert words in told


def test_a_file_that_git_ignores_goes_when_it_is_asked_for(
    server: JobServer, here: Callable[..., Said], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / ".gitignore").write_text("*.jsonl\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    words = ["--no-wait", "--set", "data.sums={path: rows.jsonl}"]
    status, _, told = here(*words)
    assert status == 2
    assert "data.sums.path: rows.jsonl is ignored by git" in told
    assert not server.requests, "nothing was asked or sent"
    status, _, told = here(*words, "--ignored")
    assert status == 0, told
    assert len(server.jobs) == 1
