"""The parts of KubeRay's objects that rules talk about: clusters, groups of pods, containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from ratchet.errors import PlanError
from ratchet.kubernetes.manifests import at, mapping, mappings, object_kind, parse_documents
from ratchet.plan.document import Document, KeyPath, Problem

CLUSTERS: dict[str, KeyPath] = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
}
"""Kinds of KubeRay v1.7.0, and where each has its cluster."""
JOBS: dict[str, KeyPath] = {"RayJob": ("spec",), "RayCronJob": ("spec", "jobTemplate")}


@dataclasses.dataclass(frozen=True)
class RayPart:
    """A part of an object: the mapping at `path`, which is empty where there is none."""

    document: Document
    path: KeyPath
    data: dict[str, Any]

    def problem(self, what: str, *below: str | int) -> Problem:
        """Return a problem of the key `below` this part."""
        return self.document.problem((*self.path, *below), what)

    def problems(self, *rules: tuple[object, str, *tuple[str, ...]]) -> Iterator[Problem]:
        """Yield a problem for each rule that is broken; a rule is whether it is, what is wrong, and the key below."""
        yield from (self.problem(what, *below) for broken, what, *below in rules if broken)

    def above_zero(self, key: str) -> bool:
        """Tell whether a key has a number above 0."""
        value = self.data.get(key)
        return isinstance(value, int) and value > 0

    def part(self, *below: str | int) -> RayPart:
        """Return the part at `below`."""
        return RayPart(self.document, (*self.path, *below), mapping(self.data, *below))

    def parts(self, *below: str | int) -> list[RayPart]:
        """Return the parts in the list at `below`."""
        items = mappings(self.data, *below)
        return [RayPart(self.document, (*self.path, *below, n), item) for n, item in enumerate(items)]


def cluster_of(document: Document) -> RayPart | None:
    """Return the Ray cluster of an object; None where its kind has none, or it uses one that is there."""
    path = CLUSTERS.get(object_kind(document))
    whole = RayPart(document, (), document.data)
    return whole.part(*path) if path and isinstance(at(document.data, *path), dict) else None


def job_of(document: Document) -> RayPart | None:
    """Return the job of an object; None where its kind has none."""
    path = JOBS.get(object_kind(document))
    return RayPart(document, (), document.data).part(*path) if path else None


def groups(cluster: RayPart) -> list[RayPart]:
    """Return the groups of workers of a cluster."""
    return cluster.parts("workerGroupSpecs")


def ray_pods(cluster: RayPart) -> Iterator[tuple[str, RayPart]]:
    """Yield the pod template's `spec` of the head and of each group, with what people call it."""
    yield "the head", cluster.part("headGroupSpec", "template", "spec")
    for group in groups(cluster):
        yield f"group {group.data.get('groupName')}", group.part("template", "spec")


def containers(pod: RayPart) -> list[RayPart]:
    """Return all containers of a pod; the first of `containers` is Ray's."""
    return [*pod.parts("containers"), *pod.parts("initContainers")]


def ray_container(pod: RayPart) -> RayPart:
    """Return the container that runs Ray."""
    return pod.part("containers", 0)


def environment(container: RayPart, name: str) -> RayPart | None:
    """Return the entry of an environment variable."""
    return next((one for one in container.parts("env") if one.data.get("name") == name), None)


def variables_among(container: RayPart, names: Collection[str]) -> Iterator[tuple[str, RayPart]]:
    """Yield name and entry of those of `names` that a container sets, each once."""
    for name in names:
        if (entry := environment(container, name)) is not None:
            yield name, entry


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


def runtime_env_of(job: RayPart) -> tuple[dict[str, Any], str]:
    """Return what `runtimeEnvYAML` says, and what is wrong with it: nothing, or a sentence."""
    text = job.data.get("runtimeEnvYAML")
    try:
        found = parse_documents(str(text or ""), "line")
    except PlanError as error:
        return {}, f"is not YAML that is read: {error.what}"
    if len(found) > 1 or not all(isinstance(one.data, dict) for one in found):
        return {}, "is not YAML of one mapping"
    if problems := [problem for one in found for problem in one.problems]:
        return {}, f"is not YAML that is read: {problems[0]}"
    return (found[0].data if found else {}), ""


def autoscales(cluster: RayPart) -> bool:
    """Tell whether Ray's autoscaler runs on the head."""
    return cluster.data.get("enableInTreeAutoscaling") is True


def replicas(group: RayPart, *, cluster: RayPart) -> tuple[int, int]:
    """Return how many pods a group has at least and at most."""
    wanted = group.data.get("replicas")
    fewest, most = group.data.get("minReplicas"), group.data.get("maxReplicas")
    if not autoscales(cluster):
        count = next((n for n in (wanted, fewest) if isinstance(n, int)), 0)
        return count, count
    return (fewest if isinstance(fewest, int) else 0), (most if isinstance(most, int) else 2**31 - 1)
