"""Following a job over connections that break: nothing twice, nothing lost, and the end that the job had."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_server import JobServer, hangs, job_server, resets, says, stops_half_way
from nightly import examples
from raised import raises
from ratchet.errors import StoppedError
from ratchet.submit import client
from ratchet.submit.client import RayJobs, connect_jobs
from ratchet.submit.follow import follow_job
from ratchet.submit.job import Job, exit_status
from ratchet.track.progress import Console

FAULTS = [
    None,
    None,
    resets,
    stops_half_way,
    says(500),
    says(502, "<html>bad gateway"),
    says(200, "<p>login", "text/html"),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    with job_server() as found:
        yield found


def followed(jobs: RayJobs, patience: float = 30.0) -> tuple[Job, str, str]:
    out, told = io.StringIO(), io.StringIO()
    job = follow_job(jobs, "one", out, patience=patience, poll=0.001, console=Console(told))
    return job, out.getvalue(), told.getvalue()


def grows(server: JobServer, parts: list[str]) -> None:
    """Let the job's log grow by a part after each time that it is read, and the job end with the last."""
    left = list(parts)

    def on_log(name: str) -> None:
        if left:
            server.logs[name] = server.logs.get(name, "") + left.pop(0)
        if not left:
            server.end(name, "FAILED", 3)

    server.add("one")
    server.on_log = on_log


@pytest.mark.heavy
@settings(max_examples=examples(25))
@given(
    st.lists(st.text("ab\né", min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.sampled_from(FAULTS), max_size=9),
)
def test_a_log_is_written_once_and_whole_whatever_breaks_on_the_way(parts: list[str], faults: list[object]) -> None:
    with job_server() as server:
        jobs = connect_jobs(server.address, None)
        grows(server, parts)
        server.faults.extend(faults)
        job, text, _ = followed(jobs)
    assert text == "".join(parts)
    assert (job.status, exit_status(job)) == ("FAILED", 3)


def test_silence_is_told_once_and_its_end_too(server: JobServer) -> None:
    jobs = connect_jobs(server.address, None)
    grows(server, ["a\n"])
    server.faults.extend([resets, says(503), resets])
    _, text, told = followed(jobs)
    assert text == "a\n"
    assert [line.split(";")[0].split(" after")[0] for line in told.splitlines() if "answer" in line] == [
        told.splitlines()[0].split(";")[0],
        "an answer again",
    ]


def test_a_server_that_hangs_is_no_answer(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUTS", (5.0, 0.2))
    jobs, over = connect_jobs(server.address, None), threading.Event()
    grows(server, ["a\n", "b\n"])
    server.faults.extend([None, None, hangs(over)])
    try:
        _, text, told = followed(jobs)
    finally:
        over.set()
    assert text == "a\nb\n"
    assert "timed out" in told


def test_patience_ends_with_what_to_do(server: JobServer) -> None:
    jobs = connect_jobs(server.address, None)
    server.add("one")
    server.always = says(503, "starting")
    with raises("cluster.no-answer") as caught:
        followed(jobs, patience=0.1)
    assert "(503): starting" in caught.value.what
    assert caught.value.exit_code == 69
    assert "follow it again" in caught.value.fix


def test_a_head_that_forgot_the_job_ends_the_following(server: JobServer) -> None:
    with raises("cluster.forgot-job") as caught:
        followed(connect_jobs(server.address, None))
    assert "submit again" in caught.value.fix


def test_a_log_that_cannot_be_read_costs_no_exit_status(server: JobServer) -> None:
    jobs = connect_jobs(server.address, None)
    server.add("one")
    server.end("one", "SUCCEEDED", 0)
    server.faults.extend([None, says(500)] * 20)  # the status is told, the log never
    job, text, told = followed(jobs)
    assert (exit_status(job), text) == (0, "")
    assert "the end of its log is not to be had" in told


def job_of(status: str, exit_code: int | None = None, message: str = "") -> Job:
    return Job("one", status, message, exit_code, "tiny", "", 3)


@pytest.mark.parametrize(
    ("job", "status"),
    [
        (job_of("SUCCEEDED", 0), 0),
        (job_of("FAILED", 2), 2),
        (job_of("FAILED", 75), 75),
        (job_of("FAILED", -9), 137),  # as a shell says it
    ],
)
def test_the_driver_s_exit_status_is_the_command_s(job: Job, status: int) -> None:
    assert exit_status(job) == status


def test_ends_without_a_driver_s_status_are_errors_of_their_own() -> None:
    with pytest.raises(StoppedError):
        exit_status(job_of("STOPPED"))
    with raises("cluster.no-command") as caught:
        exit_status(job_of("FAILED", None, "traceback\nruntime_env setup failed\n"))
    assert "runtime_env setup failed" in caught.value.what
