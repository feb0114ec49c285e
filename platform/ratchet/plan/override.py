"""`--set a.b.c=value`: change values of a document by dotted keys. Sweeps go through here too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from ratchet.errors import PlanError
from ratchet.plan.document import SET, Document, KeyPath, Place, Problem, shorten
from ratchet.plan.outline import below, close, either, hint, members, models
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan

_PLACE = Place(SET, 0)


def apply(document: Document, assignments: Sequence[str], schema: type[BaseModel] = Plan) -> Document:
    """Return the document with each `dotted.key=value` set, in turn; the value is read as YAML.

    A key must be one that the schema has, below names that the document has. What is wrong is
    added to the document's problems, so that it is told with all else. `document` stays as it is.
    """
    changed = dataclasses.replace(document, data=copy.deepcopy(document.data), places=dict(document.places))
    problems: list[Problem] = []
    for assignment in assignments:
        before, sign, text = assignment.partition("=")
        key, path = shorten(before, most=200), tuple(before.strip().split("."))
        if what := _fault(changed, path, schema) if sign else "write it as dotted.key=value":
            problems.append(Problem(_PLACE, key, what))
            continue
        try:
            value = parse(text, SET)
        except PlanError as error:
            problems.append(Problem(_PLACE, key, error.what.splitlines()[0].removeprefix(f"{SET}: ")))
            continue
        problems += [dataclasses.replace(found, key=_joined(key, found.key)) for found in value.problems]
        changed = _put(changed, path, value)
    return dataclasses.replace(changed, problems=(*document.problems, *problems))


def _joined(key: str, inner: str) -> str:
    return f"{key}{inner}" if inner.startswith("[") or not inner else f"{key}.{inner}"


def _fault(document: Document, path: KeyPath, schema: type[BaseModel]) -> str | None:
    """Return what is wrong with a dotted key, or None."""
    annotation: Any = schema
    value = document.data
    for n, part in enumerate(path):
        if not isinstance(value, Mapping | None):
            return f"no such key: {'.'.join(map(str, path[:n]))} is no mapping here, so set all of it"
        if _free(annotation):
            return None
        known = _keys(annotation, value)
        if part not in known:
            meant = _nearest(annotation, value, path[n:])
            near = ".".join(map(str, (*path[:n], *meant))) if meant else None
            return f"no such key{hint(near)}" if near else f"no such key; there are {either(known)}"
        annotation = below(annotation, part)
        value = value.get(str(part)) if value else None
    return None


def _free(annotation: Any) -> bool:
    """Whether any key may stand below."""
    return any(
        member is Any or (get_origin(member) is dict and get_args(member)[1] is Any) for member in members(annotation)
    )


def _keys(annotation: Any, value: Any) -> list[str]:
    """Return fields of every kind (a later `--set` may change the kind), and names the document has."""
    fields = [key for model in models(annotation) for key in model.model_fields]
    named = any(get_origin(member) is dict for member in members(annotation)) and isinstance(value, Mapping)
    return list(dict.fromkeys([*fields, *value] if named else fields))


def _nearest(annotation: Any, value: Any, path: KeyPath) -> KeyPath | None:
    """Return the key nearest to `path`, part by part, or None where some part is near to nothing."""
    if not path or _free(annotation):
        return path
    known = _keys(annotation, value)
    part = path[0] if path[0] in known else close(str(path[0]), known)
    if part is None:
        return None
    inner = value.get(part) if isinstance(value, Mapping) else None
    rest = _nearest(below(annotation, part), inner, path[1:])
    return None if rest is None else (part, *rest)


def _put(document: Document, path: KeyPath, value: Document) -> Document:
    """Return the document with `value` at `path`; mappings on the way are made where there are none."""
    places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
    holder = document.data
    for n, part in enumerate(path[:-1], 1):
        if holder.get(part) is None:
            holder[part] = {}
            places[path[:n]] = _PLACE
        holder = holder[part]
    holder[path[-1]] = value.data
    places |= {(*path, *at): place for at, place in value.places.items()}
    return dataclasses.replace(document, places=places)
