"""What `kubectl kustomize` does with the folders of `k8s/`, in Python.

`ratchet k8s render` and `check` must know the line of every key, and must work where there is no
kubectl. So this follows the few parts of kustomize that those folders use, and refuses the others
by name; a test holds it against kubectl for every overlay.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ratchet.errors import PlanError
from ratchet.kubernetes.manifests import at, mapping, mappings, name_of, object_kind, one_document, read_manifests
from ratchet.plan.document import Document, KeyPath, Place, dotted, fail

FILE = "kustomization.yaml"
_KEYS = {"apiVersion", "kind", "resources", "patches", "images", "replacements"}


def build_kustomization(folder: Path) -> list[Document]:
    """Return the objects that the kustomization in `folder` says, in the order in which it names them.

    Raises PlanError, with file and line, where it is wrong or asks for what is not followed here.
    """
    return _build(folder, ())


def _build(folder: Path, above: tuple[Path, ...]) -> list[Document]:
    path = folder / FILE
    if folder.resolve() in above:
        raise PlanError(f"{path}: names itself, by way of {above[-1]}", code="plan.manifest")
    steps = read_manifests(path)
    if len(steps) != 1:
        raise PlanError(f"{path}: holds {len(steps)} documents, and a kustomization is one", code="plan.manifest")
    one = steps[0]
    unknown = [key for key in one.data if key not in _KEYS]
    fix = f"build it with kubectl: kubectl kustomize {folder} | ratchet k8s check -"
    fail(one.problem((key,), f"is not followed by Ratchet: {fix}") for key in unknown)
    objects: list[Document] = []
    for n, name in enumerate(at(one.data, "resources") or ()):
        objects += _resource(one, n, folder / str(name), (*above, folder.resolve()))
    for n, patch in enumerate(mappings(one.data, "patches")):
        objects = _patched(one, ("patches", n), patch, objects)
    for image in mappings(one.data, "images"):
        objects = [_with_image(document, image) for document in objects]
    for n, replacement in enumerate(mappings(one.data, "replacements")):
        objects = _replaced(one, ("replacements", n), replacement, objects)
    return objects


def _resource(one: Document, n: int, path: Path, above: tuple[Path, ...]) -> list[Document]:
    if (path / FILE).is_file():
        return _build(path, above)
    if path.is_file():
        return read_manifests(path)
    fail([one.problem(("resources", n), f"there is no {path}")])
    return []


def _patched(one: Document, here: KeyPath, patch: dict[str, Any], objects: list[Document]) -> list[Document]:
    text = at(patch, "patch")
    if not isinstance(text, str):
        fail([one.problem(here, "a patch is followed where its text stands in `patch`")])
    asked = one_document(f"patch:\n{_indented(str(text))}", one.place((*here, "patch")).file).data["patch"]
    if at(asked, "$patch") == "delete":
        target = {"kind": at(asked, "kind"), "name": at(asked, "metadata", "name")}
        kept = [document for document in objects if not _selected(document, target)]
        _must_differ(one, here, target, len(objects) - len(kept))
        return kept
    target = mapping(patch, "target")
    if not isinstance(asked, list):
        fail([one.problem(here, "a patch is followed where it is a list of operations, or `$patch: delete`")])
    hits = [n for n, document in enumerate(objects) if _selected(document, target)]
    _must_differ(one, here, target, len(hits))
    for n in hits:
        # One file may be a resource of several overlays: patch a copy.
        document = objects[n] = _copy(objects[n])
        for operation in asked:
            _operate(one, here, document, mapping(operation))
    return objects


def _operate(one: Document, here: KeyPath, document: Document, operation: dict[str, Any]) -> None:
    """Carry out one operation of RFC 6902 on a document of our own."""
    kind, pointer = at(operation, "op"), str(at(operation, "path"))
    # In this order: RFC 6901 resolves the tilde itself last.
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    path: KeyPath = ()
    parent: Any = document.data
    for n, key in enumerate(keys):
        part = int(key) if isinstance(parent, list) and key.isdigit() else key
        if n == len(keys) - 1:
            _put(one, here, document, parent, (*path, part), operation)
            return
        path, parent = (*path, part), at(parent, part)
    fail([one.problem(here, f"{kind} {pointer}: no such path")])


def _put(
    one: Document, here: KeyPath, document: Document, parent: Any, path: KeyPath, operation: dict[str, Any]
) -> None:
    kind, key = at(operation, "op"), path[-1]
    there = key in parent if isinstance(parent, dict) else isinstance(key, int) and at(parent, key) is not None
    append = isinstance(parent, list) and key == "-" and kind == "add"
    new = isinstance(parent, dict) and kind == "add"
    if not (
        append
        or new
        or (there and kind in {"replace", "remove"} and not (kind == "remove" and isinstance(parent, list)))
    ):
        fail([one.problem(here, f"{kind} {dotted(path)}: there is nothing to {kind} there")])
    places = cast(dict[KeyPath, Place], document.places)  # a copy of our own
    path = (*path[:-1], len(parent)) if append else path
    # What was below is gone with the value, and a stale line would be reported for what is new.
    for old in [old for old in places if old[: len(path)] == path]:
        del places[old]
    if kind == "remove":
        del parent[key]
        return
    value = copy.deepcopy(at(operation, "value"))
    if append:
        parent.append(value)
    else:
        parent[key] = value
    places[path] = one.place((*here, "patch"))


def _with_image(document: Document, image: dict[str, Any]) -> Document:
    changed = _copy(document)
    for container in _containers(changed.data):
        name, sign, tag = str(container.get("image")).partition(":")
        if name == image.get("name"):
            new_tag = image.get("newTag")
            container["image"] = (image.get("newName") or name) + (f":{new_tag}" if new_tag else sign + tag)
    return changed


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in {"containers", "initContainers"}:
            yield from (one for one in item or () if isinstance(one, dict))
        yield from _containers(item)


def _replaced(one: Document, here: KeyPath, replacement: dict[str, Any], objects: list[Document]) -> list[Document]:
    """Copy a part of one object into others, whole."""
    source = mapping(replacement, "source")
    found = [document for document in objects if _selected(document, source)]
    _must_differ(one, here, source, len(found))
    start = tuple(str(source.get("fieldPath")).split("."))
    for target in mappings(replacement, "targets"):
        select = mapping(target, "select")
        hits = [n for n, document in enumerate(objects) if _selected(document, select)]
        _must_differ(one, here, select, len(hits))
        for n in hits:
            for field in at(target, "fieldPaths") or ():
                objects[n] = _with_part(objects[n], tuple(str(field).split(".")), found[0], start)
    return objects


def _with_part(document: Document, path: KeyPath, source: Document, start: KeyPath) -> Document:
    changed = _copy(document)
    mapping(changed.data, *path[:-1])[str(path[-1])] = copy.deepcopy(at(source.data, *start))
    moved = {(*path, *old[len(start) :]): at_ for old, at_ in source.places.items() if old[: len(start)] == start}
    return dataclasses.replace(changed, places={**changed.places, **moved})


def _selected(document: Document, target: dict[str, Any]) -> bool:
    named = {"kind": object_kind(document), "name": name_of(document)}
    return all(target.get(key) in {None, value} for key, value in named.items())


def _must_differ(one: Document, here: KeyPath, target: dict[str, Any], hits: int) -> None:
    if not hits:
        fail([one.problem(here, f"no object is {target.get('kind')} {target.get('name')}")])


def _copy(document: Document) -> Document:
    return dataclasses.replace(document, data=copy.deepcopy(document.data), places=dict(document.places))


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
