"""What a Ray dashboard shows without a token, over HTTP. Follows no redirect, and uses no proxy."""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ratchet import redact
from ratchet.doctor.facts import Dashboard

TOKEN_FILE = Path("~/.ray/auth_token")
_SECONDS = 10.0
_MOST_BYTES = 16 << 20


def inspect_dashboard(url: str, token: str | None) -> Dashboard:
    """Ask a dashboard at `url` without a token what it gives away, and with `token` which secrets its jobs show."""
    url = url.rstrip("/")
    try:
        status, body = get(f"{url}/api/jobs/", None)
    except (OSError, http.client.HTTPException, ValueError):
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
    except (OSError, http.client.HTTPException, ValueError):
        return False


def get(url: str, token: str | None) -> tuple[int, bytes]:
    """Return status and body of a GET. Raises OSError where nothing answers."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http or https URL")
    request = urllib.request.Request(url)  # noqa: S310  the scheme was looked at
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_MOST_BYTES)


def own_token(environment: Mapping[str, str]) -> str | None:
    """Return the token that Ray itself would use, None where it finds none: RAY_AUTH_TOKEN counts before files."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = token_path(environment)
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() and os.access(path, os.R_OK) else None


def token_path(environment: Mapping[str, str]) -> Path:
    """Return where Ray looks for a token."""
    return Path(environment.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and cannot be reached from another."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ip_address(address.partition("%")[0]).is_loopback for address in found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _part(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _field(value: Any, name: str) -> str | None:
    found = value.get(name) if isinstance(value, dict) else None
    return str(found) if found is not None else None
