"""The doctor at real Rays: one without a token, one with, one that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_head import Head, authentication, ray_head
from whole_run import command

pytestmark = pytest.mark.timeout(600)

PLAN = """\
name: a
model: {path: m}
data: {sums: {generate: {kind: arithmetic, rows: 10, steps: 1}}}
stages: {warm: {kind: sft, data: [sums]}}
"""


def doctor(folder: Path, *words: str, **environment: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run `ratchet doctor --json`; return its status, its findings by check, and all that it said."""
    (folder / "plan.yaml").write_text(PLAN)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    ended = subprocess.run(
        command("doctor", *words, "--json"),
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return ended.returncode, {one["check"]: one for one in told["findings"]}, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def open_head() -> Iterator[Head]:
    with ray_head(2, open_to_all=True) as head:
        yield head


@pytest.mark.ray
def test_a_cluster_without_a_token_is_a_problem(open_head: Head, tmp_path: Path) -> None:
    disabled = {"RAY_AUTH_MODE": "disabled"}
    status, found, _ = doctor(tmp_path, "plan.yaml", "--address", open_head.address, **disabled)
    assert status == 69
    assert {name for name, one in found.items() if one["level"] == "problem"} == {"authentication", "dashboard"}
    assert found["nodes"]["found"].startswith("1 of 1 answer")
    assert found["storage"]["level"] == found["clocks"]["level"] == found["versions"]["level"] == "ok"
    assert found["metrics"]["level"] == "warning"  # Ray binds them to all addresses, whatever else
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.yaml"]  # what it wrote to look is gone

    status, found, _ = doctor(tmp_path, "--address", open_head.dashboard, **disabled)
    assert status == 69 and found["nodes"]["level"] == "warning"


@pytest.mark.ray
@pytest.mark.slow
def test_a_storage_folder_that_cannot_be_is_told(open_head: Head, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    words = ("plan.yaml", "--set", "cluster.storage=taken/inside", "--address", open_head.address)
    status, found, said = doctor(tmp_path, *words, RAY_AUTH_MODE="disabled")
    assert status == 69 and "storage" in found, said
    assert found["storage"]["level"] == found["disk"]["level"] == "problem"
    assert "the driver cannot write there: Not a directory" in found["storage"]["found"]
    assert found["nodes"]["level"] == "ok"
    words = ("plan.yaml", "--set", "cluster.workers=99", "--address", open_head.address)
    status, found, _ = doctor(tmp_path, *words, RAY_AUTH_MODE="disabled")
    assert found["room for the plan"]["level"] == "problem" and "there are 2" in found["room for the plan"]["found"]


@pytest.mark.ray
@pytest.mark.slow
def test_secrets_in_a_jobs_runtime_environment_are_told_by_name_alone(open_head: Head, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ray.job_submission import JobSubmissionClient\n"
        "JobSubmissionClient(sys.argv[1]).submit_job(entrypoint='true', submission_id='leaky',"
        " runtime_env={'env_vars': {'HF_TOKEN': 'hf_shown-to-everybody', 'PLAIN': 'x'}})\n"
    )
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    submit = [sys.executable, "-c", code, open_head.dashboard]
    for _ in range(30):  # a head takes jobs a while after its dashboard answers
        sent = subprocess.run(submit, check=False, env=kept, capture_output=True, text=True)
        if sent.returncode == 0 or "already" in sent.stderr:
            break
    assert sent.returncode == 0 or "already" in sent.stderr, sent.stderr
    _, found, said = doctor(tmp_path, "--address", open_head.dashboard, RAY_AUTH_MODE="disabled")
    assert found["secrets of jobs"]["level"] == "problem"
    assert "HF_TOKEN of job leaky" in found["secrets of jobs"]["found"]
    assert "hf_shown" not in said and "PLAIN" not in said


@pytest.mark.ray
def test_a_cluster_with_a_token_is_well_and_without_ours_told(token_head: Head, tmp_path: Path) -> None:
    assert token_head.token is not None
    ours = authentication(token_head.token)
    status, found, said = doctor(tmp_path, "plan.yaml", "--address", token_head.address, **ours)
    assert found["authentication"] == {
        "check": "authentication",
        "level": "ok",
        "found": "on: without a token jobs answer 401",
        "do": "",
    }
    assert found["dashboard"]["level"] == "ok"
    assert (status, [name for name, one in found.items() if one["level"] == "problem"]) == (0, [])
    assert token_head.token not in said

    status, found, _ = doctor(tmp_path, "--address", token_head.dashboard, RAY_AUTH_MODE="disabled")
    assert (status, found["authentication"]["level"]) == (0, "ok")

    wrong = authentication("another-token-of-nobody")
    status, found, said = doctor(tmp_path, "--address", token_head.address, **wrong)
    assert status == 69
    assert "does not take us" in found["cluster"]["found"] and "RAY_AUTH_TOKEN" in found["cluster"]["do"]
    assert "another-token-of-nobody" not in said


@pytest.mark.heavy
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    status, found, _ = doctor(tmp_path, "--address", "127.0.0.1:1")
    assert status == 69 and "no Ray answers at 127.0.0.1:1" in found["cluster"]["found"]


@pytest.mark.heavy
def test_without_a_cluster_this_machine_is_looked_at_and_nothing_started(tmp_path: Path) -> None:
    status, found, _ = doctor(tmp_path, "plan.yaml", RAY_TMPDIR=str(tmp_path / "ray"))
    assert found["cluster"]["found"].startswith("none is named")
    assert status == (69 if "problem" in {one["level"] for one in found.values()} else 0)
    assert not (tmp_path / "ray").exists() and not (tmp_path / "outputs").exists()
