"""How many pods a plan's `cluster` needs, and of which size; and whether pods that are there are enough."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from ratchet.errors import PlanError
from ratchet.plan.cluster import Cluster

SPARE_CPUS = 1
"""CPUs of each pod beyond its workers': reading, cutting and moving data happen beside them."""


@dataclasses.dataclass(frozen=True)
class Pods:
    """Pods of one group: how many at least and at most, and what each has. `workers` is how many it holds."""

    fewest: int
    most: int
    workers: int
    cpus: int
    gpus: int


@dataclasses.dataclass(frozen=True)
class Room:
    """What there is: so many pods, at least and at most, with so many CPUs and GPUs each."""

    fewest: int
    most: int
    cpus: float
    gpus: float


def place_workers(cluster: Cluster, *, gpus_per_node: int, workers_per_node: int | None) -> Pods:
    """Divide the workers of a plan among pods, as evenly as they go.

    Where workers have GPUs, a pod holds as many as fit into `gpus_per_node`. `workers_per_node` lowers that;
    without GPUs it alone decides, and None puts all workers into one pod. Raises PlanError where a worker, or a
    vLLM engine, does not fit into a node.
    """
    fit = _limit(cluster, gpus_per_node, workers_per_node)
    engine = engine_gpus(cluster)
    engines = int(gpus_per_node // engine) if engine else fit
    if not engines:
        raise PlanError(
            f"an engine needs {engine:g} GPUs of one node, and a node has {gpus_per_node}",
            where="cluster.tensor_parallel",
            fix="larger nodes (--gpus-per-node), or a smaller tensor_parallel",
        )
    nodes = max(math.ceil(cluster.most_workers / fit), math.ceil(cluster.score_actors / engines))
    workers, actors = math.ceil(cluster.most_workers / nodes), math.ceil(cluster.score_actors / nodes)
    cpus = math.ceil(max(workers * cluster.cpus_per_worker, actors)) + SPARE_CPUS
    gpus = math.ceil(max(workers * cluster.gpus_per_worker, actors * engine))
    in_pod = int(gpus // engine) if engine else cpus
    needed = max(math.ceil(cluster.fewest_workers / workers), math.ceil(cluster.score_actors / min(in_pod, cpus)))
    return Pods(min(nodes, needed), nodes, workers, cpus, gpus)


def _limit(cluster: Cluster, gpus_per_node: int, workers_per_node: int | None) -> int:
    if not cluster.gpus_per_worker:
        return workers_per_node or cluster.most_workers
    fit = int(gpus_per_node // cluster.gpus_per_worker)
    if not fit:
        raise PlanError(
            f"a worker needs {cluster.gpus_per_worker:g} GPUs, and a node has {gpus_per_node}",
            where="cluster.gpus_per_worker",
            fix="larger nodes (--gpus-per-node), or fewer GPUs for each worker",
        )
    return min(fit, workers_per_node or fit)


def engine_gpus(cluster: Cluster) -> float:
    """Return the GPUs of one scoring process, all of one node."""
    return max(cluster.gpus_per_worker, cluster.tensor_parallel if cluster.tensor_parallel > 1 else 0)


def lacks(cluster: Cluster, rooms: list[Room]) -> Iterator[str]:
    """Yield what a plan does not find in the pods of a Ray cluster, and what it would leave unused."""
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    for size, workers in (("fewest", cluster.fewest_workers), ("most", cluster.most_workers)):
        there = sum(getattr(room, size) * _holds(room, needs) for room in rooms)
        if there < workers:
            yield (
                f"the plan has {workers} workers of {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs, "
                f"and the {'smallest' if size == 'fewest' else 'largest'} number of pods holds {there}"
            )
            return
    engine = engine_gpus(cluster)
    if engine and sum(room.fewest * int(room.gpus // engine) for room in rooms) < cluster.score_actors:
        yield f"the plan scores with {cluster.score_actors} processes of {engine:g} GPUs, and the pods do not hold them"
    if sum(room.fewest * room.cpus for room in rooms) < cluster.score_actors:
        yield f"the plan scores with {cluster.score_actors} processes, and the pods have fewer CPUs"
    if not engine and any(room.gpus and room.most for room in rooms):
        yield "the pods have GPUs, and the plan uses none: set cluster.gpus_per_worker"


def _holds(room: Room, needs: dict[str, float]) -> int:
    """Return how many workers a pod holds; Ray rounds a pod's CPUs up."""
    by_cpu = math.ceil(room.cpus) // needs["CPU"]
    return int(min(by_cpu, room.gpus // needs["GPU"]) if needs["GPU"] else by_cpu)
