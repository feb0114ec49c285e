"""Who has no token, or a wrong one, gets nothing but what is listed here: routes, GCS, Ray Client."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import netns
from nodes import ADDRESSES, CLIENT, CLIENT_PORT, GCS_PORT, HEAD, WORKERS, Nodes, needs_nodes

pytestmark = [pytest.mark.nodes, needs_nodes]

OPEN = {
    ("GET", "/"): 200,
    ("GET", "/favicon.ico"): 200,
    ("GET", "/static/x"): 404,
    ("GET", "/api/authentication_mode"): 200,
    ("GET", "/api/gcs_healthz"): 200,
    ("POST", "/api/authenticate"): 401,
}
"""Routes of the dashboard that a request without a token gets to, and what they say to it."""
AGENT_PORT = 52365


def routes(cluster: Nodes) -> list[tuple[str, str]]:
    """Every route that the dashboard has, as it wrote them down itself."""
    [log] = cluster.folder.glob("head*/session_2*/logs/dashboard.log")
    found = re.findall(r"<ResourceRoute \[(\w+)\] <\w+Resource  (\S+?)>? -> ", log.read_text())
    [said] = re.findall(r"Registered (\d+) routes", log.read_text())
    assert len(found) == int(said) > 50
    return [(method, "/static/x" if path == "/static" else re.sub(r"\{\w+\}", "x", path)) for method, path in found]


@pytest.mark.parametrize(("token", "refusal"), [(None, 401), ("wrong", 403)])
def test_every_route_but_the_listed_ones_refuses(cluster: Nodes, token: str | None, refusal: int) -> None:
    answers = {route: cluster.ask(route[1], method=route[0], token=token)[0] for route in routes(cluster)}
    others = {route: status for route, status in answers.items() if route not in OPEN}
    assert {route: status for route, status in others.items() if status != refusal} == {}
    if token is None:
        assert {route: answers[route] for route in OPEN} == OPEN


def test_the_right_token_opens_them(cluster: Nodes) -> None:
    """Else the test above would see nothing but a dashboard that refuses everybody."""
    for path in ("/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/actors"):
        assert cluster.ask(path)[0] == 200, path


@pytest.mark.parametrize("host", [HEAD, *WORKERS])
@pytest.mark.parametrize(("token", "refusal"), [(None, 401), ("wrong", 403)])
def test_the_agent_of_a_host_refuses(cluster: Nodes, host: str, token: str | None, refusal: int) -> None:
    agent = (ADDRESSES[host], AGENT_PORT)
    for method, path in (("POST", "/api/job_agent/jobs/"), ("GET", "/api/job_agent/jobs/x/logs"), ("GET", "/x")):
        assert cluster.ask(path, method=method, token=token, address=agent)[0] == refusal, path
    assert cluster.ask("/api/local_raylet_healthz", token=token, address=agent)[0] == 200  # for probes


def test_metrics_are_open_to_who_reaches_the_port(cluster: Nodes) -> None:
    """Ray has no token there: only a network policy closes them."""
    ports = cluster.metrics_ports()
    assert set(ports) == {ADDRESSES[host] for host in (HEAD, *WORKERS)}
    for address, port in ports.items():
        status, body = cluster.ask("/metrics", token=None, address=(address, port))
        assert status == 200 and b"ray_" in body


CALL = """
import json, sys, grpc
found = {}
asked = {6379: "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", 10001: "/ray.rpc.RayletDriver/ClusterInfo"}
for port, method in asked.items():
    with grpc.insecure_channel(f"10.77.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(method)
        for name, header in (("none", None), ("wrong", "Bearer " + "0" * 32), ("right", "Bearer " + sys.argv[1])):
            try:
                call(b"", timeout=30, metadata=[("authorization", header)] if header else [])
                found[f"{port} {name}"] = "let in"
            except grpc.RpcError as error:
                found[f"{port} {name}"] = error.code().name
print(json.dumps(found))
"""
"""Asks the GCS for its nodes, and the server of Ray Client for its cluster, as three kinds of callers."""


def test_gcs_and_ray_client_let_in_who_has_the_token(cluster: Nodes) -> None:
    command = netns.on(CLIENT, [sys.executable, "-c", CALL, cluster.token])
    found = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 0, found.stderr
    right = {GCS_PORT: "let in", CLIENT_PORT: "NOT_FOUND"}  # let in, and asked for a session that is not there
    expected = {f"{port} right": answer for port, answer in right.items()}
    expected |= {f"{port} {name}": "UNAUTHENTICATED" for port in right for name in ("none", "wrong")}
    assert json.loads(found.stdout) == expected
