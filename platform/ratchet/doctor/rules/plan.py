"""Whether a plan fits a cluster: what it takes against what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratchet.doctor.facts import NodeFacts
from ratchet.doctor.findings import Finding, ok, problem, warning
from ratchet.pipeline.session import needs
from ratchet.pipeline.sizes import bytes_written, stored_parameters, weight_bytes
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import Plan


def enough_nodes(cluster: Cluster, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether CPUs and GPUs are there: for the fewest workers that the plan allows, and for the most."""
    have = {kind: sum(node.resources.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    fewest = needs(cluster.model_copy(update={"workers": cluster.fewest_workers}))
    do = "lower cluster.workers, cluster.score_actors or what each of them takes, or add nodes"
    if short := _short(fewest, have):
        return problem("room for the plan", short, do)
    each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    if not any(all(node.resources.get(kind, 0.0) >= need for kind, need in each.items()) for node in nodes):
        told = f"a worker takes {each['CPU']:g} CPUs and {each['GPU']:g} GPUs, and no node has as many"
        return problem("room for the plan", told, "lower cluster.cpus_per_worker or cluster.gpus_per_worker")
    if short := _short(needs(cluster), have):
        return warning("room for the plan", f"not for all {cluster.most_workers} workers: {short}", do)
    told = ", ".join(f"{need:g} of {have[kind]:g} {kind}s" for kind, need in needs(cluster).items() if need)
    return ok("room for the plan", f"it takes {told}")


def object_store(cluster: Cluster, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether each node's object store is as large as the plan would make that of a local Ray."""
    least = cluster.ray.object_store_mb << 20
    small = [node.name for node in nodes if 0 < node.resources.get("object_store_memory", 0.0) < least]
    if small:
        return warning(
            "object store",
            f"smaller than the plan's {cluster.ray.object_store_mb} MiB on {', '.join(small)}: objects go to the disk",
            "start these nodes with a larger --object-store-memory",
        )
    return ok("object store", f"{cluster.ray.object_store_mb} MiB or more on every node")


def largest_step(plan: Plan) -> int | None:
    """Return the bytes that a step of a plan writes at most; None where the model is not here. Raises ModelError."""
    if plan.model.path is None:
        return None
    dtype = plan.model.dtype
    weights = weight_bytes(stored_parameters(Path(plan.model.path)), dtype)
    return max(bytes_written(stage, weights, dtype) for stage in plan.stages.values()) or None


def _short(need: dict[str, float], have: dict[str, float]) -> str:
    return ", ".join(
        f"{need[kind]:g} {kind}s, and there are {have[kind]:g}" for kind in need if have[kind] < need[kind]
    )
