"""Who may reach a cluster, and what it gives away: from facts to findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ratchet.doctor.facts import Dashboard
from ratchet.doctor.findings import Finding, ok, problem, warning
from ratchet.errors import some

_CLOSE = (
    "start every node with RAY_AUTH_MODE=token, and its token in the file of RAY_AUTH_TOKEN_PATH (docs/security.md)"
)


def authentication(dashboard: Dashboard | None, environment: Mapping[str, str]) -> Finding:
    """Whether the cluster wants a token; where it cannot be asked, whether a Ray of this machine would."""
    check, asked = "authentication", environment.get("RAY_AUTH_MODE", "")
    if dashboard is not None and dashboard.reachable:
        if dashboard.jobs_open or dashboard.mode == "disabled":
            return problem(check, "off: whoever reaches this cluster runs code on it, without a token", _CLOSE)
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
