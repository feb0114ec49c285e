"""The Ray that a run uses: a running cluster, or a local one that lives as long as the run; or none of them."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import ClusterError, RatchetError
from ratchet.pipeline.ray_start import PATIENCE, connect
from ratchet.pipeline.stop import SIGNALS
from ratchet.plan.cluster import Cluster
from ratchet.reference.processes import start_one
from ratchet.store.files import storage_errors
from ratchet.store.machine import has_ray, started_by_work
from ratchet.train.out_of_memory import keep_text, memory_error
from ratchet.warm.launcher import python_of_workers, write_wrapper

_WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    # How soon a stage knows that its workers have ended.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # The driver watches the nodes itself (`train.driver_loop`); Ray's watcher is a process more for each stage.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Train sets this for its own processes. With another environment they would have a fork server of their own.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    # Several runs at once have more processes than cores, most of them waiting: no reason for a warning on stdout.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "PYTHON worker processes have been started",
}
_PYTHONS = {"py_executable", "pip", "uv", "conda", "container", "image_uri", "_nsight", "_rocprof_sys"}
"""Keys of a job's `runtime_env` by which Ray runs another Python for its workers, or runs Python by another program."""
_START_SECONDS = {False: "300", True: "30"}
"""How long workers of a fixed number, or of any number, wait for their places. Ray counts a node that is gone for up to
half a minute, and asks for places on it: where fewer workers will do, it should look again soon."""
_ON_CPU = {
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    # Let glibc keep freed memory: else it hands large tensors back, and the kernel clears every page of the next ones.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}


@contextlib.contextmanager
def native_noise_to(path: Path) -> Iterator[None]:
    """Send what native code writes to standard error to a file, and leave the terminal to Python.

    Ray's C++ warns there about its own actors, in the middle of a progress bar.
    """
    terminal, sys_stderr = os.dup(2), sys.stderr
    with storage_errors(path):
        noise = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys_stderr.flush()
    os.dup2(noise, 2)
    os.close(noise)
    try:
        with os.fdopen(
            terminal, "w", buffering=1, closefd=False, encoding=sys_stderr.encoding, errors=sys_stderr.errors
        ) as stream:
            sys.stderr = stream
            try:
                yield
            finally:
                sys.stderr = sys_stderr
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextlib.contextmanager
def ray_session(cluster: Cluster, runs: int = 1, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Attach to `cluster.ray.address` or `RAY_ADDRESS`, or start a local Ray; end it afterwards.

    A local Ray has room for so many `runs` at once; `say` gets a line about what is waited for. A process that Ray
    itself started has a Ray, and keeps it. Raises ClusterError where Ray cannot be started or reached,
    or is too small for the plan.
    """
    for key, value in {**PATIENCE, **worker_environment(cluster)}.items():
        os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        with _checked(cluster):
            yield
        return
    there = {"runtime_env": runtime_env(cluster)}
    local = {"runtime_env": {"env_vars": worker_environment(cluster)}} | _local(cluster, runs)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        python = write_wrapper(Path(folder)) if cluster.ray.warm else sys.executable
        connect(cluster.ray.address, there, local, say, python)
        if cluster.ray.warm:
            # It starts the fork server, which then imports while this process makes itself ready.
            start_one()
        try:
            with _checked(cluster):
                yield
        finally:
            ray.shutdown()


def runtime_env(cluster: Cluster) -> dict[str, Any]:
    """Return what a Ray that is there already is asked to start workers with.

    Ray starts workers in its own way, so `py_executable` names what it runs in place of Python. A job that brings the
    Python of its workers keeps it: Ray refuses a second one, or drops the packages that came with the job's.
    """
    found: dict[str, Any] = {"env_vars": worker_environment(cluster)}
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if cluster.ray.warm and _PYTHONS.isdisjoint(job.get("runtime_env") or {}):
        found["py_executable"] = python_of_workers()
    return found


def session(cluster: Cluster, say: Callable[[str], None], *, here: bool) -> contextlib.AbstractContextManager[None]:
    """Return what a command's work goes on in: a Ray, or this process alone."""
    return _this_process(cluster) if here else ray_session(cluster, say=say)


@contextlib.contextmanager
def once_needed(cluster: Cluster, say: Callable[[str], None], *, here: bool) -> Iterator[None]:
    """As `session`, begun with the first work that is to be done: where all is there already, no Ray is started.

    Raises ClusterError then.
    """
    with contextlib.ExitStack() as stack:

        def start() -> None:
            main = threading.current_thread() is threading.main_thread()
            # Ray takes SIGTERM for itself when it starts, and a run that listens already goes on listening.
            before = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
            stack.enter_context(session(cluster, say, here=here))
            for number, handler in before.items():
                signal.signal(number, handler)

        with started_by_work(start):
            yield


@contextlib.contextmanager
def _this_process(cluster: Cluster) -> Iterator[None]:
    """Compute here with as many threads as a worker has, so that numbers are the same. Raises ClusterError."""
    import torch

    if has_ray():
        raise ClusterError("this process is connected to a Ray", where="--here", fix="call ray.shutdown() before")
    if cluster.gpus_per_worker and not torch.cuda.is_available():
        raise ClusterError(
            "the plan asks for a GPU, and this machine has none",
            where="--here",
            fix="set cluster.gpus_per_worker=0",
            code="cluster.no-gpu",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cluster.cpus_per_worker)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _checked(cluster: Cluster) -> Iterator[None]:
    """Check that Ray is large enough for the plan, and give its errors in words."""
    import ray

    try:
        _quieten()
        _check_size(cluster)
        yield
    except ray.exceptions.RayError as error:
        raise plain_error(error) from error


def plain_error(error: BaseException) -> RatchetError:
    """Return the RatchetError that caused a Ray error, or one that names the cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RatchetError) and type(cause).__module__ == RatchetError.__module__:
            return cause  # and not the mixture of it and its own that Ray raises first
        inner = getattr(cause, "cause", None)  # in some of Ray's errors a text
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    if (wall := memory_error(str(error), "", 1, None)) is not None:
        keep_text(str(error))
        return wall
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ClusterError(
        f"a worker process failed: {lines[-1]}",
        fix="what was finished is kept; lower cluster.token_budget if memory ran out, and run again",
    )


def _local(cluster: Cluster, runs: int) -> dict[str, Any]:
    """Return what a Ray of this machine is started with."""
    needed = runs * math.ceil(needs(cluster)["CPU"]) + 1
    return {
        "num_cpus": cluster.ray.num_cpus or max(os.cpu_count() or 1, needed),
        "object_store_memory": cluster.ray.object_store_mb << 20,
    }


def worker_environment(cluster: Cluster) -> dict[str, str]:
    """Return the environment of every worker: which accelerator, how workers watch each other, and memory."""
    elastic = cluster.fewest_workers < cluster.most_workers
    start = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": _START_SECONDS[elastic]}
    return {**_WORKER_ENV, **start, **({} if cluster.gpus_per_worker else _ON_CPU)}


def resources() -> dict[str, float]:
    """Return what the cluster has in all, by kind: `CPU`, `GPU`, …"""
    import ray

    return dict(ray.cluster_resources())


def machines() -> list[dict[str, float]]:
    """Return what each machine of the cluster has, by kind."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def needs(cluster: Cluster, workers: int | None = None) -> dict[str, float]:
    """Return what one run takes with so many workers, or at most, by kind: `CPU`, `GPU`."""
    workers = cluster.most_workers if workers is None else workers
    return {
        "CPU": max(workers * cluster.cpus_per_worker, cluster.score_actors),
        "GPU": max(workers * cluster.gpus_per_worker, cluster.score_actors * cluster.gpus_per_actor),
    }


def shortages(cluster: Cluster, workers: int, have: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return what a cluster that has `have` in all lacks for a run with so many workers: by kind, needed and there."""
    found = {kind: (need, have.get(kind, 0.0)) for kind, need in needs(cluster, workers).items()}
    return {kind: (need, there) for kind, (need, there) in found.items() if there < need}


def holds_worker(cluster: Cluster, nodes: Iterable[Mapping[str, float]]) -> bool:
    """Whether some node has room for a worker of a run, which the sum over nodes does not tell."""
    each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    return any(all(node.get(kind, 0.0) >= need for kind, need in each.items()) for node in nodes)


def runs_at_once(cluster: Cluster) -> int:
    """Return how many runs the Ray that is running has room for at a time; at least one."""
    have = resources() | {"CPU": resources().get("CPU", 0.0) - 1}  # one is for what comes between: reading, moving
    return max(1, min(int(have.get(kind, 0.0) // need) for kind, need in needs(cluster).items() if need))


def _check_size(cluster: Cluster) -> None:
    if short := shortages(cluster, cluster.fewest_workers, resources()):
        kind, (need, there) = next(iter(short.items()))
        raise ClusterError(
            f"the plan needs {need:g} {kind}s and Ray has {there:g}",
            where="cluster",
            fix="lower cluster.workers, cluster.score_actors or what each of them takes",
        )
    if not holds_worker(cluster, machines()):
        cpus, gpus = cluster.cpus_per_worker, cluster.gpus_per_worker
        raise ClusterError(
            f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, and no machine of the cluster has as many",
            where="cluster",
            fix="lower cluster.cpus_per_worker or cluster.gpus_per_worker",
        )


def _quieten() -> None:
    """Leave the terminal to Ratchet's own lines; Ray's logs stay in its session folder."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else the cause is lost on its way here
    context.execution_options.preserve_order = True
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what trials fail of stands in their folders
