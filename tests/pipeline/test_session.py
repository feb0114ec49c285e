"""The Ray that a run uses: told apart before Ray waits for it, and quiet."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raised import raises
from ratchet.pipeline.session import (
    native_noise_to,
    once_needed,
    ray_session,
    runtime_env,
    session,
    worker_environment,
)
from ratchet.plan.cluster import Cluster, Ray
from ratchet.store.machine import begin_work, has_ray, on_ray, started_by_work


def test_an_address_that_nobody_answers_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            raises("cluster.no-ray", address),
            ray_session(Cluster(ray=Ray(address=address))),
        ):
            pass


def test_native_noise_goes_to_the_file_and_python_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with native_noise_to(tmp_path / "native.log"):
        os.write(2, b"E core_worker.cc\n")
        sys.stderr.write("for people\n")
    os.write(2, b"after\n")
    assert (tmp_path / "native.log").read_text() == "E core_worker.cc\n"
    assert capfd.readouterr().err == "for people\nafter\n"


def test_workers_are_told_which_accelerator_there_is() -> None:
    assert worker_environment(Cluster())["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in worker_environment(Cluster(gpus_per_worker=1))


@pytest.mark.parametrize("key", ["py_executable", "pip", "uv", "conda", "image_uri"])
def test_a_job_that_brings_its_python_keeps_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**environment: Any) -> set[str]:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": environment, "metadata": {}}))
        return {*runtime_env(Cluster())}

    assert told(**{key: "theirs"}) == {"env_vars"}
    # What `ratchet submit` sends along.
    assert told(working_dir="w", py_modules=["m"], env_vars={"A": "b"}) == {"env_vars", "py_executable"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": None}))
    assert {*runtime_env(Cluster())} == {"env_vars", "py_executable"}
    assert {*runtime_env(Cluster(ray=Ray(warm=False)))} == {"env_vars"}


def test_a_gpu_that_is_not_there_is_told_before_anything_is_computed() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with raises("cluster.no-gpu"), session(Cluster(gpus_per_worker=1), print, here=True):
        pass


def test_what_work_goes_on_in_starts_with_the_first_work_and_only_once() -> None:
    started: list[str] = []
    with started_by_work(lambda: started.append("idle")):
        assert not has_ray()
    on_ray()
    assert started == [], "no work came, and the block is over"
    with started_by_work(lambda: started.append("busy")):
        assert not on_ray() and not on_ray()
    assert started == ["busy"]
    cluster = Cluster(gpus_per_worker=1)
    with once_needed(cluster, print, here=True):
        assert not has_ray(), "nothing is to be made: what this machine lacks does not matter"
    with raises("cluster.no-gpu"), once_needed(cluster, print, here=True):
        begin_work()
