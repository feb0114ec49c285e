"""What KubeRay's operator takes is no fault here, and a null hides nothing."""

from __future__ import annotations

from typing import Any

import pytest

from k8s_example import GATES, changed, head_of, of_kind, texts_of
from ratchet.kubernetes.check import Against, check_objects
from ratchet.kubernetes.kuberay import operator_faults
from ratchet.kubernetes.ray_parts import CLUSTERS
from tests.conftest import ROOT

HERE = Against(root=ROOT)
ROCKSDB = {"gcsFaultToleranceOptions": {"backend": "rocksdb"}}


def group_of(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["workerGroupSpecs"][0]


def set_head(spec: dict[str, Any], name: str, value: str) -> None:
    head_of(spec)["containers"][0]["env"].append({"name": name, "value": value})


def rank_with_v2_by_variable(_: Any, spec: dict[str, Any]) -> None:
    spec.update(enableInTreeAutoscaling=True, rayVersion="2.56.0")
    set_head(spec, "RAY_enable_autoscaler_v2", "1")
    group_of(spec).update(idleTimeoutSeconds=5, priority=3)


def let_idle_with_v2_that_is_off(_: Any, spec: dict[str, Any]) -> None:
    spec.update(autoscalerOptions={"version": "v2"})
    group_of(spec).update(idleTimeoutSeconds=5)


def annotate_redis(data: Any, spec: dict[str, Any]) -> None:
    data["metadata"]["annotations"] = {"ray.io/ft-enabled": "True"}
    set_head(spec, "RAY_REDIS_ADDRESS", "redis:6379")


def empty_redis(_: Any, spec: dict[str, Any]) -> None:
    spec.update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"})
    spec["headGroupSpec"]["rayStartParams"].update({"redis-username": "", "redis-password": ""})


def mount_elsewhere(_: Any, spec: dict[str, Any]) -> None:
    spec.update(ROCKSDB)
    head_of(spec)["containers"][0]["volumeMounts"].append({"name": "mine", "mountPath": "/data/gcs-of-mine"})


def mount_without_rocksdb(_: Any, spec: dict[str, Any]) -> None:
    head_of(spec)["containers"][0]["volumeMounts"].append({"name": "mine", "mountPath": "/data/gcs"})


def annotate_cron(data: Any, spec: dict[str, Any]) -> None:
    data["metadata"]["annotations"] = {"ray.io/ft-enabled": "true"}
    spec.update(gcsFaultToleranceOptions={"redisAddress": "redis:6379"})


TAKEN: list[tuple[str, Any]] = [
    ("RayCluster", lambda _, spec: group_of(spec).update(priority=0)),
    ("RayCluster", rank_with_v2_by_variable),
    ("RayCluster", let_idle_with_v2_that_is_off),
    ("RayCluster", annotate_redis),
    ("RayCluster", empty_redis),
    ("RayCluster", mount_elsewhere),
    ("RayCluster", mount_without_rocksdb),
    ("RayJob", lambda data, _: data.update(metadata={"generateName": "rayjob-sample-"})),
    ("RayJob", lambda data, _: data["spec"].update(submissionMode="HTTPMode")),
    ("RayCronJob", annotate_cron),
    ("RayCronJob", lambda data, _: data["spec"].update(schedule="@every .5h", timeZone="Local")),
    ("RayCronJob", lambda data, _: data["spec"].update(schedule="@every 100us")),
]


@pytest.mark.parametrize(("kind", "change"), TAKEN)
def test_what_the_operator_takes_is_no_fault(kind: str, change: Any) -> None:
    gates = ("GCSFaultToleranceEmbeddedStorage", *GATES.get(kind, ()))
    assert texts_of(list(operator_faults(changed(kind, change)[0], gates))) == ""


def test_annotations_of_a_cron_job_do_not_reach_its_cluster() -> None:
    assert "RAY_REDIS_ADDRESS without gcs" in texts_of(check_objects(changed("RayCronJob", annotate_redis), HERE))


@pytest.mark.parametrize("kind", CLUSTERS)
def test_a_name_may_be_left_to_the_server(kind: str) -> None:
    against = Against(root=ROOT, gates=GATES.get(kind, ()))
    first, *others = of_kind(kind)
    first.data["metadata"] = {"generateName": "mine-"}
    assert "name" not in texts_of(check_objects([first, first, *others], against))
    longest = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}[kind]
    first.data["metadata"] = {"generateName": "r" * (longest - 5)}
    assert "characters" not in texts_of(check_objects([first, *others], against))
    first.data["metadata"] = {"generateName": "r" * (longest - 4)}
    says = f"metadata.generateName: '{'r' * (longest - 4)}xxxxx' has {longest + 1} characters"
    assert says in texts_of(check_objects([first, *others], against))


def test_neither_name_nor_prefix_is_told() -> None:
    assert "has no name" in texts_of(check_objects(changed("RayJob", lambda data, _: data["metadata"].clear()), HERE))


@pytest.mark.parametrize("key", ["deletionStrategy", "submitterConfig", "clusterSelector", "backoffLimit"])
def test_a_key_that_holds_null_is_left_out(key: str) -> None:
    found = changed("RayJob", lambda data, _: data["spec"].update({key: None}))
    assert texts_of(check_objects(found, HERE)) == ""


def test_a_null_does_not_silence_a_rule() -> None:
    found = changed("RayCluster", lambda _, spec: spec.update(networkPolicy=None))
    alone = [one for one in found if one.data["kind"] == "RayCluster"]
    assert "no NetworkPolicy here" in texts_of(check_objects(alone, HERE))
