"""Stop a job and wait for its end: the run commits a checkpoint first, in the time that its submission set."""

from __future__ import annotations

import time
from typing import TextIO

from ratchet.errors import RunError, StoppedError, some
from ratchet.submit.follow import follow_job
from ratchet.submit.job import Job, Jobs, exit_status
from ratchet.track.progress import Console, duration

_AFTER_KILL = 60.0


def stop(jobs: Jobs, plan: str, job_id: str | None, out: TextIO, *, patience: float) -> int:
    """Stop the one running job of a plan, or the one named; write what it says until its end.

    Return 0 where it stopped in its time, `StoppedError`'s status where it was killed then, and its own where it had
    ended by itself. Raises RunError where no such job runs, or several do and none is named; ClusterError.
    """
    job, console = find_job(jobs, plan, job_id), Console()
    seen = len(jobs.log(job.id))
    console.say(f"{job.id}: asked to stop; it has {job.stop_wait} s to commit a checkpoint")
    started = time.monotonic()
    jobs.stop(job.id)
    ended = follow_job(jobs, job.id, out, patience=max(patience, job.stop_wait + _AFTER_KILL), seen=seen)
    took = time.monotonic() - started
    if ended.status != "STOPPED":
        console.say(f"{job.id}: had ended by itself: {ended.status}")
        return exit_status(ended)
    if took < job.stop_wait:
        console.say(f"{job.id}: stopped after {duration(took)}; submitted again, the run goes on where it stopped")
        return 0
    console.say(
        f"{job.id}: killed after its {job.stop_wait} s; submitted again, the run goes on from the last checkpoint "
        "that was committed (more time: --stop-wait when submitting)"
    )
    return StoppedError.exit_code


def find_job(jobs: Jobs, plan: str, job_id: str | None) -> Job:
    """Return the job to stop. Raises RunError where none runs, or several do."""
    found = [job for job in jobs.running() if (job.id == job_id if job_id else job.plan == plan)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(
            f"several jobs of this plan run: {some([job.id for job in found])}", where=plan, fix="name one with --id"
        )
    raise RunError("no such job runs on this cluster", where=job_id or plan, fix="`ray job list` shows those that do")
