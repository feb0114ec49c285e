"""The `runtime_env` of a job: a fixed few variables that are no secrets, the working folder, and the library if asked.

All of it is public on the cluster (`submit.secrets` says where it can be read).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratchet.errors import PlanError
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster
from ratchet.redact import looks_secret
from ratchet.submit.secrets import FIX

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Seconds from Ray's SIGTERM to its SIGKILL when a job is stopped; Ray's own default, 3, is no time for a checkpoint.
It counts only where it stood in the job's `runtime_env` from the start."""
RAYS_STOP_WAIT = 3


def variables(settings: Sequence[str], cluster: Cluster, stop_wait: int) -> dict[str, str]:
    """Return the variables of a job: the time that a stop gives, and `NAME=VALUE` settings.

    Raises PlanError where that is no time, and where a setting looks like a secret, or is one that the run itself
    sets: Ray ends a driver whose `ray.init` and job both set a variable.
    """
    if stop_wait < 1:
        raise PlanError(
            "a stop would kill the run at once, without a checkpoint",
            where=f"--stop-wait {stop_wait}",
            fix="give 1 second or more; a checkpoint of a large model takes minutes",
        )
    found = {STOP_WAIT: str(stop_wait)}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise PlanError("give a variable as NAME=VALUE", where=f"--env {name}")
        if looks_secret(name):
            raise PlanError(
                "by its name this is a secret, and the variables of a job can be read by all who reach the cluster",
                where=f"--env {name}",
                fix=FIX,
            )
        if name == STOP_WAIT:
            raise PlanError("has an option of its own", where=f"--env {name}", fix="say --stop-wait SECONDS")
        if name in worker_environment(cluster):
            raise PlanError(
                "`ratchet run` sets this variable itself, and Ray takes it from one place only",
                where=f"--env {name}",
                fix="leave it out",
            )
        found[name] = value
    return found


def job_runtime_env(archive: str, library: str | None, values: dict[str, str]) -> dict[str, Any]:
    """Return a job's `runtime_env`: the archive of its files, the library's folder if it goes along, variables."""
    return {"working_dir": archive, **({"py_modules": [library]} if library else {}), "env_vars": values}
