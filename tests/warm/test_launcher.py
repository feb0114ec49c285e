"""Workers that begin warm are what cold ones are, and end as they end: the launcher and its server, without a Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.store.machine import stat
from ratchet.warm import launcher, server

# Without what scikit-learn sets, which a cold worker of this script has imported and a warm one has not.
WORKER = """
import importlib.util, json, os, random, signal, sys, time
import numpy as np, torch, ray, transformers
from ray._raylet import JobID, PlacementGroupID
from transformers import AutoModelForCausalLM
facts = {
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "umask": os.umask(0),
    "environment": {name: text for name, text in os.environ.items() if not name.startswith("KMP_")},
    "name": [__name__, __file__, sys.modules["__main__"].__file__],
    "signals": {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()},
    "descriptors": sorted(os.readlink(f"/proc/self/fd/{one}") for one in (0, 1, 2)),
    "open": len(os.listdir("/proc/self/fd")),
    "threads": torch.get_num_threads(), "leader": os.getsid(0) == os.getpid(),
    "ratchet": importlib.util.find_spec("ratchet").origin, "loaded": "ratchet.train.worker" in sys.modules,
    "id": PlacementGroupID.of(JobID.from_int(1)).hex(),
    "drawn": [random.random(), float(np.random.rand()), float(torch.rand(1)), torch.initial_seed()],
}
torch.manual_seed(0)
torch.set_num_threads(2)
a, b = torch.randn(129, 257), torch.randn(257, 65)
facts["bits"] = [(a @ b).softmax(-1).double().sum().item().hex()]
facts["bits"].append(torch.randn(3, 99).bfloat16().float().sum().item().hex())
print(json.dumps(facts), flush=True)
print("to stderr", file=sys.stderr)
if len(sys.argv) > 3:
    open(sys.argv[3], "w").write(str(os.getpid()))
    time.sleep(600)
