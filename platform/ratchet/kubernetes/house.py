"""Ratchet's own rules of what lets a run end well: who drives, who is warned, who sees the store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ratchet.kubernetes.manifests import at, mapping, mappings, object_kind, quantity, texts_in
from ratchet.kubernetes.names import MOST, size_fault, volume_fault
from ratchet.kubernetes.ray_parts import (
    RayPart,
    cluster_of,
    environment,
    groups,
    job_of,
    ray_container,
    ray_pods,
    runtime_env_of,
)
from ratchet.plan.document import Document, Problem

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
GPU = "nvidia.com/gpu"
_RAY_DRAIN, _KUBERNETES_GRACE, _SHORTEST_STOP = 30.0, 30.0, 30.0
"""Seconds: the defaults of Ray and Kubernetes, and the least that a checkpoint may take."""
_LONGEST_IDLE = 600
"""Seconds that an ended job may hold its GPUs, so that its pods can be looked into."""
_FREEING = {"DeleteWorkers", "DeleteCluster", "DeleteSelf"}
SHARED_MEMORY = "/dev/shm"  # noqa: S108
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def house_faults(document: Document) -> Iterator[Problem]:
    """Yield what would cost a run its driver, its warning or its store."""
    cluster, job = cluster_of(document), job_of(document)
    if job is not None:
        yield from _job_faults(job, cluster)
    if cluster is None:
        return
    yield from _head_faults(cluster)
    for name, pod in ray_pods(cluster):
        yield from _pod_faults(name, pod)
    yield from _store_faults(cluster)


def network_faults(objects: Sequence[Document]) -> Iterator[Problem]:
    """Yield clusters whose pods no NetworkPolicy among the objects has to do with."""
    policies = [mapping(one.data, "spec") for one in objects if object_kind(one) == "NetworkPolicy"]
    for document in objects:
        cluster = cluster_of(document)
        if cluster is None or "networkPolicy" in cluster.data:
            continue
        for part in (cluster.part("headGroupSpec"), *groups(cluster)):
            labels = mapping(part.data, "template", "metadata", "labels")
            if not any(_selects(policy, labels) for policy in policies):
                what = "no NetworkPolicy here selects these pods, and metrics and health answer without the token"
                yield part.problem(what, "template", "metadata", "labels")


def _selects(policy: object, labels: dict[str, object]) -> bool:
    wanted = mapping(policy, "podSelector", "matchLabels")
    inward = "Ingress" in texts_in(at(policy, "policyTypes")) or at(policy, "policyTypes") is None
    return inward and all(labels.get(key) == value for key, value in wanted.items())


def _job_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    for key in ("entrypointNumCpus", "entrypointNumGpus", "entrypointResources"):
        if job.data.get(key):
            yield job.problem("would let the driver run on a worker, which may be taken away: leave it out", key)
    for key in ("submitterPodTemplate", "submitterConfig"):
        if job.data.get("submissionMode") == "HTTPMode" and key in job.data:
            yield job.problem("HTTPMode has no submitter: it would be passed over", key)
    if cluster is not None and any(_has_gpus(pod) for _, pod in ray_pods(cluster)):
        yield from _ending_faults(job)
    found, fault = runtime_env_of(job)
    if fault:
        return  # the operator's rules report it
    wait = quantity(mapping(found, "env_vars").get(STOP_WAIT))
    if wait is None or wait < _SHORTEST_STOP:
        what = f'env_vars: {{{STOP_WAIT}: "120"}}: `ray job stop` kills after 3 s otherwise, without a checkpoint'
        yield job.problem(what, "runtimeEnvYAML")
    if cluster is not None and "gcsFaultToleranceOptions" in cluster.data:
        what = "saves no job: the driver is gone with the head. Leave it to clusters that stay"
        yield cluster.problem(what, "gcsFaultToleranceOptions")


def _ending_faults(job: RayPart) -> Iterator[Problem]:
    """KubeRay deletes the pods of an ended job only where it is asked to, and after the time that it is given.

    `rayjob_controller.go` of v1.7.0: `handleDeletionRules` (line 1411), `handleShutdownAfterJobFinishes` (line 1515).
    """
    ttl, soonest = job.data.get("ttlSecondsAfterFinished") or 0, dict[str, tuple[int, RayPart]]()
    for rule in job.part("deletionStrategy").parts("deletionRules"):
        condition = rule.part("condition").data
        after, ending = condition.get("ttlSeconds") or 0, str(condition.get("jobStatus"))
        if rule.data.get("policy") in _FREEING and isinstance(after, int):
            soonest[ending] = min(soonest.get(ending, (after, rule)), (after, rule), key=lambda one: one[0])
    for after, rule in soonest.values():
        if after > _LONGEST_IDLE:
            yield rule.problem(_held(after), "condition", "ttlSeconds")
    if job.data.get("shutdownAfterJobFinishes"):
        if isinstance(ttl, int) and ttl > _LONGEST_IDLE:
            yield job.problem(_held(ttl), "ttlSecondsAfterFinished")
    elif "deletionStrategy" not in job.data:
        yield job.problem("holds its GPUs for ever after the job's end: say shutdownAfterJobFinishes: true")


def _held(seconds: int) -> str:
    return f"holds the GPUs for {seconds} s after the job's end, when nothing runs on them: {_LONGEST_IDLE} s at most"


def _has_gpus(pod: RayPart) -> bool:
    return bool(quantity(at(ray_container(pod).data, "resources", "limits", GPU)))


def _head_faults(cluster: RayPart) -> Iterator[Problem]:
    head = cluster.part("headGroupSpec")
    if str(at(head.data, "rayStartParams", "num-cpus")) != "0" and str(at(head.data, "resources", "CPU")) != "0":
        yield head.problem('must be "0": nothing runs on the head beside the driver', "rayStartParams", "num-cpus")
    resources = mapping(head.data, "template", "spec", "containers", 0, "resources")
    for key in ("cpu", "memory"):
        asked, limit = quantity(at(resources, "requests", key)), quantity(at(resources, "limits", key))
        if asked is None or asked != limit:
            what = f"{key}: request and limit of the head must be the same, or a full node takes the head first"
            yield ray_container(head.part("template", "spec")).problem(what, "resources")


def _pod_faults(name: str, pod: RayPart) -> Iterator[Problem]:
    container = ray_container(pod)
    entry = environment(container, DRAIN)
    drain = (quantity(entry.data.get("value")) if entry else None) or _RAY_DRAIN
    grace = pod.data.get("terminationGracePeriodSeconds", _KUBERNETES_GRACE)
    if not isinstance(grace, int | float) or grace <= drain:
        what = f"{grace:g} s" if isinstance(grace, int | float) else repr(grace)
        yield pod.problem(
            f"{name} is killed after {what}, while Ray drains it for {drain:g} s ({DRAIN}): make it longer",
            "terminationGracePeriodSeconds",
        )
    for key in _PROBES:
        if key in container.data:
            yield container.problem("KubeRay sets its own, which know Ray's ports: leave it out", key)
    for limit, kind in itertools.product(("requests", "limits"), MOST):
        if what := size_fault(kind, at(container.data, "resources", limit, kind)):
            yield container.problem(what, "resources", limit, kind)
    for folder, _ in sorted(shared_mounts(pod)):
        if what := volume_fault(folder):
            yield container.problem(what, "volumeMounts")
    gpus = quantity(at(container.data, "resources", "limits", GPU)) or 0
    if gpus and not _shared_memory(pod):
        what = "workers on GPUs exchange through /dev/shm, which has 64 MB: mount an emptyDir with medium: Memory"
        yield container.problem(what, "volumeMounts")


def _shared_memory(pod: RayPart) -> bool:
    mounted = {str(one.get("name")) for one in mounts_of(pod) if one.get("mountPath") == SHARED_MEMORY}
    return any(
        str(volume.get("name")) in mounted and at(volume, "emptyDir", "medium") == "Memory"
        for volume in mappings(pod.data, "volumes")
    )


def mounts_of(pod: RayPart) -> list[dict[str, object]]:
    """Return the volume mounts of the container that runs Ray."""
    return mappings(pod.data, "containers", 0, "volumeMounts")


def shared_mounts(pod: RayPart) -> set[tuple[str, str]]:
    """Return (folder, claim) for each persistent volume that the container of Ray sees."""
    claims = {
        str(volume.get("name")): str(at(volume, "persistentVolumeClaim", "claimName"))
        for volume in mappings(pod.data, "volumes")
        if "persistentVolumeClaim" in volume
    }
    return {
        (str(one.get("mountPath")), claims[name]) for one in mounts_of(pod) if (name := str(one.get("name"))) in claims
    }


def _store_faults(cluster: RayPart) -> Iterator[Problem]:
    pods = list(ray_pods(cluster))
    on_head = shared_mounts(pods[0][1])
    if not on_head:
        yield ray_container(pods[0][1]).problem(
            "no persistent volume: what a run made is gone with the pod", "volumeMounts"
        )
    for name, pod in pods[1:]:
        there = shared_mounts(pod)
        for folder, claim in sorted(on_head ^ there):
            who = "the head" if (folder, claim) in on_head else name
            what = f"only {who} sees {claim} at {folder}: head and workers must see the same"
            yield ray_container(pod).problem(what, "volumeMounts")
