"""A Ray that does not come up: it is tried again, its left-overs go, and nobody is sent to an address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nightly import nightly
from raised import raises
from ratchet.pipeline import ray_start
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster
from ratchet.reference.processes import family

SLOW = """
import json, os
from ratchet.errors import ClusterError
from ratchet.pipeline import ray_start
from ratchet.reference.processes import family
from ratchet.track import progress

said, progress.LINE_SECONDS = [], 0.5
try:
    ray_start.connect(None, {}, {"num_cpus": 1, "object_store_memory": 80 << 20}, said.append)
except ClusterError as error:
    left = [pid for pid in family(os.getpid()) if ray_start._is_of_ray(pid)]
    print(json.dumps({"said": said, "error": str(error), "status": error.exit_code, "left": left}))
"""


@pytest.mark.ray
def test_a_ray_that_is_slow_is_started_again_and_then_told_without_an_address() -> None:
    """Ray is given no time at all for its own server, each time."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RAY_gcs_server_port_wait_time_s"] = "0"
    command = [sys.executable, "-c", SLOW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["status"] == 69
    assert "4 times in a row" in found["error"] and "the load of this machine is" in found["error"]
    assert "address" not in found["error"]
    assert found["said"][0] == "starting Ray on this machine"
    still = [line for line in found["said"] if line.startswith("Ray is still starting; the load of this machine is")]
    assert still
    assert [line.rpartition(", ")[2] for line in found["said"][1:] if line not in still] == [
        "2 of 4",
        "3 of 4",
        "4 of 4",
    ]
    assert found["left"] == []


def test_an_address_of_the_environment_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with raises("cluster.no-ray") as raised:
        ray_start.connect(None, {}, {}, [].append)
    assert raised.value.where == "RAY_ADDRESS"


def test_what_a_failed_start_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "ray" / "raylet.py"
    program.parent.mkdir()
    program.write_text("import time\ntime.sleep(600)\n")
    before = subprocess.Popen([sys.executable, str(program)])
    known = set(family(os.getpid()))
    left, other = subprocess.Popen([sys.executable, str(program)]), subprocess.Popen(["sleep", "600"])
    try:
        ray_start._end_left(known)
        assert left.wait() == -9
        assert before.poll() is None and other.poll() is None
    finally:
        for one in (before, left, other):
            one.kill()
            one.wait()


FIRST = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        # pyarrow is there by then: what the command made before is looked for first.
        if name.partition(".")[0] in {"torch", "ray", "transformers"}:
            sys.exit(f"{name} is loaded")

sys.meta_path.insert(0, Refuse())
from ratchet.cli import main
main(sys.argv[1:])
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    "arguments",
    nightly(
        [
            ["run", "jobs/quickstart.yaml"],
            ["score", "jobs/quickstart.yaml"],
            ["sweep", "jobs/quickstart.yaml", "tune_spaces/beta.yaml"],
            ["evaluate", "owner/none", "eval/quick.yaml"],
        ],
        lambda arguments: arguments[0] == "run",
    ),
    ids=lambda arguments: arguments[0],
)
def test_the_first_line_comes_before_anything_heavy_is_loaded(arguments: list[str], tmp_path: Path) -> None:
    if arguments[0] != "evaluate":  # the checkout may hold a finished quickstart, which leaves nothing to load
        arguments = [*arguments, "--set", f"cluster.storage={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", FIRST, *arguments], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    assert said[0].endswith(": loading libraries"), done.stderr
    assert said[1].endswith("is loaded")


@pytest.mark.ray
def test_processes_of_ray_train_have_the_environment_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would be forked by a second server, after all its imports."""
    from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
    from ray.train.v2._internal import constants

    for name in constants.ENV_VARS_TO_PROPAGATE:
        monkeypatch.delenv(name, raising=False)
    ours = worker_environment(Cluster())
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    theirs = constants.get_env_vars_to_propagate()
    theirs.setdefault(
        RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR, constants.DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE
    )
    assert ours | theirs == ours
