"""Change a document by dotted keys: `--set a.b.c=value`, and what a sweep sets and leaves out in its trials."""

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
    added to the document's problems, so that it is reported with all others. `document` stays as it is.
    """
    changed = _copy(document)
    problems: list[Problem] = []
    for assignment in assignments:
        before, sign, text = assignment.partition("=")
        key, path = shorten(before, most=200), tuple(before.strip().split("."))
        if what := fault(changed, before.strip(), schema) if sign else "write it as dotted.key=value":
            problems.append(Problem(_PLACE, key, what))
            continue
        try:
            value = parse(text, SET)
        except PlanError as error:
            problems.append(Problem(_PLACE, key, error.what.splitlines()[0].removeprefix(f"{SET}: ")))
            continue
        problems += [dataclasses.replace(found, key=_joined(key, found.key)) for found in value.problems]
        changed = _put(changed, path, value, _PLACE)
    return dataclasses.replace(changed, problems=(*document.problems, *problems))


def put(document: Document, values: Mapping[str, tuple[Any, Place]], schema: type[BaseModel] = Plan) -> Document:
    """Return the document with plain values set by dotted keys, each of which stands at a place of its own.

    What is wrong with a key is added to the document's problems, and what is later found wrong with its value
    is reported at that place. `document` stays as it is.
    """
    changed, problems = _copy(document), []
    for key, (value, place) in values.items():
        path = tuple(key.split("."))
        if what := fault(changed, key, schema):
            problems.append(Problem(place, shorten(key, most=200), what))
        else:
            changed = _put(changed, path, Document(place.file, copy.deepcopy(value), {(): place}), place)
    return dataclasses.replace(changed, problems=(*document.problems, *problems))


def leave_out(document: Document, keys: Mapping[str, Place], schema: type[BaseModel] = Plan) -> Document:
    """Return the document without some dotted keys, so that their defaults hold. A key that it lacks is no fault.

    What is wrong with a key is added to the document's problems; a missing key is reported at the place of
    the wish to leave it out. `document` stays as it is.
    """
    changed, problems = _copy(document), []
    places = dict(changed.places)
    for key, place in keys.items():
        *parents, last = path = tuple(key.split("."))
        if what := fault(changed, key, schema):
            problems.append(Problem(place, shorten(key, most=200), what))
            continue
        # A mapping that is absent, or null, has lost the key already.
        holder: Any = changed.data
        for part in parents:
            holder = holder.get(part) if holder else None
        if holder and last in holder:
            del holder[last]
            # What the lost key held goes with it; the place of the wish stays, for a key that turns out to be required.
            places = {at: other for at, other in places.items() if at[: len(path)] != path} | {path: place}
    return dataclasses.replace(changed, places=places, problems=(*document.problems, *problems))


def fault(document: Document, key: str, schema: type[BaseModel] = Plan) -> str | None:
    """Return what is wrong with a dotted key of a document, or None."""
    annotation: Any = schema
    value, path = document.data, tuple(key.split("."))
    for n, part in enumerate(path):
        # Lists and single values are set whole, so that a path never means the n-th item of a list.
        if not isinstance(value, Mapping | None):
            return f"no such key: {'.'.join(path[:n])} is no mapping here, so set all of it"
        if _free(annotation):
            return None
        known = _keys(annotation, value)
        if part not in known:
            # The whole rest is mended, not this part alone: it is what a person would type next.
            meant = _nearest(annotation, value, path[n:])
            near = ".".join(map(str, (*path[:n], *meant))) if meant else None
            if near or known:
                return f"no such key{hint(near)}" if near else f"no such key; there are {either(known)}"
            return f"no such key: {'.'.join(path[:n])} {_as_a_whole(annotation)}"
        annotation = below(annotation, part)
        value = value.get(part) if value else None
    return None


def annotation_at(key: str, schema: type[BaseModel] = Plan) -> Any:
    """Return what the schema asks of the value at a dotted key that is known to be right, whatever kinds are chosen."""
    annotation: Any = schema
    for part in key.split("."):
        annotation = Any if _free(annotation) else below(annotation, part)
    return annotation


def _copy(document: Document) -> Document:
    return dataclasses.replace(document, data=copy.deepcopy(document.data), places=dict(document.places))


def _joined(key: str, inner: str) -> str:
    return f"{key}{inner}" if inner.startswith("[") or not inner else f"{key}.{inner}"


def _as_a_whole(annotation: Any) -> str:
    """Return what stands at a key that has no keys of its own."""
    kinds = {get_origin(member) for member in members(annotation)}
    if dict in kinds:
        return "has no keys yet: set all of it"
    return "is a list, which is set as a whole" if tuple in kinds else "is one value: set that"


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


def _put(document: Document, path: KeyPath, value: Document, made: Place) -> Document:
    """Return the document with `value` at `path`; mappings on the way are made, at `made`, where there are none."""
    places = {at: place for at, place in document.places.items() if at[: len(path)] != path}
    holder = document.data
    for n, part in enumerate(path[:-1], 1):
        if holder.get(part) is None:
            holder[part] = {}
            places[path[:n]] = made
        holder = holder[part]
    holder[path[-1]] = value.data
    places |= {(*path, *at): place for at, place in value.places.items()}
    return dataclasses.replace(document, places=places)