sys.exit(int(sys.argv[2]))
"""


Begun = subprocess.Popen[str]


@dataclasses.dataclass(frozen=True)
class Node:
    """A folder as a Ray node has it, and how a worker is begun there."""

    folder: Path

    def begin(self, *arguments: str, warm: bool = True, said: int = subprocess.PIPE, **environment: str) -> Begun:
        python = [sys.executable, *(["-I", "-S", launcher.__file__] if warm else [])]
        command = [*python, str(self.folder / "worker.py"), f"--raylet-name={self.folder}/sockets/raylet", *arguments]
        own = {"DS_ACCELERATOR": "cpu", "RAY_RAYLET_PID": str(os.getpid()), "A_SECRET": "a"}
        own["OMP_NUM_THREADS"] = "1"  # Ray sets it with a worker's first task, and `store.machine` follows it
        # pytest's own variable changes from test to test, and would make a server for each.
        ours = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return subprocess.Popen(
            command,
            env={**ours, **own, **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
        )

    def facts(self, *arguments: str, **options: Any) -> dict[str, Any]:
        with self.begin(*arguments, **options) as worker:
            said, warned = worker.communicate()
        facts: dict[str, Any] = json.loads(said.splitlines()[-1])
        return facts | {"status": worker.returncode, "said": warned.splitlines()[-1:]}

    def sleeping(self, name: str) -> tuple[Begun, int]:
        """Begin a worker that sleeps; return its launcher, and its own process id."""
        note = self.folder / name
        begun = self.begin("0", str(note), said=subprocess.DEVNULL)
        until(lambda: note.exists() and note.read_text() != "")
        return begun, int(note.read_text())

    def servers(self, *workers: int) -> list[int]:
        """Return the process ids of the servers that live; `workers` are forks of one, and have its command line."""
        living = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - {*workers}
        return [one for one in sorted(living) if runs(one) and f"{self.folder}/sockets/warm-" in command_of(one)]


def command_of(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode().replace("\0", " ")
    return ""


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.02)


def runs(process: int) -> bool:
    try:
        return stat(process)[0] not in {"Z", "X"}
    except OSError:
        return False


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    # Longer than a socket's path may be.
    folder = tmp_path_factory.mktemp("a" * 120)
    for name in ("sockets", "logs"):
        (folder / name).mkdir()
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    found = Node(folder)
    yield found
    for process in found.servers():
        os.kill(process, signal.SIGTERM)


@pytest.mark.heavy
def test_a_warm_worker_is_what_a_cold_one_is(node: Node) -> None:
    begun = node.facts("3")  # while the server imports, a worker imports the rest itself
    until(lambda: node.facts("3")["loaded"])
    cold, warm, again = (node.facts("3", warm=warm) for warm in (False, True, True))
    assert {key for key in begun if begun[key] != warm[key]} <= {"id", "drawn", "loaded", "descriptors", "path"}
    ids = {facts.pop("id") for facts in (cold, warm, again)}
    assert len(ids) == 3  # Ray's own random numbers, too: two placement groups of one id are one
    drawn = [facts.pop("drawn") for facts in (cold, warm, again)]
    assert all(len({*column}) == 3 for column in zip(*drawn, strict=True))  # each draws different numbers
    assert warm.pop("leader") and again.pop("leader")  # a signal to the server's group ends no worker
    assert warm.pop("loaded") and again.pop("loaded")
    assert not (cold.pop("leader") or cold.pop("loaded"))
    for facts in (cold, warm, again):  # pipes have numbers of their own
        facts["descriptors"] = sorted(name.partition(":")[0] for name in facts["descriptors"])
    assert warm == cold
    assert again == cold
    assert cold["status"] == 3
    assert len(node.servers()) == 1  # the same environment, the same server


@pytest.mark.heavy
def test_whatever_ends_one_of_them_ends_the_other(node: Node) -> None:
    begun, worker = node.sleeping("killed")
    assert worker != begun.pid
    os.kill(worker, signal.SIGKILL)
    assert begun.wait() == -signal.SIGKILL
    begun, worker = node.sleeping("launcher")
    begun.kill()
    begun.wait()
    until(lambda: not runs(worker))
    begun, worker = node.sleeping("asked")
    begun.terminate()
    assert begun.wait() == -signal.SIGTERM
    assert not runs(worker)


@pytest.mark.heavy
def test_a_lost_server_costs_no_worker_and_the_next_worker_has_another(node: Node) -> None:
    begun, worker = node.sleeping("orphan")
    [lost] = node.servers(worker)
    os.kill(lost, signal.SIGKILL)
    until(lambda: not runs(lost))
    assert node.facts("4")["status"] == 4
    until(lambda: len(node.servers(worker)) == 1)  # the fork that answered has its command line while it ends
    assert runs(worker)
    os.kill(worker, signal.SIGTERM)
    assert begun.wait() == 1  # nobody knows how it ended


@pytest.mark.heavy
def test_a_worker_has_the_library_that_came_with_its_job(node: Node, tmp_path: Path) -> None:
    (tmp_path / "ratchet").mkdir()
    (tmp_path / "ratchet" / "__init__.py").touch()
    facts = node.facts("0", PYTHONPATH=str(tmp_path))
    assert facts["ratchet"] == str(tmp_path / "ratchet" / "__init__.py")
    assert not facts["loaded"]


@pytest.mark.heavy
def test_where_a_server_cannot_begin_workers_begin_cold(node: Node, tmp_path: Path) -> None:
    (tmp_path / "deepspeed.py").write_text("raise ImportError('not here')", encoding="utf-8")
    before = {*node.servers()}
    assert node.facts("5", PYTHONPATH=str(tmp_path))["status"] == 5  # begun before the import that fails
    until(lambda: {*node.servers()} <= before)  # those of other tests may end meanwhile, as nobody asks them
    facts = node.facts("5", PYTHONPATH=str(tmp_path))  # and this launcher does not try again
    assert facts["status"] == 5
    assert str(tmp_path) in facts["path"]
    assert {*node.servers()} <= before
    assert len([*(node.folder / "sockets").glob("warm-*.failed")]) == 1


def test_each_job_and_each_environment_has_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(**values: str) -> str:
        with monkeypatch.context() as patch:
            for key, value in values.items():
                patch.setenv(key, value)
            return launcher._name("worker.py")

    assert name() == name(SHLVL="7")
    settings = [{"RAY_JOB_ID": "02"}, {"MALLOC_TRIM_THRESHOLD_": "1"}, {"OMP_NUM_THREADS": "7"}, {"PYTHONPATH": "/x"}]
    assert len({name(), *(name(**one) for one in settings)}) == 5


def test_what_ray_starts_as_python_is_python_but_for_workers(tmp_path: Path) -> None:
    """Ray's own way of making a worker ready is gone round only where it sets variables and nothing else."""
    wrapper, script = launcher.write_wrapper(tmp_path), tmp_path / "default_worker.py"
    script.write_text("import os, sys; print(sys.argv[1:], os.environ['LIST'], sys.executable)", encoding="utf-8")
    (tmp_path / "setup_worker.py").write_text("import sys; print('set up by Ray', sys.executable)", encoding="utf-8")

    def said(*words: str) -> str:
        done = subprocess.run([wrapper, *words], capture_output=True, text=True, env={"HOME": "/h"}, check=True)
        return done.stdout.strip()

    def worker(**context: Any) -> str:
        options = ["--language=PYTHON", f"--serialized-runtime-env-context={json.dumps(context)}"]
        return said(str(tmp_path / "setup_worker.py"), str(script), "--one=1", *options, "--two")

    assert said("-c", "import sys; print(sys.executable)") == sys.executable
    variables = {"LIST": "a:${HOME}:${NOT_SET}"}
    assert worker(env_vars=variables) == f"['--one=1', '--two'] a:/h: {sys.executable}"
    assert worker(env_vars=variables, py_executable=sys.executable).startswith("['--one=1', '--two'] a:/h:")
    for context in ({"py_executable": "/usr/bin/python3"}, {"command_prefix": ["nice"]}):
        assert worker(env_vars=variables, **context) == f"set up by Ray {sys.executable}"


