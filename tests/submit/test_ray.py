"""Jobs on a real Ray with token authentication: what arrives, one job of many submissions, ends, stops."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightly import nightly
from raised import raises
from ratchet.errors import StoppedError
from ratchet.submit.client import RayJobs, connect_jobs
from ratchet.submit.files import StagedFile, library, pack, unpack
from ratchet.submit.follow import follow_job, stop
from ratchet.submit.job import Job, Submission, exit_status, job_runtime_env, submit_once
from ratchet.track.progress import Console
from ray_head import Head, get, plain_environment
from whole_run import processes_below

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def jobs(token_head: Head) -> Iterator[RayJobs]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        # Ray reads RAY_AUTH_MODE once in a process; commands of their own below get the token that way.
        patch.setenv("RAY_JOB_HEADERS", json.dumps({"Authorization": f"Bearer {token_head.token}"}))
        yield connect_jobs(token_head.dashboard, None)


def made(name: str, code: str, folder: Path, files: tuple[StagedFile, ...] = (), **more: str) -> Submission:
    """Return a job of some Python code."""
    folder.mkdir(exist_ok=True)
    pack((*files, StagedFile("plan.yaml", b"name: x")), folder / "files.zip")
    environment = job_runtime_env(str(folder / "files.zip"), more.pop("library", None), more)
    return Submission(
        name, hashlib.sha256(code.encode()).hexdigest()[:20], f"python -c {shlex.quote(code)}", environment
    )


def run(jobs: RayJobs, submission: Submission) -> tuple[Job, str]:
    name, new = submit_once(jobs, submission, None)
    assert new
    out = io.StringIO()
    return follow_job(jobs, name, out, patience=60, poll=0.2), out.getvalue()


LIST = """
import hashlib, pathlib, platform, ratchet, json
here = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in pathlib.Path().rglob("*") if p.is_file()}
print("FOUND", json.dumps([here, ratchet.__file__, platform.python_version()]))
"""


def test_exactly_the_staged_files_arrive_with_the_library_and_the_standard_library(
    jobs: RayJobs, tmp_path: Path
) -> None:
    names = [
        "data/a.jsonl",
        "venv/b.jsonl",
        ".git/c",
        "__pycache__/d",
        "with space/é.txt",
        ".gitignore",
        "platform/e.txt",
    ]
    files = tuple(StagedFile(name, b"*\n" + name.encode()) for name in names)
    unpack(library(), tmp_path)
    job, text = run(jobs, made("files", LIST, tmp_path, files, library=str(tmp_path / "ratchet")))
    assert exit_status(job) == 0, text
    here, module, version = json.loads(text.split("FOUND ")[1])
    assert here == {
        **{file.name: hashlib.sha256(file.content).hexdigest() for file in files},
        "plan.yaml": hashlib.sha256(b"name: x").hexdigest(),
    }
    assert "/py_modules_files/" in module
    assert version.count(".") == 2


def test_two_submissions_at_one_moment_are_one_job(token_head: Head, jobs: RayJobs, tmp_path: Path) -> None:
    submission = made("race", "print('once')", tmp_path)
    others = [connect_jobs(token_head.dashboard, None) for _ in range(4)]
    start, found = threading.Barrier(4), []

    def submit(mine: RayJobs) -> None:
        start.wait()
        found.append(submit_once(mine, submission, None))

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(found[0][0], False)] * 3 + [(found[0][0], True)]
    job = follow_job(jobs, found[0][0], io.StringIO(), patience=60, poll=0.2)
    assert exit_status(job) == 0
    listed = json.loads(get(token_head, "/api/jobs/"))
    assert [one["submission_id"] for one in listed if one["metadata"].get("ratchet_plan") == "race"] == [job.id]
    assert submit_once(jobs, submission, None) == (job.id.removesuffix("1") + "2", True), (
        "one that has ended is tried again"
    )


@pytest.mark.parametrize(
    ("code", "status"),
    nightly(
        [
            ("raise SystemExit(75)", 75),
            ("print('last words', flush=True); import os; os.kill(os.getpid(), 9)", 137),
        ],
        lambda code, status: status == 137,
    ),
)
def test_the_driver_s_exit_status_comes_back(jobs: RayJobs, tmp_path: Path, code: str, status: int) -> None:
    job, text = run(jobs, made("ends", code, tmp_path))
    assert (job.status, exit_status(job)) == ("FAILED", status)
    assert ("last words" in text) == ("last words" in code)


def test_a_run_that_would_lie_in_the_job_s_own_files_ends_with_status_2(jobs: RayJobs, tmp_path: Path) -> None:
    plan = b"""name: lost
