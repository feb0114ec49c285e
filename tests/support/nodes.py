"""A Ray cluster of three hosts on this machine: each in a network namespace, joined by a bridge, with token auth on.

Hosts share the disk and the process ids, so the isolation of a pod's files is not covered. Every process of a host is
in its namespace, which is how they are found at the end: no other Ray of the machine is touched.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import netns

ROOT = Path(__file__).resolve().parents[2]
HEAD, WORKERS, CLIENT = "head", ("w1", "w2"), "client"
ADDRESSES = {"head": "10.77.0.1", "w1": "10.77.0.2", "w2": "10.77.0.3", "client": "10.77.0.9"}
GCS_PORT, DASHBOARD_PORT, CLIENT_PORT = 6379, 8265, 10001
START_SECONDS = 120
_BIN = Path(sys.executable).parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A job under way: its id, the `ray job submit` that follows it, and what that wrote."""

    name: str
    submit: subprocess.Popen[bytes]
    log: Path

    def wait(self, seconds: float = 400) -> int:
        """Wait for its end and return the exit status of `ray job submit`."""
        return self.submit.wait(seconds)


class Nodes:
    """The hosts and the Ray on them. Use it in a `with`: nothing is left, however it ends.

    `kept` is where logs go when something failed. `alike` is the environment of every process on every host.
    """

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.token = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix=netns.PREFIX, dir=netns.TEMPORARY))
        self.alike = _environment(self.folder, self.token)
        self.rays: dict[str, subprocess.Popen[bytes]] = {}
        self._begun: list[subprocess.Popen[bytes]] = []
        self._starts = 0

    def __enter__(self) -> Nodes:
        try:
            netns.remove_left()
            netns.lay_cables(ADDRESSES)
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in ADDRESSES:
            netns.kill_all(host)
        for process in self._begun:
            process.wait()
        netns.remove(ADDRESSES)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- hosts ---

    def start_head(self) -> None:
        """Start a head with the address that every head has, once more where the first start fails."""
        for last in (False, True):
            self.begin(HEAD)
            try:
                self.until_alive(1)
                return
            except AssertionError:
                if last:
                    raise

    def begin(self, host: str, cpus: int = 1) -> None:
        """Start a host's `ray start --block`, and do not wait for it. Heads have no CPU: drivers alone run there."""
        self.kill(host)
        self._starts += 1
        common = ["--block", f"--node-ip-address={ADDRESSES[host]}", "--disable-usage-stats"]
        common += ["--object-store-memory=100000000", f"--temp-dir={self.folder / f'{host}{self._starts}'}"]
        if host == HEAD:
            own = ["--head", f"--port={GCS_PORT}", f"--dashboard-host={ADDRESSES[HEAD]}", "--num-cpus=0"]
            own += [f"--dashboard-port={DASHBOARD_PORT}", f"--ray-client-server-port={CLIENT_PORT}"]
        else:
            own = [f"--address={ADDRESSES[HEAD]}:{GCS_PORT}", f"--num-cpus={cpus}"]
        self.rays[host] = self._run(host, ["ray", "start", *common, *own], self.folder / f"{host}{self._starts}.log")

    def ready(self) -> None:
        """Bring all hosts back, whatever was done to them."""
        for host in ADDRESSES:
            self.heal(host)
        if HEAD not in self.rays or self.rays[HEAD].poll() is not None or not self.alive():
            for host in (*WORKERS, HEAD):
                self.kill(host)
            self.start_head()
        alive = self.alive().values()
        for worker in WORKERS:
            if worker not in self.rays or self.rays[worker].poll() is not None or ADDRESSES[worker] not in alive:
                self.begin(worker)
        self.until_alive(1 + len(WORKERS))

    def until_alive(self, count: int) -> None:
        """Wait until Ray says that so many hosts are alive. A worker whose start fails, or is late, has a second."""
        again, end = set(WORKERS) & self.rays.keys(), time.monotonic() + START_SECONDS
        while len(alive := self.alive()) != count:
            assert self.rays[HEAD].poll() is None, f"the head ended: {self.evidence()}"
            late = time.monotonic() > end
            gone = {worker for worker in again if self.rays[worker].poll() is not None}
            gone |= {worker for worker in again if late and ADDRESSES[worker] not in alive.values()}
            assert gone or not late, f"no {count} hosts after {START_SECONDS} s: {self.evidence()}"
            for worker in gone:
                self.begin(worker)
                end = time.monotonic() + START_SECONDS
            again -= gone
            time.sleep(0.2)

    def terminate(self, host: str) -> None:
        """Give notice: SIGTERM to the host's `ray start`, as a kubelet does."""
        self.rays[host].send_signal(signal.SIGTERM)

    def kill(self, host: str) -> None:
        """SIGKILL to every process of a host."""
        netns.kill_all(host)
        if (ray := self.rays.pop(host, None)) is not None:
            ray.wait()

    def cut(self, host: str) -> None:
        """Pull the host's cable."""
        netns.set_cable(host, "down")

    def heal(self, host: str) -> None:
        """Put it back."""
        netns.set_cable(host, "up")

    def pids(self, *hosts: str) -> list[int]:
        """Processes of the hosts, those of jobs too."""
        return [pid for host in hosts for pid in netns.pids(host)]

    # --- Ray ---

    def alive(self) -> dict[str, str]:
        """Hosts that Ray says are alive: address by node id. Empty where no dashboard answers."""
        return {node: ip for node, (ip, state) in self._nodes().items() if state == "ALIVE"}

    def actors(self, job: str | None = None) -> list[tuple[str, str]]:
        """Class and host's address of every actor that ever ran, from Ray's own record; of one of Ray's job ids."""
        status, body = self.ask("/api/v0/actors?detail=1&limit=10000")
        assert status == 200, body
        found = json.loads(body)["data"]["result"]["result"]
        nodes = self._nodes()
        return [
            (one["class_name"], nodes[one["node_id"]][0])
            for one in found
            if one["node_id"] in nodes and job in (None, one["job_id"])
        ]

    def metrics_ports(self) -> dict[str, int]:
        """The port of each host's metrics, by its address."""
        found = json.loads(self.ask("/nodes?view=summary")[1])["data"]["summary"]
        return {node["ip"]: node["raylet"]["metricsExportPort"] for node in found if "state" in node["raylet"]}

    def _nodes(self) -> dict[str, tuple[str, str]]:
        status, body = self.ask("/nodes?view=summary")
        if status != 200:
            return {}
        found = [(node["raylet"], node.get("ip")) for node in json.loads(body)["data"]["summary"]]  # a new one has none
        return {raylet["nodeId"]: (ip, raylet["state"]) for raylet, ip in found if ip and "state" in raylet}

    def ask(
        self, path: str, *, method: str = "GET", token: str | None = "", address: tuple[str, int] | None = None
    ) -> tuple[int, bytes]:
        """Ask over HTTP from the client host; status 0 where nobody answers. No token given: the right one."""
        host, port = address or (ADDRESSES[HEAD], DASHBOARD_PORT)
        token = self.token if token == "" else token

        def asked() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(host, port, timeout=10)
            try:
                connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
                answer = connection.getresponse()
                return answer.status, answer.read()
            except OSError:
                return 0, b""
            finally:
                connection.close()

        return netns.inside(CLIENT, asked)

    def submit(self, plan: Path, *arguments: str, name: str, variables: Mapping[str, str] | None = None) -> Job:
        """Submit `ratchet run` of the plan by `ray job submit`, with the plan's folder as the job's."""
        command = ["ray", "job", "submit", "--address", f"http://{ADDRESSES[HEAD]}:{DASHBOARD_PORT}"]
        command += ["--submission-id", name, "--working-dir", str(plan.parent)]
        command += ["--runtime-env-json", json.dumps({"env_vars": dict(variables)})] if variables else []
        command += ["--", "ratchet", "run", plan.name, *arguments]
        log = self.folder / f"job-{name}.log"
        return Job(name, self._run(CLIENT, command, log), log)

    def stop(self, job: Job) -> None:
        """`ray job stop`."""
        address = f"http://{ADDRESSES[HEAD]}:{DASHBOARD_PORT}"
        log = self.folder / f"stop-{job.name}.log"
        asked = self._run(CLIENT, ["ray", "job", "stop", "--address", address, "--no-wait", job.name], log)
        assert asked.wait(60) == 0, log.read_text()

    def job_info(self, job: Job) -> dict[str, Any]:
        """What Ray says of a job: `status`, `driver_exit_code`, …"""
        found: dict[str, Any] = json.loads(self.ask(f"/api/jobs/{job.name}")[1])
        return found

    def log_of(self, job: Job) -> str:
        """What the job's driver wrote."""
        return str(json.loads(self.ask(f"/api/jobs/{job.name}/logs")[1])["logs"])

    def evidence(self) -> str:
        """Keep what every process wrote, and return in words where it lies."""
        aside = self.kept / f"nodes-{time.strftime('%H%M%S')}"
        for path in (*self.folder.glob("*.log"), *self.folder.glob("*/session_2*/logs")):
            target = aside / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            else:
                shutil.copy(path, target)
        return f"logs of all hosts and jobs are in {aside}"

    # --- the machine ---

    def _run(self, host: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            process = subprocess.Popen(
                netns.on(host, [*command]),
                env=self.alike,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends them
            )
        self._begun.append(process)
        return process


def _environment(home: Path, token: str) -> dict[str, str]:
    """This process's, without what would lead to another Ray, a proxy or a hub."""
    own = {key: value for key, value in os.environ.items() if not key.upper().startswith(("RAY_", "PYTEST_"))}
    own = {key: value for key, value in own.items() if not key.lower().endswith("_proxy")}
    return own | {
        "PATH": f"{_BIN}:{own['PATH']}",
        "PYTHONPATH": str(ROOT / "platform"),  # the checkout under test, whatever is installed
        "HOME": str(home),  # no token of somebody's own
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CI": "true",
    }


needs_nodes = pytest.mark.skipif(bool(WHY_NOT := netns.why_not()), reason=WHY_NOT or "")
