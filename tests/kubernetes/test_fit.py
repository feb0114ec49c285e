"""Pods hold a plan's workers: laid out on paper by another way, at every size."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raised import raises
from ratchet.errors import PlanError
from ratchet.kubernetes.fit import Room, lacks, place_workers
from ratchet.plan.cluster import Cluster


def packed(workers: int, each: tuple[float, float], pods: int, pod: tuple[float, float]) -> bool:
    """Put workers one by one into the first pod that has room, as a scheduler would."""
    left = [list(pod) for _ in range(pods)]
    for _ in range(workers):
        room = next((one for one in left if all(has + 1e-9 >= need for has, need in zip(one, each, strict=True))), None)
        if room is None:
            return False
        room[:] = [has - need for has, need in zip(room, each, strict=True)]
    return True


clusters = st.builds(
    lambda fewest, more, cpus, gpus, actors, parallel: Cluster(
        workers=(fewest, fewest + more),
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        score_actors=actors,
        tensor_parallel=parallel if gpus else 1,
    ),
    st.integers(1, 40),
    st.integers(0, 40),
    st.sampled_from([0.5, 1.0, 4.0, 7.0]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
    st.integers(1, 12),
    st.sampled_from([1, 2, 8]),
)


@given(cluster=clusters, gpus=st.sampled_from([1, 2, 4, 8]), per_node=st.none() | st.integers(1, 16))
def test_the_pods_that_are_asked_for_hold_the_workers(cluster: Cluster, gpus: int, per_node: int | None) -> None:
    try:
        pods = place_workers(cluster, gpus_per_node=gpus, workers_per_node=per_node)
    except PlanError:
        assume(False)
    each = (cluster.cpus_per_worker, cluster.gpus_per_worker)
    assert packed(cluster.most_workers, each, pods.most, (pods.cpus - 1, pods.gpus))
    assert packed(cluster.fewest_workers, each, pods.fewest, (pods.cpus - 1, pods.gpus))
    if cluster.gpus_per_worker:
        assert pods.gpus <= gpus
        engine = max(cluster.gpus_per_worker, cluster.tensor_parallel if cluster.tensor_parallel > 1 else 0)
        assert packed(cluster.score_actors, (0, engine), pods.fewest, (0, pods.gpus))
    assert list(lacks(cluster, [Room(pods.fewest, pods.most, pods.cpus, pods.gpus)])) == []


@given(cluster=clusters, gpus=st.sampled_from([1, 2, 4, 8]), fewer=st.sampled_from(["fewest", "most"]))
def test_one_pod_less_is_told_where_the_last_was_needed(cluster: Cluster, gpus: int, fewer: str) -> None:
    try:
        pods = place_workers(cluster, gpus_per_node=gpus, workers_per_node=None)
    except PlanError:
        assume(False)
    counts = {"fewest": pods.fewest, "most": pods.most}
    counts[fewer] -= 1
    counts["fewest"] = min(counts.values())
    each = (cluster.cpus_per_worker, cluster.gpus_per_worker)
    room = (pods.cpus, pods.gpus)
    fits = packed(cluster.most_workers, each, counts["most"], room) and packed(
        cluster.fewest_workers, each, counts["fewest"], room
    )
    if not fits:
        assert list(lacks(cluster, [Room(counts["fewest"], counts["most"], *room)]))


@pytest.mark.parametrize(
    ("cluster", "gpus", "expected"),
    [
        ({"workers": 16, "gpus_per_worker": 1.0, "cpus_per_worker": 7.0}, 8, (2, 2, 8, 57, 8)),
        ({"workers": (8, 32), "gpus_per_worker": 1.0, "cpus_per_worker": 7.0}, 8, (1, 4, 8, 57, 8)),
        ({"workers": 10, "gpus_per_worker": 1.0}, 8, (2, 2, 5, 6, 5)),
        ({"workers": 3, "gpus_per_worker": 0.5}, 2, (1, 1, 3, 4, 2)),
        ({"workers": 1, "gpus_per_worker": 1.0, "tensor_parallel": 4, "score_actors": 2}, 8, (1, 1, 1, 3, 8)),
        ({"workers": 4}, 0, (1, 1, 4, 5, 0)),
    ],
)  # fmt: skip
def test_sizes_worked_out_by_hand(cluster: dict, gpus: int, expected: tuple[int, ...]) -> None:
    pods = place_workers(Cluster(**cluster), gpus_per_node=gpus, workers_per_node=None)
    assert (pods.fewest, pods.most, pods.workers, pods.cpus, pods.gpus) == expected


@pytest.mark.parametrize(
    ("cluster", "where"),
    [
        ({"gpus_per_worker": 2.0}, "cluster.gpus_per_worker"),
        ({"gpus_per_worker": 1.0, "tensor_parallel": 2}, "cluster.tensor_parallel"),
    ],
)
def test_what_fits_into_no_node_is_refused(cluster: dict, where: str) -> None:
    with raises("plan.no-room") as caught:
        place_workers(Cluster(**cluster), gpus_per_node=1, workers_per_node=None)
    assert caught.value.where == where


def test_a_pod_with_a_part_of_a_cpu_counts_as_ray_counts_it() -> None:
    assert not list(lacks(Cluster(workers=2), [Room(1, 1, 1.5, 0)]))  # Ray rounds up
    assert math.ceil(1.5) == 2
