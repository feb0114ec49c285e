"""An overlay of `k8s/` for one plan: its pods as the plan's cluster needs them, and the plan in a ConfigMap."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from ratchet.errors import PlanError
from ratchet.kubernetes.fit import VERBS, Command, place_workers, read_command, templates, unmet
from ratchet.kubernetes.forms import (
    IMAGE_FOLDER,
    LONGEST_NAMES,
    label_fault,
    name_fault,
    quantity,
    size_fault,
    volume_fault,
)
from ratchet.kubernetes.kustomize import FILE, build_kustomization
from ratchet.kubernetes.manifests import at, object_kind
from ratchet.kubernetes.own_rules import GPU, SHARED_MEMORY, image_fault
from ratchet.kubernetes.ray_parts import (
    RayPart,
    autoscales,
    cluster_of,
    containers,
    groups,
    job_of,
    mounts_of,
    ray_pods,
    shared_mounts,
)
from ratchet.plan.document import Document, fail
from ratchet.plan.load import plan_of, planned_suites, read_plan
from ratchet.plan.schema import Plan
from ratchet.store.fingerprint import fingerprint

_VOLUME = "plan"
_PLAN = "app.kubernetes.io/instance"
"""The label of all that was rendered from a plan: its name."""
_DIGITS = 8
_GI = 1024**3
_MOST_CARRIED = 256 << 10
"""Bytes of a ConfigMap: `kubectl apply` keeps a copy of it in an annotation, and Kubernetes takes 256 KiB of those."""


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """What manifests are wanted.

    `folder` is the overlay's, `space` a sweep's. None for `name` is the plan's, for `image` the overlay's, for
    `gpus_per_node` and `memory_per_worker` (a quantity, such as `64Gi`) what the overlay's worker has, for
    `workers_per_node` as many as fit.
    """

    folder: Path
    plan: Path
    overrides: tuple[str, ...] = ()
    space: Path | None = None
    name: str | None = None
    image: str | None = None
    namespace: str | None = None
    gpus_per_node: int | None = None
    workers_per_node: int | None = None
    memory_per_worker: str | None = None


def overlays(k8s: Path) -> dict[str, Path]:
    """Return the overlays of a folder such as `k8s/`, by name. Raises PlanError where there are none."""
    found = {path.parent.name: path.parent for path in sorted(k8s.glob(f"overlays/*/{FILE}"))}
    if not found:
        fix = (
            "call it in the checkout, or name its k8s/: --k8s FOLDER; an installed package does not bring the manifests"
        )
        raise PlanError(f"{k8s}: has no overlays", fix=fix)
    return found


def render_overlay(asked: RenderOptions) -> list[dict[str, Any]]:
    """Return the objects of an overlay as `asked`.

    Raises PlanError where the plan is wrong, needs files that no pod would have, or does not fit the overlay's nodes.
    """
    if asked.namespace is not None and (what := label_fault(asked.namespace)):
        raise PlanError(what, where="--namespace")
    if asked.image is not None and (what := image_fault(asked.image)):
        raise PlanError(what, where="--image")
    document = read_plan(asked.plan, asked.overrides)
    plan = plan_of(document)
    objects = build_kustomization(asked.folder)
    at_job = next((n for n, one in enumerate(objects) if job_of(one) is not None), None)
    job_object = (
        dataclasses.replace(objects[at_job], data=copy.deepcopy(objects[at_job].data)) if at_job is not None else None
    )
    cluster = cluster_of(job_object) if job_object is not None else None
    job = job_of(job_object) if job_object is not None else None
    if job_object is None or cluster is None or job is None:
        raise PlanError(
            f"{asked.folder}: has no job, so no plan: apply it as it is, and send plans with `ratchet submit`"
        )
    command = _command(asked, job)
    job.data["entrypoint"] = command.line()
    _mount_storage(document, cluster, plan)
    fail(unmet(document, plan, [pod for _, pod in ray_pods(cluster)], asked.folder.resolve().parent.parent.parent))
    _size(cluster, plan, asked, sweep=command.verb == "sweep")
    files = _files(asked, command, plan)
    if asked.image is not None:
        _set_image(job, cluster, asked.image)
    name = _name(asked, plan, object_kind(job_object), fingerprint({"spec": job_object.data["spec"], "files": files}))
    metadata = job.document.data["metadata"]
    metadata["name"] = name
    metadata["labels"] = {**metadata.get("labels", {}), _PLAN: plan.name}
    for _, pod in ray_pods(cluster):
        _mount_files(pod, f"{name}-plan", files)
    rendered = [job_object.data if n == at_job else one.data for n, one in enumerate(objects)]
    rendered.insert(0, _config_map(f"{name}-plan", plan.name, files))
    return [_in_namespace(one, asked.namespace) for one in rendered]


def _name(asked: RenderOptions, plan: Plan, kind: str, digest: str) -> str:
    """Return the object's name: as asked, or the plan's with a digest of all that makes the job."""
    name = asked.name or plan.name
    if asked.name is None and kind != "RayCronJob":
        # KubeRay runs a RayJob once, whatever is applied under its name later: another plan must have another name. A
        # RayCronJob takes a changed template for its next run, and keeps its name.
        name = f"{plan.name[: LONGEST_NAMES[kind] - _DIGITS - 1].rstrip('-')}-{digest[:_DIGITS]}"
    if what := name_fault(name, LONGEST_NAMES[kind]):
        raise PlanError(what, where=f"the name of the {kind}", fix="give another: --name NAME")
    return name


def _command(asked: RenderOptions, job: RayPart) -> Command:
    """Return the overlay's command, with the files and values that were asked for in place of its own."""
    own = read_command(str(job.data.get("entrypoint")))
    if own is None:
        raise PlanError(f"{asked.folder}: its entrypoint is no `ratchet` command: {job.data.get('entrypoint')}")
    given = [asked.plan] if asked.space is None else [asked.plan, asked.space]
    if len(given) != VERBS[own.verb]:
        what = "needs a space: --space FILE" if len(given) == 1 else "takes no --space"
        raise PlanError(f"`ratchet {own.verb}` of overlay {asked.folder.name} {what}")
    names = tuple(_inside(path) for path in given)
    return dataclasses.replace(own, files=names, overrides=asked.overrides)


