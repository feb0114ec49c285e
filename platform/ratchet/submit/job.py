"""What is submitted, what the cluster says of it, and the name that makes a second submission the same one."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratchet.errors import ClusterError, PlanError, RunError, StoppedError
from ratchet.plan.schema import Plan
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import lost_with_job

PLAN, DIGEST = "ratchet_plan", "ratchet_digest"
"""Metadata of a job: the plan's name, and the digest of all that makes the job."""
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_ID = r"[a-z0-9][a-z0-9-]{0,62}"


class UnreachableError(ClusterError):
    """No answer now; the same question may get one later."""


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
    """Return the job's command. `python -m` needs no installed script, so that it also runs a library sent along."""
    sets = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["python", "-m", "ratchet.cli", "run", plan, *sets, *(["--fresh"] if fresh else [])])


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
        raise PlanError("a name has lower-case letters, digits and hyphens, 63 at most", where=f"--id {job_id}")
    attempt = 1
    while True:
        name = job_id or f"{submission.plan}-{submission.digest[:10]}-{attempt}"
        job = jobs.info(name)
        if job is None and jobs.submit(name, submission):
            return name, True
        job = job or jobs.info(name)
        if job is not None and job.digest != submission.digest:
            raise RunError(
                "the cluster has a job of this name that was made from something else",
                where=name,
                fix="choose another --id, or leave it out",
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
        )
    return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
