"""Everything that is wrong with manifests, each with its file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ratchet.errors import PlanError
from ratchet.kubernetes.fit import VERBS, Room, lacks, planned, read_command
from ratchet.kubernetes.forms import label_fault, quantity, volume_fault
from ratchet.kubernetes.kuberay import operator_faults
from ratchet.kubernetes.kustomize import FILE, build_kustomization
from ratchet.kubernetes.manifests import at, name_of, object_kind, read_manifests, without_nulls
from ratchet.kubernetes.own_rules import GPU, house_faults, network_faults, security_faults
from ratchet.kubernetes.ray_parts import (
    CLUSTERS,
    RayPart,
    cluster_of,
    groups,
    job_of,
    ray_pods,
    replicas,
    shared_mounts,
)
from ratchet.kubernetes.schema import Crd, built_in_faults, crd_faults
from ratchet.plan.document import Document, Problem
from ratchet.plan.schema import Plan

_VERSION = "ray.io/v1"
"""The version of KubeRay's kinds that is checked."""


@dataclasses.dataclass(frozen=True)
class Against:
    """What objects are checked against, beside the rules that always hold.

    `crds` are KubeRay's, by kind; `version` is Kubernetes' own, such as `1.35`, or None; plans that the
    image has are looked for below `root`; `gates` are feature gates that are on in the operator.
    """

    crds: Mapping[str, Crd] = dataclasses.field(default_factory=dict)
    version: str | None = None
    root: Path = Path()
    gates: tuple[str, ...] = ()


def read_objects(paths: Iterable[Path]) -> list[Document]:
    """Return the objects of files, of kustomizations, and of the YAML files of other folders. Raises PlanError."""
    found: list[Document] = []
    for path in paths:
        if (path / FILE).is_file():
            found += holding(build_kustomization(path), str(path))
        elif path.is_dir():
            files = sorted(one for ending in ("yaml", "yml") for one in path.glob(f"*.{ending}"))
            if not files:
                raise PlanError(f"{path}: has no manifests, and no {FILE}", code="plan.manifest")
            found += holding([document for file in files for document in read_manifests(file)], str(path))
        else:
            found += holding(read_manifests(path), str(path))
    return found


def holding(objects: list[Document], where: str) -> list[Document]:
    """Return objects as they are. Raises PlanError for an empty list."""
    # A check of nothing would always pass.
    if not objects:
        raise PlanError("holds no object: there is nothing to check", where=where, code="plan.manifest")
    return objects


def check_objects(objects: Sequence[Document], against: Against) -> list[Problem]:
    """Return everything that is wrong with objects that are applied together."""
    # An API server takes null for left out, and fills in its default; rules must not take it for a value.
    objects = [dataclasses.replace(one, data=without_nulls(one.data)) for one in objects]
    found: list[Problem] = []
    for document in objects:
        found += document.problems
        found += _object_faults(document)
        found += crd_faults(document, against.crds)
        if against.version is not None:
            found += built_in_faults(document, against.version)
        found += operator_faults(document, against.gates)
        found += security_faults(document)
        found += house_faults(document)
        found += _plan_faults(document, objects, against.root)
    return [*found, *network_faults(objects), *_twice(objects)]


def _object_faults(document: Document) -> Iterator[Problem]:
    for key in ("apiVersion", "kind"):
        if not isinstance(at(document.data, key), str):
            yield document.problem((), f"has no {key}")
    version = at(document.data, "apiVersion")
    if object_kind(document) in CLUSTERS and isinstance(version, str) and version != _VERSION:
        what = f"{version}: must be {_VERSION}, which rules and schemas here are of; KubeRay serves v1alpha1 too"
        yield document.problem(("apiVersion",), what)
    if not name_of(document) and not at(document.data, "metadata", "generateName"):
        yield document.problem(("metadata",), "has no name")
    namespace = at(document.data, "metadata", "namespace")
    if namespace is not None and (what := label_fault(namespace)):
        yield document.problem(("metadata", "namespace"), what)


def _twice(objects: Sequence[Document]) -> Iterator[Problem]:
    seen: set[tuple[str, str, str]] = set()
    for document in objects:
        one = (object_kind(document), name_of(document), str(at(document.data, "metadata", "namespace")))
        # Each object with generateName gets a name of its own.
        if name_of(document) and one in seen:
            yield document.problem(("metadata", "name"), f"{one[0]} {one[1]} is here twice")
        seen.add(one)


def _plan_faults(document: Document, objects: Sequence[Document], root: Path) -> Iterator[Problem]:
    job, cluster = job_of(document), cluster_of(document)
    if job is None or cluster is None:
        return
    try:
        command = read_command(str(job.data.get("entrypoint") or ""))
    except ValueError as error:
        yield job.problem(f"is no shell command: {error}", "entrypoint")
        return
    if command is None:
        yield job.problem(f"must be `ratchet {'|'.join(VERBS)} PLAN …`, so that its exit status counts", "entrypoint")
        return
    try:
        plan = planned(command, next(ray_pods(cluster))[1], objects, root)
    except PlanError as error:
        for line in str(error).splitlines():
            yield job.problem(line, "entrypoint")
        return
    yield from _storage_faults(job, cluster, plan)
    for what in lacks(plan.cluster, [_room(cluster, group) for group in groups(cluster)]):
        yield cluster.problem(what, "workerGroupSpecs")


def _room(cluster: RayPart, group: RayPart) -> Room:
    fewest, most = replicas(group, cluster=cluster)
    limits = at(group.data, "template", "spec", "containers", 0, "resources", "limits")
    cpus, gpus = quantity(at(limits, "cpu")), quantity(at(limits, GPU))
    return Room(fewest, most, cpus or 0.0, gpus or 0.0)


def _storage_faults(job: RayPart, cluster: RayPart, plan: Plan) -> Iterator[Problem]:
    storage = PurePosixPath(plan.cluster.storage)
    if storage.is_absolute() and (what := volume_fault(plan.cluster.storage)):
        yield job.problem(f"cluster.storage: {what}", "entrypoint")
        return
    folders = {folder for folder, _ in shared_mounts(next(ray_pods(cluster))[1])}
    if not any(storage.is_relative_to(folder) for folder in folders):
        there = " or ".join(sorted(folders)) or "no volume"
        yield job.problem(
            f"cluster.storage is {storage}, and pods share {there}: --set cluster.storage=…", "entrypoint"
        )
