"""What is submitted and where, what the cluster says of it, and the name that makes a second submission the same one.

A job's command, variables and metadata are public on the cluster (`submit.secrets` says where they can be read).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratchet.errors import ClusterError, PlanError, RunError, StoppedError
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import Plan
from ratchet.redact import looks_secret
from ratchet.serving.address import check_url
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import lost_with_job

PLAN, DIGEST = "ratchet_plan", "ratchet_digest"
"""Metadata of a job: the plan's name, and the digest of all that makes the job."""
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_ID = r"[a-z0-9][a-z0-9-]{0,62}"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Seconds from Ray's SIGTERM to its SIGKILL when a job is stopped; Ray's own default, 3, is no time for a checkpoint.
It counts only where it stood in the job's `runtime_env` from the start."""
RAYS_STOP_WAIT = 3
KEEP_OUT = (
    "leave it out here, and give it to the cluster: as a variable of its pods (secretKeyRef) or of `ray start`, "
    "or as a file there"
)
"""What to do with a secret."""
_ADDRESS = "give the dashboard's, such as --address http://127.0.0.1:8265, or set RAY_API_SERVER_ADDRESS"


class UnreachableError(ClusterError):
    """No answer now; the same question may get one later."""

    class_code = "cluster.no-answer"


@dataclasses.dataclass(frozen=True)
class Job:
    """What the cluster says of a job. `exit_code` is its driver's, where that ended by itself."""

    id: str
    status: str
    message: str
    exit_code: int | None
    plan: str
    digest: str
    stop_wait: int

    @property
    def ended(self) -> bool:
        """Whether the job runs no more and never will."""
        return self.status in _ENDED


@dataclasses.dataclass(frozen=True)
class Submission:
    """All that makes a job, but for its name."""

    plan: str
    digest: str
    entrypoint: str
    runtime_env: Mapping[str, Any]


class Jobs(Protocol):
    """A cluster's jobs. Every method raises UnreachableError, or ClusterError where asking again is of no use."""

    def info(self, job_id: str) -> Job | None:
        """Return what the cluster says of a job, or None where it knows none of this name."""

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""

    def log(self, job_id: str) -> str:
        """Return all that a job has written so far."""

    def submit(self, job_id: str, submission: Submission) -> bool:
        """Start a job; return False where one of this name is there already, which is left as it is."""

    def stop(self, job_id: str) -> None:
        """Ask for a job's end."""