def _inside(path: Path) -> str:
    """Return the name that a file has below the image's folder: the one it has here."""
    return f"jobs/{path.name}" if path.is_absolute() or ".." in path.parts else path.as_posix()


def _files(asked: RenderOptions, command: Command, plan: Plan) -> dict[str, str]:
    """Return the texts that the pods get, by name below the image's folder."""
    names = [suite.name for suite in planned_suites(plan)]
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise PlanError(f"{outside[0]}: a suite must lie below the current folder, to lie there in the pods too")
    given = dict(zip(command.files, [asked.plan, *([asked.space] if asked.space else [])], strict=True))
    paths = given | {name: Path(name) for name in [*names, *templates(plan)]}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def _mount_storage(document: Document, cluster: RayPart, plan: Plan) -> None:
    """Mount the volume where the plan has its store, unless that lies on it already."""
    storage = PurePosixPath(plan.cluster.storage)
    if not storage.is_absolute():
        raise PlanError(
            f"cluster.storage is {storage}, which is another folder in every pod",
            fix="name it from the root, as the volume is mounted: --set cluster.storage=/mnt/store",
        )
    if what := volume_fault(plan.cluster.storage):
        fail([document.problem(("cluster", "storage"), what)])
    for _, pod in ray_pods(cluster):
        for folder, claim in shared_mounts(pod):
            if not storage.is_relative_to(folder):
                _move(pod, folder, str(storage), claim)


def _move(pod: RayPart, old: str, new: str, claim: str) -> None:
    volumes = {
        str(volume.data.get("name"))
        for volume in pod.parts("volumes")
        if at(volume.data, "persistentVolumeClaim", "claimName") == claim
    }
    for container in containers(pod):
        for mount in container.parts("volumeMounts"):
            if mount.data.get("name") in volumes and mount.data.get("mountPath") == old:
                mount.data["mountPath"] = new
        for entry in container.parts("env"):
            value = entry.data.get("value")
            if isinstance(value, str) and value.startswith(f"{old}/"):
                entry.data["value"] = new + value.removeprefix(old)


