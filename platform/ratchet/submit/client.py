"""The only door to Ray's job server: its REST interface by way of Ray's own client, with time limits and plain errors.

Ray's client waits for an answer without end, follows redirects, and takes RAY_ADDRESS before the address that it is
given; this one does neither.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from typing import Any

import ray
import requests
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.job_submission import JobDetails, JobSubmissionClient

from ratchet.errors import ClusterError, PlanError
from ratchet.serving.address import is_in_the_open
from ratchet.submit.job import DIGEST, PLAN, RAYS_STOP_WAIT, STOP_WAIT, Job, Submission, UnreachableError
from ratchet.track.progress import Console

OLDEST = (2, 60)
"""The oldest Ray that a plan runs on, and whose job server reports a driver's exit status."""
TIMEOUTS = (10.0, 120.0)
"""Seconds to connect, and to wait for the next byte."""
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before a submission is sent again: a head that has just started has no agent yet to take it."""
_JSON = ("/api/version", "/api/jobs")


class _GoneError(Exception):
    """The server has no such thing."""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client with one way to ask."""

    def __init__(self, address: str, headers: dict[str, str], verify: bool | str) -> None:
        # Which JobSubmissionClient would set, and `submit_job` reads.
        self._client_ray_version = ray.__version__
        # JobSubmissionClient's own would take RAY_API_SERVER_ADDRESS or RAY_ADDRESS in place of `address`.
        SubmissionClient.__init__(self, address=address, headers=headers, verify=verify)

    @property
    def carries_secrets(self) -> bool:
        """Whether requests carry a token, or other headers of the user's."""
        return bool(self._headers)

    def _do_request(self, method: str, endpoint: str, *, json_data: Any = None, **options: Any) -> requests.Response:
        """Ask, and turn what is no answer into ClusterError, or UnreachableError where a later try may get one."""
        try:
            # A redirect would carry the headers, and so the token, to another host.
            response = requests.request(
                method, self._address + endpoint, json=json_data, headers=self._headers, verify=self._verify,
                timeout=TIMEOUTS, allow_redirects=False, **options,
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise ClusterError(
                f"no TLS with this server: {_reason(error)}",
                where=self._address,
                fix="check http or https, and give the file of the certificate authority with --ca",
                code="cluster.no-tls",
            ) from error
        except requests.exceptions.RequestException as error:
            raise UnreachableError(
                f"no answer: {_reason(error)}",
                where=self._address,
                fix="check the address (the dashboard's port is 8265 as a rule), and that the cluster runs",
            ) from error
        self._check(response, endpoint)
        return response

    def _check(self, response: requests.Response, endpoint: str) -> None:
        status, words = response.status_code, (response.text.strip().splitlines() or [""])[-1][:300]
        if status in {401, 403}:
            sent = any(name.lower() == "authorization" for name in self._headers)
            raise ClusterError(
                f"the cluster {'refuses this token' if sent else 'asks for a token'} ({status})",
                where=self._address,
                fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token",
                code="cluster.no-token",
            )
        if status == 413:
            raise ClusterError(f"too much for one request: {words}", where=self._address)
        if status >= 500:
            raise UnreachableError(f"the server fails ({status}): {words}", where=self._address)
        # A proxy's page for a login comes with status 200 too.
        json_wanted = status == 200 and endpoint.startswith(_JSON)
        if response.is_redirect or (json_wanted and "json" not in response.headers.get("Content-Type", "")):
            raise UnreachableError(
                "what answers there is not Ray's dashboard",
                where=self._address,
                fix="check the port (8265 as a rule); a proxy that asks for a login needs RAY_JOB_HEADERS",
                code="cluster.not-ray",
            )

    def _raise_error(self, r: requests.Response) -> None:
        if r.status_code == 404:
            raise _GoneError
        raise ClusterError(f"the server refuses ({r.status_code}): {r.text.strip()[:300]}", where=self._address)


class RayJobs:
    """The jobs of a cluster, as `submit.job.Jobs` describes."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def info(self, job_id: str) -> Job | None:
        """Return what the cluster says of a job, or None where it knows none of this name."""
        try:
            return _job(self._client.get_job_info(job_id))
        except _GoneError:
            return None

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""
        jobs = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return [job for job in jobs if not job.ended]

    def log(self, job_id: str) -> str:
        """Return all that a job has written so far."""
        try:
            return str(self._client.get_job_logs(job_id))
        except _GoneError:
            return ""

    def submit(self, job_id: str, submission: Submission) -> bool:
        """Start a job, its driver on the head; return False where one of this name is there already."""
        for wait in (*RETRY_SECONDS, None):
            try:
                # No resources for the entrypoint: with any, Ray places the driver on any node.
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env=dict(submission.runtime_env),
                    metadata={PLAN: submission.plan, DIGEST: submission.digest},
                )
            except ClusterError as error:
                if self.info(job_id) is not None:  # a name that is taken is an error of several kinds, by Ray's version
                    return False
                if wait is None or not isinstance(error, UnreachableError):
                    raise
                time.sleep(wait)
            else:
                return True
        return False

    def stop(self, job_id: str) -> None:
        """Ask for a job's end."""
        try:
            self._client.stop_job(job_id)
        except _GoneError:
            raise ClusterError("the cluster knows no such job", where=job_id, code="cluster.forgot-job") from None


def connect_jobs(address: str, ca: str | None) -> RayJobs:
    """Return the jobs of the cluster whose dashboard is at `address`; `ca` is a file of certificates to trust.

    The token is taken from Ray's own variables. Raises ClusterError where there is no such cluster, it refuses, or
    its Ray is too old.
    """
    # Ray tells by these what it packs and uploads, between our own lines.
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = _Client(address, _headers(), ca or True)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"no token to send: {str(error).partition('. ')[0]}",
            where="RAY_AUTH_MODE=token",
            fix="set RAY_AUTH_TOKEN_PATH to a file with the cluster's token",
            code="cluster.no-token",
        ) from error
    if client.carries_secrets and is_in_the_open(address):
        Console().say(f"warning: the token goes to {address} in the clear; use https, or a tunnel to the head")
    answer = client._do_request("GET", "/api/version")
    version = answer.json().get("ray_version") if answer.status_code == 200 else None
    if not isinstance(version, str):
        raise ClusterError(
            "what answers there is not Ray's dashboard",
            where=address,
            fix="check the port, 8265 as a rule",
            code="cluster.not-ray",
        )
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ClusterError(
            f"the cluster runs Ray {version}, and Ratchet needs {'.'.join(map(str, OLDEST))} or newer",
            where=address,
            fix="start it with a newer image",
            code="cluster.old-ray",
        )
    return RayJobs(client)


def _headers() -> dict[str, str]:
    """Return the headers that RAY_JOB_HEADERS asks for, as Ray's own command takes them."""
    try:
        found = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError):
        raise PlanError("not a JSON object", where="RAY_JOB_HEADERS", fix='write {"Name": "value"}') from None


def _job(details: JobDetails) -> Job:
    metadata, environment = details.metadata or {}, (details.runtime_env or {}).get("env_vars") or {}
    return Job(
        id=details.submission_id or "",
        status=str(details.status.value),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        plan=metadata.get(PLAN, ""),
        digest=metadata.get(DIGEST, ""),
        stop_wait=int(environment.get(STOP_WAIT, RAYS_STOP_WAIT)),
    )


def _reason(error: BaseException) -> str:
    """Return why there was no answer: the system's words where they are in there, else the last line."""
    text = str(error).strip() or type(error).__name__
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return found[1] if found else text.splitlines()[-1][:300]