def find_address(given: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of a cluster's dashboard: as given, of RAY_API_SERVER_ADDRESS, or of RAY_ADDRESS if it is one.

    Raises PlanError where none is given, or it is not such a URL.
    """
    ray_address = environment.get("RAY_ADDRESS", "")
    address = given or environment.get("RAY_API_SERVER_ADDRESS")
    # RAY_ADDRESS is as a rule the address of the cluster itself (host:6379), which takes no jobs.
    if not address and ray_address.startswith(("http://", "https://")):
        address = ray_address
    if not address:
        raise PlanError("no cluster is named", where="--address", fix=_ADDRESS)
    address = address if "://" in address else f"http://{address}"
    check_url(address, "--address", _ADDRESS, instead="use RAY_AUTH_TOKEN_PATH")
    return address.rstrip("/")


def check_plan(plan: Plan) -> None:
    """Raise PlanError where a plan cannot run as a job: its storage would go with the job, or it names another Ray."""
    if not plan.cluster.storage.startswith("/"):
        raise lost_with_job(plan.cluster.storage)
    if plan.cluster.ray.elsewhere:
        raise PlanError(
            "a job runs on the Ray that it is submitted to",
            where="cluster.ray.address",
            fix="leave it out: --set cluster.ray.address=null",
        )


def entrypoint(plan: str, overrides: Sequence[str], *, fresh: bool) -> str:
    """Return the job's command."""
    sets = [word for override in overrides for word in ("--set", override)]
    # `python -m` needs no installed script, so that it also runs a library sent along.
    return shlex.join(["python", "-m", "ratchet.cli", "run", plan, *sets, *(["--fresh"] if fresh else [])])


def variables(settings: Sequence[str], cluster: Cluster, stop_wait: int) -> dict[str, str]:
    """Return the variables of a job: the time that a stop gives, and `NAME=VALUE` settings.

    Raises PlanError where that is no time, or a setting looks like a secret. So it does for a variable that the run
    itself sets: Ray ends a driver whose `ray.init` and job both set one.
    """
    if stop_wait < 1:
        raise PlanError(
            "a stop would kill the run at once, without a checkpoint",
            where=f"--stop-wait {stop_wait}",
            code="plan.job-setting",
            fix="give 1 second or more; a checkpoint of a large model takes minutes",
        )
    found = {STOP_WAIT: str(stop_wait)}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise PlanError("give a variable as NAME=VALUE", where=f"--env {name}", code="plan.job-setting")
        if looks_secret(name):
            raise PlanError(
                "by its name this is a secret, and the variables of a job can be read by all who reach the cluster",
                where=f"--env {name}",
                fix=KEEP_OUT,
                code="plan.secret",
            )
        if name == STOP_WAIT:
            raise PlanError(
                "has an option of its own",
                where=f"--env {name}",
                fix="say --stop-wait SECONDS",
                code="plan.job-setting",
            )
        # Ray ends a driver whose job and `ray.init` both set a variable.
        if name in worker_environment(cluster):
            raise PlanError(
                "`ratchet run` sets this variable itself, and Ray takes it from one place only",
                where=f"--env {name}",
                fix="leave it out",
                code="plan.job-setting",
            )
        found[name] = value
    return found


def job_runtime_env(archive: str, library: str | None, values: dict[str, str]) -> dict[str, Any]:
    """Return a job's `runtime_env`: the archive of its files, the library's folder if it goes along, variables."""
    return {"working_dir": archive, **({"py_modules": [library]} if library else {}), "env_vars": values}


def digest_of_job(files: str, library: str, command: str, values: Mapping[str, str]) -> str:
    """Return the digest of what makes a job: its files, the library sent along, its command and variables."""
    return fingerprint({"files": files, "library": library, "command": command, "variables": dict(values)})


def submit_once(jobs: Jobs, submission: Submission, job_id: str | None) -> tuple[str, bool]:
    """Submit a job once; return its name and whether this call started it.

    The name is the plan's, the digest's beginning and the number of the attempt. A job of the same digest that has
    not ended is the one; after one that has, the next attempt starts. Two that submit at one moment get one job,
    because a cluster takes a name once. With a name given there is one attempt, whatever became of it.
    Raises PlanError where the name is none, RunError where it is another job's, ClusterError.
    """
    if job_id is not None and not re.fullmatch(_ID, job_id):
        what = "a name has lower-case letters, digits and hyphens, 63 at most"
        raise PlanError(what, where=f"--id {job_id}", code="plan.job-setting")
    attempt = 1
    while True:
        name = job_id or f"{submission.plan}-{submission.digest[:10]}-{attempt}"
        job = jobs.info(name)
        # A cluster takes a name once. So of two that ask at one moment one submits, and the other finds its job.
        if job is None and jobs.submit(name, submission):
            return name, True
        job = job or jobs.info(name)
        if job is not None and job.digest != submission.digest:
            raise RunError(
                "the cluster has a job of this name that was made from something else",
                where=name,
                fix="choose another --id, or leave it out",
                code="run.other-job",
            )
        if job is not None and (job_id is not None or not job.ended):
            return name, False
        attempt += 1


def exit_status(job: Job) -> int:
    """Return the exit status of an ended job's driver; one that a signal ended has 128 and its number.

    Raises StoppedError where the job was stopped, ClusterError where no driver ended by itself.
    """
    if job.status == "STOPPED":
        raise StoppedError("the job was stopped", where=job.id, fix="submit again: the run goes on where it stopped")
    if job.exit_code is None:
        last = job.message.strip().splitlines() or ["the cluster says no more"]
        raise ClusterError(
            f"the job failed, and not by its command: {last[-1]}",
            where=job.id,
            fix="look at the head's logs (runtime_env_setup-*.log, jobs/supervisor-*.log); submit again to go on",
            code="cluster.no-command",
        )
    return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