def test_where_nothing_may_be_run_from_the_folder_ray_runs_python_itself(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o noexec none "$1" && shift && exec "$@"', "sh"]
    if subprocess.run([*mount, str(tmp_path), "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may mount nothing")
    code = "import pathlib, sys; from ratchet.warm import launcher; print(launcher.write_wrapper(pathlib.Path.cwd()))"
    command = [*mount, str(tmp_path), sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sys.executable


def test_under_a_raylet_that_ends_processes_it_did_not_start_workers_begin_cold(tmp_path: Path) -> None:
    for name in ("sockets", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "worker.py").write_text("import os; print(os.getpid())", encoding="utf-8")
    told = {"RAY_RAYLET_PID": str(os.getpid()), "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true"}
    command = [sys.executable, "-I", "-S", launcher.__file__, str(tmp_path / "worker.py")]
    command.append(f"--raylet-name={tmp_path}/sockets/raylet")
    with subprocess.Popen(command, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True) as worker:
        said, _ = worker.communicate()
    assert int(said) == worker.pid
    assert not [*(tmp_path / "sockets").iterdir()]


def test_a_server_ends_with_its_ray_node_or_when_it_was_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    gone, unheard = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    gone.wait()
    until(lambda: not runs(unheard.pid))  # ended, and nobody has waited for it
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("")
        listening.listen()
        assert server.serve(listening, Path("none"), gone.pid, iter(())) is None
        monkeypatch.setattr(server, "_IDLE_SECONDS", 2.0)
        imports = map(str, itertools.count())
        assert server.serve(listening, Path("none"), unheard.pid, imports) is None
        assert next(imports) == "0"  # it ended before the first one
        unheard.wait()
        monkeypatch.setattr(server, "_IDLE_SECONDS", 0.0)
        assert server.serve(listening, Path("none"), os.getpid(), iter(())) is None
