"""The door to what knows schemas: jsonschema and CEL for KubeRay's CRDs, kubernetes-validate for other kinds.

KubeRay's CRDs are files of the user's (`--crds`), as this project holds no copy. As an API server
does, defaults are filled in and empty values taken away before anything is compared, and unknown
fields are errors.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import PlanError
from ratchet.kubernetes.manifests import at, object_kind, parse_documents
from ratchet.kubernetes.ray_parts import CLUSTERS
from ratchet.plan.document import Document, KeyPath, Problem, shorten
from ratchet.plan.reading import read_text

CEL = importlib.util.find_spec("cel") is not None
BUILT_IN = importlib.util.find_spec("kubernetes_validate") is not None
_LARGEST_CRD, _DEEPEST_CRD = 4 << 20, 64
"""Bytes and levels of a file of CRDs. KubeRay's largest has 1.4 MB, its deepest 38 levels (v1.7.0)."""


@dataclasses.dataclass(frozen=True)
class Crd:
    """Version v1 of a CRD: its schema as written, and a validator that knows no other fields."""

    schema: dict[str, Any]
    validator: Any


def read_crds(folder: Path) -> dict[str, Crd]:
    """Return version v1 of each kind of KubeRay that `folder` has a CRD of. Raises PlanError."""
    import jsonschema

    found = {}
    for path in sorted(folder.glob("*.y*ml")):
        for document in parse_documents(read_text(path, _LARGEST_CRD), str(path), _DEEPEST_CRD):
            crd = document.data
            kind = at(crd, "spec", "names", "kind")
            if at(crd, "kind") == "CustomResourceDefinition" and kind in CLUSTERS:
                versions = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
                schema = versions[0]["schema"]["openAPIV3Schema"]
                closed = _closed(schema)
                # A CRD says no more of metadata than its type; closed, it would refuse every label.
                closed["properties"]["metadata"] = {"type": "object"}
                found[kind] = Crd(schema, jsonschema.Draft202012Validator(closed))
    if not found:
        raise PlanError(
            f"{folder}: no CRD of KubeRay",
            fix="name the folder of rayjobs.yaml, rayclusters.yaml, …",
            code="plan.manifest",
        )
    return found


def crd_faults(document: Document, crds: Mapping[str, Crd]) -> Iterator[Problem]:
    """Yield what the CRD of an object's kind does not allow; nothing for kinds without one."""
    crd = crds.get(object_kind(document))
    if crd is None:
        return
    # Defaults are filled in below, and the document is looked at by other rules too.
    data = copy.deepcopy(document.data)
    for _, value, part in _parts(data, crd.schema):
        for key, below in part.get("properties", {}).items() if isinstance(value, dict) else ():
            if key not in value and "default" in below:
                value[key] = copy.deepcopy(below["default"])
    for error in crd.validator.iter_errors(data):
        yield document.problem(tuple(error.absolute_path), _said(error))
    if CEL:
        yield from _rule_faults(document, data, crd.schema)


def built_in_faults(document: Document, version: str) -> Iterator[Problem]:
    """Yield what Kubernetes of a version such as `1.35` does not allow in an object of its own kinds."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document.data, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return  # another operator's kind, such as Kueue's
    except kubernetes_validate.ValidationError as error:
        yield document.problem(tuple(getattr(error, "path", ()) or ()), _said(error))


def _said(error: Any) -> str:
    return shorten(str(error.message), 160)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a structural schema of Kubernetes as JSON schema, in which unknown fields are errors."""
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "nullable"}
    if "properties" in schema:
        found["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            found[key] = _closed(schema[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            found[key] = [_closed(one) for one in schema[key]]
    if schema.get("x-kubernetes-int-or-string"):
        # Kubernetes spells it as an anyOf, whose branches say no more than this type.
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    return found


def _rule_faults(document: Document, data: Any, schema: dict[str, Any]) -> Iterator[Problem]:
    import cel

    rules = [
        (path, rule, value)
        for path, value, part in _parts(data, schema)
        for rule in part.get("x-kubernetes-validations", ())
        if "oldSelf" not in rule["rule"]  # that is about changes of an object that is there
    ]
    for path, rule, value in rules:
        try:
            kept = cel.evaluate(rule["rule"], {"self": value})
        except (RuntimeError, TypeError, ValueError) as error:
            yield document.problem(path, f"the rule {rule['rule']} cannot be tried: {shorten(str(error))}")
            continue
        if not kept:
            yield document.problem(path, shorten(rule.get("message") or rule["rule"], 160))


def _parts(value: Any, schema: dict[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any, dict[str, Any]]]:
    """Yield path, value and schema of a value and of all below it; what is added to a part meanwhile comes too."""
    yield path, value, schema
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for key, item in value.items():
            part = schema.get("properties", {}).get(key, others)
            if isinstance(part, dict):
                yield from _parts(item, part, (*path, key))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for n, item in enumerate(value):
            yield from _parts(item, schema["items"], (*path, n))
