"""Our own manifests as test subjects, and ways to change them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ratchet.kubernetes.kustomize import FILE, build_kustomization
from ratchet.kubernetes.manifests import object_kind
from ratchet.kubernetes.ray_parts import CLUSTERS
from ratchet.plan.document import Document
from tests.conftest import ROOT

K8S = ROOT / "k8s"
FOLDERS = sorted(path.parent.relative_to(K8S).as_posix() for path in K8S.rglob(FILE))
APPLIED = [name for name in FOLDERS if name == "cluster" or (name.startswith("overlays/") and name.count("/") == 1)]
"""The folders that people apply; the others are parts of them."""
GATES = {"overlays/cron": ("RayCronJob",), "RayCronJob": ("RayCronJob",)}
"""Feature gates that are off by default, by the folder or kind that needs them."""


@functools.cache
def _built(folder: str) -> list[Document]:
    return build_kustomization(K8S / folder)


def objects(folder: str) -> list[Document]:
    return [dataclasses.replace(one, data=copy.deepcopy(one.data)) for one in _built(folder)]


def of_kind(kind: str) -> list[Document]:
    """Return objects that are applied together, the first of which has that kind."""
    folder = {"RayJob": "overlays/gpu", "RayCronJob": "overlays/cron"}.get(kind, "cluster")
    found = objects(folder)
    found.sort(key=lambda one: object_kind(one) not in CLUSTERS)
    if kind == "RayService":
        data = {**found[0].data, "kind": kind, "spec": {"rayClusterConfig": found[0].data["spec"]}}
        found[0] = dataclasses.replace(found[0], data=data)
    assert object_kind(found[0]) == kind
    return found


def changed(kind: str, change: Callable[[Any, dict[str, Any]], None]) -> list[Document]:
    """Return `of_kind` after `change(object, cluster spec)`."""
    found = of_kind(kind)
    data = copy.deepcopy(found[0].data)
    spec = data
    for key in CLUSTERS[kind]:
        spec = spec[key]
    change(data, spec)
    return [dataclasses.replace(found[0], data=data), *found[1:]]


def head_of(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["headGroupSpec"]["template"]["spec"]


def worker_of(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["workerGroupSpecs"][0]["template"]["spec"]


def texts_of(problems: list[Any]) -> str:
    return "\n".join(map(str, problems))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def write_crds(folder: Path) -> None:
    """Write a CRD of each of KubeRay's kinds that leaves the spec open: what is checked, not what KubeRay allows."""
    text = {"type": "string"}
    fields = {
        "apiVersion": text,
        "kind": text,
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": fields, "required": ["spec"]}}
    for kind in CLUSTERS:
        spec = {"names": {"kind": kind}, "versions": [{"name": "v1", "schema": schema}]}
        crd = {"kind": "CustomResourceDefinition", "spec": spec}
        (folder / f"{kind.lower()}s.yaml").write_text(json.dumps(crd))


def write_strict_crds(folder: Path) -> None:
    """Write CRDs that allow what our own manifests have and hold them to a rule of each kind that KubeRay's have."""
    for kind, path in CLUSTERS.items():
        schema = _like([of_kind(kind)[0].data])
        spec = schema["properties"]
        for key in path:
            spec = spec[key]["properties"]
        group = spec["workerGroupSpecs"]["items"]
        group["required"] = ["groupName"]
        group["properties"]["numOfHosts"] = {"type": "integer"}
        rule = {"rule": "self == 'ray.io/kuberay-operator'", "message": "the managedBy field value must be KubeRay's"}
        spec["managedBy"] = {"type": "string", "x-kubernetes-validations": [rule]}
        volume = group["properties"]["template"]["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
        volume["emptyDir"]["properties"]["sizeLimit"] = {"type": "string", "pattern": "^[0-9]+([kMGTPE]i?)?$"}
        version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
        crd = {"kind": "CustomResourceDefinition", "spec": {"names": {"kind": kind}, "versions": [version]}}
        (folder / f"{kind.lower()}s.yaml").write_text(json.dumps(crd))


def _like(values: list[Any]) -> dict[str, Any]:
    """Return a structural schema that allows what these values have, and no other key."""
    if all(isinstance(value, dict) for value in values):
        keys = {key: [value[key] for value in values if key in value] for value in values for key in value}
        return {"type": "object", "properties": {key: _like(found) for key, found in keys.items()}}
    if all(isinstance(value, list) for value in values):
        return {"type": "array", "items": _like([item for value in values for item in value])}
    names = {{bool: "boolean", int: "integer", str: "string"}[type(value)] for value in values}
    return {"type": names.pop()} if len(names) == 1 else {"x-kubernetes-int-or-string": True}