def _size(cluster: RayPart, plan: Plan, asked: RenderOptions, *, sweep: bool) -> None:
    """Give the group of workers as many pods, and each as much, as the plan needs.

    A sweep's overlay has a pod for each trial that may run at a time: each becomes what one trial needs.
    """
    own = groups(cluster)
    if len(own) != 1:
        raise PlanError(f"{asked.folder}: has {len(own)} groups of workers, and a plan is laid out over one")
    group = own[0]
    container = group.part("template", "spec", "containers", 0)
    limits = container.part("resources", "limits").data
    gpus = quantity(limits.get(GPU)) or 0.0
    uses_gpus = plan.cluster.gpus_per_worker > 0
    if uses_gpus != bool(gpus):
        has = "has GPUs, and the plan's workers use none" if gpus else "has no GPUs, and the plan's workers need some"
        raise PlanError(
            f"overlay {asked.folder.name} {has}", where="cluster.gpus_per_worker", fix="take another overlay"
        )
    pods = place_workers(
        plan.cluster, gpus_per_node=asked.gpus_per_node or int(gpus), workers_per_node=asked.workers_per_node
    )
    one_node = group.data.get("maxReplicas") == 1
    if one_node and pods.most > 1:
        raise PlanError(
            f"the plan needs {pods.most} nodes, and overlay {asked.folder.name} is for one",
            where="cluster.workers",
            fix="larger nodes (--gpus-per-node, --workers-per-node), or overlay gpus",
        )
    # The overlay of a sweep says by its pods how many trials run at a time.
    trials = int(group.data.get("maxReplicas", 1)) if sweep else 1
    # Without the autoscaler no pod is added later, so all are there from the start.
    fewest, most = (pods.fewest if autoscales(cluster) else pods.most) * trials, pods.most * trials
    group.data.update(replicas=fewest, minReplicas=fewest, maxReplicas=most)
    memory = _memory(limits, gpus, asked.memory_per_worker) * pods.workers
    sized = {"cpu": str(pods.cpus), "memory": _in_gi(memory), **({GPU: str(pods.gpus)} if pods.gpus else {})}
    own_resources = container.data["resources"]
    for key in ("requests", "limits"):  # what else a node has, such as rdma/hca, is as the overlay asks for it
        others = {name: asks for name, asks in own_resources.get(key, {}).items() if name not in {"cpu", "memory", GPU}}
        own_resources[key] = sized | others
    pod = group.part("template", "spec")
    shared = {one.get("name") for one in mounts_of(pod) if one.get("mountPath") == SHARED_MEMORY}
    for volume in pod.parts("volumes"):
        if volume.data.get("name") in shared and at(volume.data, "emptyDir", "medium") == "Memory":
            volume.data["emptyDir"]["sizeLimit"] = _in_gi(memory / 2)


def _memory(limits: dict[str, Any], gpus: float, wanted: str | None) -> float:
    """Return the bytes of each worker: as asked, or as a worker of the overlay has them."""
    if wanted is None:
        # The pods of an overlay have a worker for each GPU.
        return (quantity(limits.get("memory")) or 0.0) / max(1.0, gpus)
    found = quantity(wanted)
    if found is None or found < _GI:
        raise PlanError(f"--memory-per-worker {wanted}: write a quantity of 1Gi or more, such as 64Gi")
    if what := size_fault("memory", wanted):
        raise PlanError(what, where="--memory-per-worker")
    return found


def _in_gi(size: float) -> str:
    return f"{max(1, int(size // _GI))}Gi"


def _mount_files(pod: RayPart, config_map: str, files: dict[str, str]) -> None:
    """Lay each file over the image's folder, so that it has the name there that it has here."""
    if strange := [name for name in files if not re.fullmatch(r"[\w./-]{1,253}", name, re.ASCII)]:
        raise PlanError(
            f"{strange[0]!r} cannot be a key of a ConfigMap", fix="name it with letters, digits and any of `.-_`"
        )
    if len({_key(name) for name in files}) < len(files):
        raise PlanError(f"two of {', '.join(files)} would have one key in a ConfigMap: rename one")
    # As files by subPath: a mounted folder would hide the image's other files, and would change under a run.
    pod.data.setdefault("volumes", []).append({"name": _VOLUME, "configMap": {"name": config_map}})
    mounts = pod.data["containers"][0].setdefault("volumeMounts", [])
    for name in files:
        path = str(PurePosixPath(IMAGE_FOLDER, name))
        mounts.append({"name": _VOLUME, "mountPath": path, "subPath": _key(name), "readOnly": True})


def _key(name: str) -> str:
    return name.replace("/", ".")


def _config_map(name: str, plan: str, files: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "ratchet", _PLAN: plan}}
    data = {_key(file): text for file, text in files.items()}
    found = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    if len(json.dumps(found)) > _MOST_CARRIED:
        raise PlanError(
            f"plan, suites and templates are more than the {_MOST_CARRIED >> 10} KiB of a ConfigMap that is applied",
            fix="put chat templates on the volume",
        )
    return found


def _set_image(job: RayPart, cluster: RayPart, image: str) -> None:
    own = cluster.part("headGroupSpec", "template", "spec", "containers", 0).data.get("image")
    pods = [pod for _, pod in ray_pods(cluster)] + [job.part("submitterPodTemplate", "spec")]
    for container in (one for pod in pods for one in containers(pod)):
        if container.data.get("image") == own:
            container.data["image"] = image


def _in_namespace(one: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    return one if namespace is None else {**one, "metadata": {**one["metadata"], "namespace": namespace}}