model: {scratch: {tokenizer_from: [sums]}}
data: {sums: {generate: {kind: arithmetic}}}
stages: {warm: {kind: sft, data: [sums], max_length: 512}}
"""
    code = "import os, sys; sys.argv[0] = 'ratchet'; from ratchet.cli import main; sys.argv += ['run', 'mine.yaml']; "
    code += "status = main(); print('MADE', sorted(os.listdir())); sys.exit(status)"
    job, said = run(jobs, made("lost", code, tmp_path / "files", (StagedFile("mine.yaml", plan),)))
    assert job.status == "FAILED" and exit_status(job) == 2
    assert "cluster.storage: outputs would lie in the job's own copy of its files" in said
    assert "MADE ['mine.yaml', 'plan.yaml']" in said


@pytest.mark.slow
def test_a_job_whose_environment_fails_is_no_end_of_its_command(jobs: RayJobs, tmp_path: Path) -> None:
    submission = made("broken", "pass", tmp_path)
    (tmp_path / "files.zip").write_bytes(b"this is no archive")
    name, _ = submit_once(jobs, submission, None)
    with raises("cluster.no-command"):
        exit_status(follow_job(jobs, name, io.StringIO(), patience=60, poll=0.2))


SLOW_END = """
import signal, time
def end(*_):
    time.sleep(5)  # more than the 3 seconds that Ray gives by itself
    print("committed", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize(("wait", "committed"), [("60", True), pytest.param("1", False, marks=pytest.mark.slow)])
def test_a_stop_gives_the_time_that_was_asked_for(jobs: RayJobs, tmp_path: Path, wait: str, committed: bool) -> None:
    submission = made(f"stops-{wait}", SLOW_END, tmp_path, RAY_JOB_STOP_WAIT_TIME_S=wait)
    name, _ = submit_once(jobs, submission, None)
    until(lambda: "ready" in jobs.log(name).splitlines())
    out = io.StringIO()
    assert stop(jobs, submission.plan, None, out, patience=60) == (0 if committed else StoppedError.exit_code)
    assert out.getvalue() == ("committed\n" if committed else "")


def test_no_token_and_a_wrong_one_are_refused(token_head: Head, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "name: x\nmodel: {scratch: {tokenizer_from: [a]}}\ndata: {a: {generate: {kind: arithmetic}}}\n"
        "stages: {s: {kind: sft, data: [a], max_length: 512}}\ncluster: {storage: /mnt/store}\n"
    )
    found = []
    for token in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}):
        answer = subprocess.run(
            ["ratchet", "submit", "plan.yaml", "--address", token_head.dashboard],
            cwd=tmp_path, env=plain_environment() | {"HOME": str(tmp_path)} | token, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        found.append((answer.returncode, answer.stderr.splitlines()[-2]))
    assert found == [
        (69, f"error: {token_head.dashboard}: the cluster asks for a token (401)"),
        (69, f"error: {token_head.dashboard}: the cluster refuses this token (403)"),
    ]


COUNTS = "import time\nfor n in range(100):\n    print(n, flush=True)\n    time.sleep(0.3)\n"


@pytest.mark.slow
def test_a_dashboard_that_dies_and_comes_back_costs_no_line(token_head: Head, jobs: RayJobs, tmp_path: Path) -> None:
    name, _ = submit_once(jobs, made("counts", COUNTS, tmp_path), None)
    until(lambda: "3" in jobs.log(name).splitlines())
    [dashboard] = [pid for pid, title in processes_below(token_head.process.pid) if "dashboard/dashboard.py" in title]
    words = Path(f"/proc/{dashboard}/cmdline").read_bytes().decode().split("\0")[:-1]
    variables = dict(
        one.split("=", 1) for one in Path(f"/proc/{dashboard}/environ").read_text().split("\0") if "=" in one
    )
    out, told, ended = io.StringIO(), io.StringIO(), []
    thread = threading.Thread(
        target=lambda: ended.append(follow_job(jobs, name, out, patience=400, poll=0.2, console=Console(told)))
    )
    thread.start()
    until(lambda: "5\n" in out.getvalue())
    os.kill(dashboard, signal.SIGTERM)  # a head ends with any process that SIGKILL ends
    until(lambda: "the job may go on" in told.getvalue())
    while thread.is_alive():  # on a busy machine a dashboard gives up its own start, after 30 s
        with subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as again:
            try:
                while again.poll() is None and thread.is_alive():
                    thread.join(0.5)
            finally:
                again.kill()
    assert exit_status(ended[0]) == 0
    assert [line for line in out.getvalue().splitlines() if line.isdigit()] == [str(n) for n in range(100)]
    assert "an answer again after" in told.getvalue()


def until(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come this far"
        time.sleep(0.1)
