"""What a Ray dashboard shows without a token, and what is wrong with that: who may reach a cluster, what it gives away.

Follows no redirect, and uses no proxy.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from ratchet import redact
from ratchet.doctor.facts import Dashboard, Finding, ok, problem, warning
from ratchet.errors import some
from ratchet.serving.address import is_loopback

TOKEN_FILE = Path("~/.ray/auth_token")
_SECONDS = 10.0
_MOST_BYTES = 16 << 20
_NO_ANSWER = (OSError, urllib3.exceptions.HTTPError, ValueError)
_CLOSE = (
    "start every node with RAY_AUTH_MODE=token, and its token in the file of RAY_AUTH_TOKEN_PATH (docs/security.md)"
)


def inspect_dashboard(url: str, token: str | None) -> Dashboard:
    """Ask a dashboard at `url` without a token what it gives away, and with `token` which secrets its jobs show."""
    url = url.rstrip("/")
    try:
        # First without a token, as a stranger would ask.
        status, body = get(f"{url}/api/jobs/", None)
    except _NO_ANSWER:
        return Dashboard(url, reachable=False)
    if status in {401, 403} and token:
        jobs = _json(get(f"{url}/api/jobs/", token)[1])
    else:
        jobs = _json(body) if status == 200 else None
    mode, version = (_json(get(url + path, token)[1]) for path in ("/api/authentication_mode", "/api/version"))
    return Dashboard(
        url,
        reachable=True,
        mode=_field(mode, "authentication_mode"),
        status=status,
        jobs_open=status == 200 and isinstance(jobs, list),
        ray_version=_field(version, "ray_version"),
        loopback=is_loopback(urlsplit(url).hostname or ""),
        secrets=tuple(secrets_of(jobs)),
    )


def secrets_of(jobs: Any) -> list[tuple[str, str]]:
    """Return (job, variable) of variables in jobs' runtime environments that are named as secrets are."""
    found = []
    for job in jobs if isinstance(jobs, list) else []:
        environment = _part(_part(job, "runtime_env"), "env_vars")
        name = _field(job, "submission_id") or _field(job, "job_id") or "?"
        found += [(name, key) for key, value in environment.items() if value and redact.looks_secret(key)]
    return found


def answers_unasked(url: str) -> bool:
    """Tell whether something answers at `url` without a token."""
    try:
        return get(url, None)[0] == 200
    except _NO_ANSWER:
        return False


class _SystemTrust(requests.adapters.HTTPAdapter):
    """Trusts whom this machine trusts, SSL_CERT_FILE included; requests has a list of its own."""

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, ssl_context=ssl.create_default_context(), **options)


def get(url: str, token: str | None) -> tuple[int, bytes]:
    """Return status and body of a GET. Raises one of `_NO_ANSWER` where nothing answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with requests.Session() as session:
        session.mount("https://", _SystemTrust())
        session.trust_env = False  # no proxy, and no password of a netrc in place of the token
        with session.get(url, headers=headers, timeout=_SECONDS, allow_redirects=False, stream=True) as answer:
            # A part is enough: a server that never ends must not fill the memory.
            return answer.status_code, answer.raw.read(_MOST_BYTES, decode_content=True)


def own_token(environment: Mapping[str, str]) -> str | None:
    """Return the token that Ray itself would use, None where it finds none: RAY_AUTH_TOKEN counts before files."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = token_path(environment)
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() and os.access(path, os.R_OK) else None


def token_path(environment: Mapping[str, str]) -> Path:
    """Return where Ray looks for a token."""
    return Path(environment.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()


def authentication(dashboard: Dashboard | None, environment: Mapping[str, str]) -> Finding:
    """Whether the cluster wants a token; where it cannot be asked, whether a Ray of this machine would."""
    check, asked = "authentication", environment.get("RAY_AUTH_MODE", "")
    if dashboard is not None and dashboard.reachable:
        if dashboard.jobs_open or dashboard.mode == "disabled":
            return problem(check, "off: anyone who reaches this cluster runs code on it, without a token", _CLOSE)
        if dashboard.status in {401, 403}:
            return ok(check, f"on: without a token jobs answer {dashboard.status}")
        said = f"not clear: jobs answer {dashboard.status} without a token; mode {dashboard.mode or 'unknown'}"
        return warning(check, said, "give the address of the cluster's own dashboard")
    if dashboard is not None or (asked and asked != "token"):
        what = f"RAY_AUTH_MODE is {asked or 'not set'} here, and the cluster's dashboard cannot be asked"
        return warning(check, what if dashboard else f"RAY_AUTH_MODE is {asked}: a Ray would start without it", _CLOSE)
    return ok(check, "a Ray of this machine starts with a token of its own")


def openness(dashboard: Dashboard) -> Finding:
    """Whether the dashboard is there for more than this machine, and behind a token."""
    check = "dashboard"
    if not dashboard.reachable:
        return warning(check, f"{dashboard.url} does not answer from here", "give its address, or forward its port")
    if dashboard.jobs_open:
        if dashboard.loopback:
            what = f"{dashboard.url} is open without a token to every user, and to pages in browsers, of this machine"
        else:
            what = f"{dashboard.url} is open without a token to the whole network"
        return problem(check, what, f"{_CLOSE}; bind it with --dashboard-host=127.0.0.1 or put a firewall in front")
    if dashboard.url.startswith("http://") and not dashboard.loopback:
        return warning(
            check,
            f"{dashboard.url} wants a token, which travels in clear text",
            "reach it through a private network, `kubectl port-forward`, or TLS",
        )
    return ok(check, f"{dashboard.url} wants a token")


def metrics_open(answering: Sequence[str]) -> Finding:
    """Whether metrics are open: they know no token. `answering` are the addresses that gave them."""
    if answering:
        return warning(
            "metrics",
            f"anybody on the network reads the metrics of {some(list(answering))}: Ray has no token for them",
            "let only your Prometheus reach these ports: a NetworkPolicy or a firewall",
        )
    return ok("metrics", "no node's metrics port answers from here")


def job_secrets(dashboard: Dashboard) -> Finding:
    """Whether secrets stand in jobs' runtime environments, which everybody reads who reaches the dashboard."""
    found = [f"{variable} of job {job}" for job, variable in dashboard.secrets]
    if found:
        return problem(
            "secrets of jobs",
            f"runtime_env shows {some(found)} to all who reach the dashboard, and Ray's logs keep it",
            "change these secrets, and give them to pods (secretKeyRef) or nodes instead of runtime_env",
        )
    return ok("secrets of jobs", "no runtime_env has a variable that is named as secrets are")


def token_readable(mode: int | None, path: str) -> Finding:
    """Whether others may read the token's file. `mode` is its permissions, None where there is no file."""
    if mode is not None and mode & 0o077:
        return warning("token file", f"{path} can be read by other users ({mode & 0o777:03o})", f"chmod 600 {path}")
    return ok("token file", f"{path} is yours alone" if mode is not None else f"there is none at {path}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    # The answer is a stranger's: it may be nested deeper than Python can follow.
    except (ValueError, RecursionError):
        return None


def _part(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _field(value: Any, name: str) -> str | None:
    found = value.get(name) if isinstance(value, dict) else None
    return str(found) if found is not None else None
