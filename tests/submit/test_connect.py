"""Reaching a cluster, one job for the same thing, and stops, against a server that misbehaves."""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificate import self_signed
from job_server import JobServer, job_server, resets, says, stops_half_way
from raised import raises
from ratchet.errors import PlanError
from ratchet.serving.address import is_in_the_open
from ratchet.submit import client
from ratchet.submit.client import connect_jobs
from ratchet.submit.follow import stop
from ratchet.submit.job import DIGEST, Submission, find_address, submit_once

MADE = Submission("tiny", "0123456789abcdef0123", "true", {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    with job_server() as found:
        yield found


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (says(401, "Unauthorized"), "cluster.no-token"),
        (says(403, "Forbidden"), "cluster.no-token"),
        (says(404), "cluster.not-ray"),
        (says(200, "<html>hello", "text/html"), "cluster.not-ray"),
        (says(302, "", Location="http://127.0.0.1:9/login"), "cluster.not-ray"),
        (says(200, '["json"]'), "cluster.not-ray"),
        (says(500, "broken"), "cluster.no-answer"),
        (resets, "cluster.no-answer"),
        (stops_half_way, "cluster.no-answer"),
        (lambda handler: handler.wfile.write(b"\x00\x00\x06\x04\x00HTTP/2 of the GCS"), "cluster.no-answer"),
    ],
)
def test_what_is_not_a_cluster_of_ours_is_one_clear_error(server: JobServer, answer: object, code: str) -> None:
    server.always = answer
    with raises(code) as caught:
        connect_jobs(server.address, None)
    assert caught.value.fix or "(500): broken" in caught.value.what
    assert server.address in str(caught.value)


def test_no_server_no_tls_and_old_ray_are_told(server: JobServer) -> None:
    server.version = "2.9.3"
    with raises("cluster.old-ray"):
        connect_jobs(server.address, None)
    with raises("cluster.no-tls"):
        connect_jobs(server.address.replace("http", "https"), None)
    gone = server.address
    server.shutdown()
    server.server_close()
    with raises("cluster.no-answer") as caught:
        connect_jobs(gone, None)
    assert "Connection refused" in caught.value.what


def test_an_unknown_certificate_is_refused_and_ca_trusts_it(tmp_path: Path, server: JobServer) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(self_signed(tmp_path / "ca.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = server.address.replace("http", "https")
    with raises("cluster.no-tls"):
        connect_jobs(address, None)
    assert connect_jobs(address, str(tmp_path / "ca.pem")).running() == []


def test_the_address_given_wins_over_ray_s_variables(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    connect_jobs(server.address, None)
    assert server.requests == ["GET /api/version"]


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        ("http://h:8265/", {"RAY_API_SERVER_ADDRESS": "http://other:1"}, "http://h:8265"),
        ("h:8265", {}, "http://h:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "https://h"}, "https://h"),
        (None, {"RAY_ADDRESS": "https://h"}, "https://h"),
    ],
)
def test_addresses_come_from_the_option_or_ray_s_variables(given: str, environment: dict[str, str], found: str) -> None:
    assert find_address(given, environment) == found


@pytest.mark.parametrize("address", [None, "ray://h:10001", "http://", "http://a:b@h:1", "http://h:x", "http://h?q=1"])
def test_other_addresses_are_refused(address: str | None) -> None:
    with pytest.raises(PlanError) as caught:
        find_address(address, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert "a:b" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "open_"),
    [
        ("http://127.0.0.1:8265", False),
        ("http://[::1]:8265", False),
        ("http://10.1.2.3:8265", False),
        ("http://8.8.8.8:8265", True),
        ("http://[::ffff:8.8.8.8]:8265", True),
        ("https://8.8.8.8", False),
    ],
)
def test_plain_http_to_the_open_internet_is_known(address: str, open_: bool) -> None:
    assert is_in_the_open(address) is open_


def test_the_same_thing_is_one_job_until_it_has_ended(server: JobServer) -> None:
    jobs = connect_jobs(server.address, None)
    assert submit_once(jobs, MADE, None) == ("tiny-0123456789-1", True)
    assert submit_once(jobs, MADE, None) == ("tiny-0123456789-1", False)
    server.end("tiny-0123456789-1", "FAILED", 5)
    assert submit_once(jobs, MADE, None) == ("tiny-0123456789-2", True)
    assert submit_once(jobs, MADE, "mine") == ("mine", True)
    server.end("mine", "SUCCEEDED", 0)
    assert submit_once(jobs, MADE, "mine") == ("mine", False), "a name that was given is one attempt"


def test_a_lost_answer_does_not_start_a_second_job(server: JobServer) -> None:
    jobs = connect_jobs(server.address, None)
    server.faults.extend([None, resets])  # asked whether it is there; started, and the answer is lost
    assert submit_once(jobs, MADE, None) == ("tiny-0123456789-1", False)
    assert list(server.jobs) == ["tiny-0123456789-1"]


def test_a_cluster_that_is_not_ready_is_asked_again(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_SECONDS", (0.01,))
    server.busy = 1
    assert submit_once(connect_jobs(server.address, None), MADE, None) == ("tiny-0123456789-1", True)
    server.busy = 2
    with raises("cluster.no-answer"):
        submit_once(connect_jobs(server.address, None), MADE, "mine")


def test_another_job_s_name_is_refused(server: JobServer) -> None:
    server.add("mine", metadata={DIGEST: "another"})
    with raises("run.other-job"):
        submit_once(connect_jobs(server.address, None), MADE, "mine")
    with raises("plan.job-setting"):
        submit_once(connect_jobs(server.address, None), MADE, "../mine")


def test_a_stop_takes_the_plan_s_one_job(server: JobServer) -> None:
    jobs, out = connect_jobs(server.address, None), io.StringIO()
    with raises("run.no-job"):
        stop(jobs, "tiny", None, out, patience=1)
    submit_once(jobs, MADE, None)
    submit_once(jobs, MADE, "mine")
    with raises("run.no-job") as caught:
        stop(jobs, "tiny", None, out, patience=1)
    assert "tiny-0123456789-1, mine" in caught.value.what
    server.logs["mine"] = "before\n"
    assert stop(jobs, "tiny", "mine", out, patience=1) == 0
    assert out.getvalue() == "", "what stood in the log before is not written again"
