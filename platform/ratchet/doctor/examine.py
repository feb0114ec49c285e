"""The whole examination: what is there to be seen, and every rule on it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

from ratchet.doctor import dashboard as dashboards
from ratchet.doctor import probe, rules
from ratchet.doctor.facts import Dashboard, Finding, NodeFacts, ok, problem, warning
from ratchet.errors import ClusterError
from ratchet.pipeline.session import needs
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import Plan
from ratchet.store.layout import root_of
from ratchet.store.record import versions

_HTTP = ("http://", "https://")


def examine(plan: Plan | None, address: str | None) -> list[Finding]:
    """Examine the Ray at `address`, or the one that `plan` or RAY_ADDRESS names, or this machine where none does.

    An http or https address is a dashboard's: it is asked what it gives away, and nodes are not looked at.
    Nothing is started on this machine. What cannot be done is a finding.
    """
    cluster = plan.cluster if plan else Cluster()
    address = address or cluster.ray.address or os.environ.get("RAY_ADDRESS") or ""
    findings = [_token_file(os.environ)]
    if address.startswith(_HTTP):
        return [*findings, *_dashboard_alone(address)]
    if address in {"", "local"}:
        return [*findings, *_this_machine(plan, cluster)]
    return [*findings, *_attached(plan, cluster, address)]


def _dashboard_alone(url: str) -> list[Finding]:
    seen = dashboards.inspect_dashboard(url, dashboards.own_token(os.environ))
    if not seen.reachable:
        return [problem("cluster", f"no dashboard answers at {url}", "check the address, or forward its port")]
    return [*_of_dashboard(seen), warning("nodes", "not looked at: a dashboard shows none", _NODES)]


_NODES = "give the address of the cluster itself (host:6379), or run `ratchet doctor` as a job on it"


def _this_machine(plan: Plan | None, cluster: Cluster) -> list[Finding]:
    machine = probe.machine(root_of(cluster.storage))
    need = needs(cluster)
    # As a run would start its local Ray: with the CPUs that the plan needs, and one more.
    resources = {"CPU": float(max(os.cpu_count() or 1, math.ceil(need["CPU"]) + 1)), "GPU": float(len(machine.gpus))}
    resources["object_store_memory"] = float(cluster.ray.object_store_mb << 20)
    node = NodeFacts(machine.name, "127.0.0.1", resources, metrics_port=0, machine=machine)
    where = ok("cluster", "none is named: `ratchet run` starts a Ray of this machine, without a dashboard")
    return [where, dashboards.authentication(None, os.environ), *_of_nodes(plan, cluster, [node])]


def _attached(plan: Plan | None, cluster: Cluster, address: str) -> list[Finding]:
    from ratchet.doctor.cluster import attached, inspect

    storage = root_of(cluster.storage) if plan else None
    try:
        with attached(address) as url:
            nodes = inspect(storage)
    except ClusterError as error:
        return [problem("cluster", f"{error.where}: {error.what}", error.fix)]
    findings = [ok("cluster", f"{address}: {len(nodes)} node{'s' * (len(nodes) != 1)}")]
    seen = dashboards.inspect_dashboard(url, dashboards.own_token(os.environ)) if url else _no_dashboard()
    findings += _of_dashboard(seen) if url else [dashboards.authentication(seen, os.environ)]
    open_metrics = [
        at
        for node in nodes
        if node.metrics_port and dashboards.answers_unasked(f"http://{(at := _metrics_at(node))}/metrics")
    ]
    findings += [dashboards.metrics_open(open_metrics), rules.nodes_answer(nodes)]
    findings += [rules.clocks(nodes), *_of_nodes(plan, cluster, nodes)]
    return findings + ([rules.storage(str(storage), nodes)] if storage else [])


def _of_nodes(plan: Plan | None, cluster: Cluster, nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Apply the rules that hold for the nodes of a cluster as for one machine."""
    ours, wanted = versions(), cluster.gpus_per_worker > 0
    places = [
        ("the driver", ours),
        *((name, machine.versions) for name, machine in rules.answering_machines(nodes)),
    ]
    findings = [
        rules.same_versions(ours, nodes),
        rules.known_holes(places),
        rules.gpus(nodes, wanted),
        rules.shared_memory(nodes, wanted),
        rules.open_files(nodes),
        rules.disks(nodes, rules.largest_step(plan) if plan else None),
    ]
    return findings + ([rules.enough_nodes(cluster, nodes), rules.object_store(cluster, nodes)] if plan else [])


def _of_dashboard(seen: Dashboard) -> list[Finding]:
    findings = [dashboards.authentication(seen, os.environ), dashboards.openness(seen)]
    if not seen.reachable:
        return findings
    findings.append(dashboards.job_secrets(seen))
    if seen.ray_version:
        cluster = dataclasses.replace(rules.known_holes([(seen.url, {"ray": seen.ray_version})]), check="Ray's version")
        findings.append(cluster)
    return findings


def _token_file(environment: Mapping[str, str]) -> Finding:
    path = dashboards.token_path(environment)
    return dashboards.token_readable(path.stat().st_mode if path.is_file() else None, str(path))


def _no_dashboard() -> Dashboard:
    return Dashboard("", reachable=False)


def _metrics_at(node: NodeFacts) -> str:
    host = f"[{node.address}]" if ":" in node.address else node.address
    return f"{host}:{node.metrics_port}"
