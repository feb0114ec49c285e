"""Following a job over connections that break: nothing twice, nothing lost, and the end that the job had."""

from __future__ import annotations

import datetime
import io
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_server import JobServer, hangs, job_server, resets, says, stops_half_way
from ratchet.errors import ClusterError, PlanError, RunError, StoppedError
from ratchet.submit import client
from ratchet.submit.address import find_address, is_in_the_open
from ratchet.submit.client import RayJobs, connect
from ratchet.submit.follow import follow
from ratchet.submit.job import DIGEST, Job, Submission, exit_status, place
from ratchet.submit.stop import stop
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
MADE = Submission("tiny", "0123456789abcdef0123", "true", {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    with job_server() as found:
        yield found


def followed(jobs: RayJobs, patience: float = 30.0) -> tuple[Job, str, str]:
    out, told = io.StringIO(), io.StringIO()
    job = follow(jobs, "one", out, patience=patience, poll=0.001, console=Console(told))
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


@settings(max_examples=25)
@given(st.lists(st.text("ab\né", min_size=1, max_size=5), min_size=1, max_size=6), st.lists(st.sampled_from(FAULTS)))
def test_a_log_is_written_once_and_whole_whatever_breaks_on_the_way(parts: list[str], faults: list[object]) -> None:
    with job_server() as server:
        jobs = connect(server.address, None)
        grows(server, parts)
        server.faults.extend(faults)
        job, text, _ = followed(jobs)
    assert text == "".join(parts)
    assert (job.status, exit_status(job)) == ("FAILED", 3)


def test_silence_is_told_once_and_its_end_too(server: JobServer) -> None:
    jobs = connect(server.address, None)
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
    jobs, over = connect(server.address, None), threading.Event()
    grows(server, ["a\n", "b\n"])
    server.faults.extend([None, None, hangs(over)])
    try:
        _, text, told = followed(jobs)
    finally:
        over.set()
    assert text == "a\nb\n"
    assert "timed out" in told


def test_patience_ends_with_what_to_do(server: JobServer) -> None:
    jobs = connect(server.address, None)
    server.add("one")
    server.always = says(503, "starting")
    with pytest.raises(ClusterError, match=r"no answer for .*the server fails \(503\): starting") as caught:
        followed(jobs, patience=0.1)
    assert caught.value.exit_code == 69
    assert "follow it again" in caught.value.fix


def test_a_head_that_forgot_the_job_ends_the_following(server: JobServer) -> None:
    with pytest.raises(ClusterError, match="knows no such job") as caught:
        followed(connect(server.address, None))
    assert "submit again" in caught.value.fix


def test_a_log_that_cannot_be_read_costs_no_exit_status(server: JobServer) -> None:
    jobs = connect(server.address, None)
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
    with pytest.raises(ClusterError, match="runtime_env setup failed"):
        exit_status(job_of("FAILED", None, "traceback\nruntime_env setup failed\n"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(401, "Unauthorized"), r"asks for a token \(401\)"),
        (says(403, "Forbidden"), r"asks for a token \(403\)"),
        (says(404), "not Ray's dashboard"),
        (says(200, "<html>hello", "text/html"), "not Ray's dashboard"),
        (says(302, "", Location="http://127.0.0.1:9/login"), "not Ray's dashboard"),
        (says(200, '["json"]'), "not Ray's dashboard"),
        (says(500, "broken"), r"the server fails \(500\): broken"),
        (resets, "no answer"),
        (stops_half_way, "no answer"),
        (lambda handler: handler.wfile.write(b"\x00\x00\x06\x04\x00HTTP/2 of the GCS"), "no answer"),
    ],
)
def test_what_is_not_a_cluster_of_ours_is_one_clear_error(server: JobServer, answer: object, words: str) -> None:
    server.always = answer
    with pytest.raises(ClusterError, match=words) as caught:
        connect(server.address, None)
    assert caught.value.fix or "fails" in words
    assert server.address in str(caught.value)


def test_no_server_no_tls_and_old_ray_are_told(server: JobServer) -> None:
    server.version = "2.9.3"
    with pytest.raises(ClusterError, match=r"runs Ray 2\.9\.3, and Ratchet needs 2\.60 or newer"):
        connect(server.address, None)
    with pytest.raises(ClusterError, match="no TLS with this server"):
        connect(server.address.replace("http", "https"), None)
    gone = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(ClusterError, match="no answer: Connection refused"):
        connect(gone, None)


def self_signed(path: Path) -> Path:
    """Write a certificate of 127.0.0.1 with its key, valid today."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_an_unknown_certificate_is_refused_and_ca_trusts_it(tmp_path: Path, server: JobServer) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(self_signed(tmp_path / "ca.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = server.address.replace("http", "https")
    with pytest.raises(ClusterError, match="no TLS with this server"):
        connect(address, None)
    assert connect(address, str(tmp_path / "ca.pem")).running() == []


def test_the_address_given_wins_over_ray_s_variables(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    connect(server.address, None)
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
    jobs = connect(server.address, None)
    assert place(jobs, MADE, None) == ("tiny-0123456789-1", True)
    assert place(jobs, MADE, None) == ("tiny-0123456789-1", False)
    server.end("tiny-0123456789-1", "FAILED", 5)
    assert place(jobs, MADE, None) == ("tiny-0123456789-2", True)
    assert place(jobs, MADE, "mine") == ("mine", True)
    server.end("mine", "SUCCEEDED", 0)
    assert place(jobs, MADE, "mine") == ("mine", False), "a name that was given is one attempt"


def test_a_lost_answer_does_not_start_a_second_job(server: JobServer) -> None:
    jobs = connect(server.address, None)
    server.faults.extend([None, resets])  # asked whether it is there; started, and the answer is lost
    assert place(jobs, MADE, None) == ("tiny-0123456789-1", False)
    assert list(server.jobs) == ["tiny-0123456789-1"]


def test_another_job_s_name_is_refused(server: JobServer) -> None:
    server.add("mine", metadata={DIGEST: "another"})
    with pytest.raises(RunError, match="made from something else"):
        place(connect(server.address, None), MADE, "mine")
    with pytest.raises(PlanError, match="63 at most"):
        place(connect(server.address, None), MADE, "../mine")


def test_a_stop_takes_the_plan_s_one_job(server: JobServer) -> None:
    jobs, out = connect(server.address, None), io.StringIO()
    with pytest.raises(RunError, match="no such job runs"):
        stop(jobs, "tiny", None, out, patience=1)
    place(jobs, MADE, None)
    place(jobs, MADE, "mine")
    with pytest.raises(RunError, match="several jobs of this plan run: tiny-0123456789-1, mine"):
        stop(jobs, "tiny", None, out, patience=1)
    server.logs["mine"] = "before\n"
    assert stop(jobs, "tiny", "mine", out, patience=1).status == "STOPPED"
    assert out.getvalue() == "", "what stood in the log before is not written again"
