"""Follow a job to its end, or stop it: ask again and again, so that a connection that breaks costs nothing.

Ray's own follower is one websocket, whose end is taken for the job's (ray#51601). Here each round asks for the status
and then for the log, of which only what is new is written; so what a job wrote before it ended is never missed.
"""

from __future__ import annotations

import time
from typing import TextIO

from ratchet.errors import ClusterError, RunError, StoppedError, some
from ratchet.submit.job import Job, Jobs, UnreachableError, exit_status
from ratchet.track.progress import Console, duration

POLL_SECONDS = 1.0
_TRIES_FOR_THE_END = 5
_SHARE = 4
"""A round that took long, because the log is long, is followed by a pause this many times as long."""
_AFTER_KILL = 60.0
"""Seconds that a killed job may take to be reported as stopped."""


class _Log:
    """What of a job's log was written here."""

    def __init__(self, out: TextIO, seen: int) -> None:
        self._out, self._seen = out, seen

    def show(self, text: str) -> None:
        """Write what is new of the log so far."""
        if len(text) > self._seen:
            self._out.write(text[self._seen :])
            self._out.flush()
            self._seen = len(text)


class _Silence:
    """How long there has been no answer, reported once when that begins and once when it ends."""

    def __init__(self, console: Console, patience: float) -> None:
        self._console, self._patience = console, patience
        self._since: float | None = None

    def keeps(self, error: UnreachableError, job_id: str) -> None:
        """Note that there was no answer. Raises ClusterError after `patience` seconds of it."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._console.say(f"{error.what}; the job may go on, asking for up to {duration(self._patience)}")
        if now - self._since > self._patience:
            raise ClusterError(
                f"no answer for {duration(now - self._since)}: {error.what}",
                where=job_id,
                fix="the job may still run: follow it again with the same command, once the cluster answers",
                code="cluster.no-answer",
            ) from error

    def ends(self) -> None:
        """Note that there was an answer."""
        if self._since is not None:
            self._console.say(f"an answer again after {duration(time.monotonic() - self._since)}")
            self._since = None


def follow_job(
    jobs: Jobs,
    job_id: str,
    out: TextIO,
    *,
    patience: float,
    seen: int = 0,
    poll: float = POLL_SECONDS,
    console: Console | None = None,
) -> Job:
    """Write a job's log to `out` from character `seen` on, until the job has ended; return it.

    `patience` and `poll` are seconds. Raises ClusterError where the cluster gives no answer for so long, or has
    forgotten the job.
    """
    console = console or Console()
    log, silence, waiting = _Log(out, seen), _Silence(console, patience), ""
    tries_left = _TRIES_FOR_THE_END
    while True:
        started = time.monotonic()
        job = None
        try:
            job = _info(jobs, job_id)
            if job.status == "PENDING" and job.message != waiting:
                waiting = job.message
                console.say(f"{job_id}: {waiting}")
            log.show(jobs.log(job_id))  # after the status, and so all of it where that says that the job has ended
            silence.ends()
            if job.ended:
                return job
        except UnreachableError as error:
            silence.keeps(error, job_id)
            if job is not None and job.ended:
                tries_left -= 1
                if not tries_left:
                    console.say(f"{job_id} has ended, and the end of its log is not to be had: {error.what}")
                    return job
        time.sleep(max(poll, _SHARE * (time.monotonic() - started)))


def _info(jobs: Jobs, job_id: str) -> Job:
    job = jobs.info(job_id)
    if job is None:
        raise ClusterError(
            "the cluster knows no such job: its head was started again, and the job ended with it",
            where=job_id,
            fix="submit again: the run goes on from its last checkpoint",
            code="cluster.forgot-job",
        )
    return job


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
    # A head under load may be silent for as long as the job has to stop.
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
        what = f"several jobs of this plan run: {some([job.id for job in found])}"
        raise RunError(what, where=plan, fix="name one with --id", code="run.no-job")
    fix = "`ray job list` shows those that do"
    raise RunError("no such job runs on this cluster", where=job_id or plan, fix=fix, code="run.no-job")
