"""Say what is wrong with a document in words for people: where, which key, what, and what may be meant.

`validate` is the door. It reads on after a slip in a `kind`, and looks at keys together even
where others are wrong, so that one reading finds everything.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ratchet.errors import PlanError
from ratchet.plan import outline
from ratchet.plan.base import ARGUMENT_PATTERN, AVERAGE_PATTERN, DAY_PATTERN, NAME_PATTERN
from ratchet.plan.columns import PATH_PATTERN
from ratchet.plan.document import SET, Document, KeyPath, Place, Problem, dotted, shorten
from ratchet.plan.reading import in_yaml, parse

Schema = TypeVar("Schema", bound=BaseModel)
_FORMS = {
    NAME_PATTERN: "no name: names are lower-case letters, digits and hyphens, 47 at most",
    AVERAGE_PATTERN: "no name: names are letters, digits and hyphens, 47 at most",
    ARGUMENT_PATTERN: "no name of an argument: these are letters, digits and _, and begin with no digit",
    DAY_PATTERN: "no day: write it as 2026-11-30",
    PATH_PATTERN: "no path to a column: write a column, dots into objects and [0] into lists, such as meta.texts[0]",
}
"""What a text is not that has not the form which a pattern asks for."""
_BOOLS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}


@dataclasses.dataclass(frozen=True)
class _Fault:
    """One pydantic error: its kind, its path in the document, what should stand there, and what does."""

    kind: str
    path: KeyPath
    annotation: Any
    value: Any
    details: Mapping[str, Any]


def validate(schema: type[Schema], document: Document) -> tuple[Schema | None, list[Problem]]:
    """Return the validated model, or None and what is wrong with the document's values."""
    try:
        return schema.model_validate(document.data), []
    except ValidationError as error:
        faults = _faults(schema, document.data, error)
    # Pydantic looks at no key below an unknown `kind`. So kinds are repaired in a copy, and all is read again.
    data = copy.deepcopy(document.data)
    problems = [_repair_kind(fault, document, data) for fault in faults if fault.kind.startswith("union_tag")]
    faults = [fault for fault in _again(schema, data) if not fault.kind.startswith("union_tag")]
    faults += _together(schema, data, faults)
    # A slip in a key is two faults to pydantic: one key too many, and one missing. The first says which is meant.
    meant = {meant for fault in faults if (meant := _meant(schema, data, fault))}
    faults = [fault for fault in faults if fault.kind != "missing" or fault.path not in meant]
    problems += [_explain(schema, document, data, fault) for fault in faults]
    known = {(problem.place, problem.key) for problem in document.problems}
    return None, [problem for problem in problems if (problem.place, problem.key) not in known]


def _again(schema: type[BaseModel], data: Any) -> list[_Fault]:
    try:
        schema.model_validate(data)
    except ValidationError as error:
        return _faults(schema, data, error)
    return []


def _together(schema: type[BaseModel], data: Any, faults: list[_Fault]) -> list[_Fault]:
    """Return the faults of keys that do not go together, found by leaving out the keys that are wrong alone."""
    # Pydantic runs no validator of a model whose fields are wrong: faults between keys would show in a second run.
    rest = copy.deepcopy(data)
    alone = [fault for fault in faults if fault.kind != "wrong"]
    for fault in alone:
        holder: Any = rest
        *parents, last = [part for part in fault.path if isinstance(part, str)] or [""]
        for part in parents:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and (options := _literals(fault.annotation)):
            holder[last] = options[0]
        elif isinstance(holder, dict):
            holder.pop(last, None)
    found = [fault for fault in _again(schema, rest) if fault.kind == "wrong"]
    wrong = {fault.path[: n + 1] for fault in alone for n in range(len(fault.path))}
    # Where a key is misspelt or missing, what a validator says of the others around it may be wrong.
    unsure = {fault.path[:-1] for fault in alone if fault.kind in {"extra_forbidden", "missing"}}
    seen = {fault.path for fault in faults if fault.kind == "wrong"}
    return [
        fault
        for fault in found
        if fault.path not in unsure | seen and not any((*fault.path, key) in wrong for key in fault.details["about"])
    ]


def _faults(schema: type[BaseModel], data: Any, error: ValidationError) -> list[_Fault]:
    located = (_locate(schema, data, details) for details in error.errors(include_url=False))
    return [fault for fault in located if fault is not None]


def _locate(schema: type[BaseModel], value: Any, error: ErrorDetails) -> _Fault | None:
    """Walk the schema beside pydantic's location, which also names branches of choices.

    None where the error is of a branch that the value was never meant for.
    """
    kind, details = error["type"], error.get("ctx", {})
    path: list[str | int] = []
    annotation: Any = schema
    branch: Any = schema
    for part in error["loc"]:
        choices = outline.members(branch)
        if part == "[key]" and not (isinstance(value, Mapping) and part in value):
            kind = "bad_key"  # the name itself is wrong: pydantic adds this part behind it
        elif len(choices) > 1:
            if not any(outline.fits(choice, value) for choice in choices):
                return _Fault("no_choice", tuple(path), annotation, value, {})
            branch = next(choice for choice in choices if outline.labels(str(part), choice))
            if not outline.fits(branch, value) or _shares(branch, value) < max(_shares(one, value) for one in choices):
                return None
        elif isinstance(part, int) and part >= len(value):
            kind = "few_items"
        else:
            path.append(part)
            annotation = branch = outline.below(branch, part, value)
            value = value.get(part) if isinstance(value, Mapping) else value[int(part)]
    # Pydantic counts only the items that are right; those that are wrong have faults of their own.
    if kind == "too_short" and len(value) >= details["min_length"]:
        return None
    if kind.startswith("union_tag"):
        kinds = tuple(filter(None, map(outline.kind_of, outline.models(annotation))))
        return _Fault(kind, (*path, "kind"), Literal[kinds], value.get("kind"), details)
    return _Fault(kind, tuple(path), annotation, value, details)


def _shares(choice: Any, value: Any) -> int:
    """Return how many keys of a mapping a choice has, which says for which it is meant where no `kind` does."""
    keys = value.keys() if isinstance(value, Mapping) else set()
    plain = (model for model in outline.models(choice) if outline.kind_of(model) is None)
    return max((len(keys & model.model_fields.keys()) for model in plain), default=0)


def _repair_kind(fault: _Fault, document: Document, data: Any) -> Problem:
    """Say what is wrong with a `kind`, and put the kind that was likely meant into `data`."""
    holder, kinds = _at(data, fault.path[:-1]), get_args(fault.annotation)
    if fault.kind == "union_tag_not_found":
        slip = outline.close("kind", holder)
        if slip is None:
            return document.problem(fault.path, _missing(fault, document.place(fault.path)))
        holder["kind"] = holder.pop(slip)
        return document.problem((*fault.path[:-1], slip), "no such key; did you mean kind?")
    if isinstance(fault.value, str) and (meant := outline.close(fault.value, kinds)):
        holder["kind"] = meant
    return document.problem(fault.path, _must(fault, document.place(fault.path)))


def _explain(schema: type[BaseModel], document: Document, data: Any, fault: _Fault) -> Problem:
    path = fault.path
    if fault.kind == "extra_forbidden":
        return document.problem(path, _unknown(schema, data, path)[0])
    if fault.kind == "wrong" and fault.details["key"]:
        path = (*path, *fault.details["key"].split("."))
    return document.problem(path, _SENTENCES.get(fault.kind, _must)(fault, document.place(path)))


def _meant(schema: type[BaseModel], data: Any, fault: _Fault) -> KeyPath | None:
    return _unknown(schema, data, fault.path)[1] if fault.kind == "extra_forbidden" else None


def _unknown(schema: type[BaseModel], data: Any, path: KeyPath) -> tuple[str, KeyPath | None]:
    """Return what to say of a key that the schema does not have, and the key meant, where it stands beside."""
    *parents, key = path
    annotation: Any = schema
    holder = data
    for part in parents:
        annotation, holder = outline.below(annotation, part, holder), _at(holder, (part,))
    # A near key of the same mapping is likelier than the same key elsewhere, so it is looked for first.
    word, beside = str(key), outline.keys(annotation, holder)
    if word == "<<":
        return "merge keys are not for plans: write the keys out", None
    if kinds := _kinds_with(annotation, word):
        return f"no such key for kind {holder['kind']}; it belongs to kind {kinds}", None
    if near := outline.close(word, [name for name in beside if name not in holder]):
        return f"no such key{outline.hint(near)}", (*parents, near)
    inside = [(*parents, *found) for found in outline.paths_to(annotation, word, holder)]
    if elsewhere := inside or list(outline.paths_to(schema, word)):
        return f"no such key here{outline.hint(dotted(elsewhere[0]))}", None
    every = [name for model in outline.models(annotation) for name in model.model_fields]
    if near := outline.close(word, every):
        kinds = "" if near in beside else f", which belongs to kind {_kinds_with(annotation, near)}"
        return f"no such key{outline.hint(near + kinds)}", None
    return f"no such key; there are {outline.either(beside)}", None


def _kinds_with(annotation: Any, key: str) -> str:
    """Return the kinds, in a choice of kinds, that have a key."""
    kinds = [outline.kind_of(model) for model in outline.models(annotation) if key in model.model_fields]
    return outline.either([kind for kind in kinds if kind]) if any(kinds) else ""


def _at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value[part]
    return value


def _must(fault: _Fault, place: Place) -> str:
    words = outline.describe(fault.annotation)
    if fault.value == {}:
        return f"is empty; it must be {words}"
    return f"must be {words}, not {_shown(fault.value, place)}{outline.hint(_suggestion(fault, place))}"


def _missing(fault: _Fault, _: Place) -> str:
    return f"is missing; it must be {outline.describe(fault.annotation)}"


def _no_name(fault: _Fault, place: Place) -> str:
    # A bad key stands in the path itself; a bad name in a value.
    name = str(fault.path[-1]) if fault.kind == "bad_key" else fault.value
    said = "is" if fault.kind == "bad_key" else f"{_shown(name, place)} is"
    pattern = fault.details.get("pattern", NAME_PATTERN)
    return f"{said} {_FORMS[pattern]}{outline.hint(_slug(name) if pattern == NAME_PATTERN else None)}"


def _half(fault: _Fault, _: Place) -> str:
    return "holds half a character (a surrogate by itself): write the character out"


def _wrong(fault: _Fault, _: Place) -> str:
    return shorten(str(fault.details["what"]), most=200)


_SENTENCES: dict[str, Callable[[_Fault, Place], str]] = {
    "missing": _missing,
    "wrong": _wrong,
    "bad_key": _no_name,
    "string_pattern_mismatch": _no_name,
    "string_unicode": _half,
}
"""Pydantic's error type (or this module's) → what to say. All others: what the value must be, and what it is."""


def _shown(value: Any, place: Place) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return shorten(json.dumps(value, ensure_ascii=False))
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "a mapping" if isinstance(value, Mapping) else shorten(place.written or str(value))


def _slug(text: str) -> str | None:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:47].rstrip("-")
    return slug or None


def _suggestion(fault: _Fault, place: Place) -> str | None:
    """Return, as YAML, a value near the given one that would be right."""
    value, annotation = fault.value, fault.annotation
    options = [str(option) for member in outline.members(annotation) for option in _literals(member)]
    if isinstance(value, str) and (near := outline.close(value, options)):
        return near
    if outline.models(annotation) or value is None or isinstance(value, Mapping):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    for candidate in _candidates(value, place):
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        # As typed: `1_000` becomes 1000, and 1e-6 is not turned into 0.000001.
        unquoted = isinstance(value, str) and isinstance(candidate, float)
        return value.replace("_", "") if unquoted else in_yaml(candidate)
    return None


def _candidates(value: Any, place: Place) -> list[Any]:
    """Return values that may have been meant: without quotes, with quotes, as a list, as a name, …"""
    if isinstance(value, list):
        return value[:1] if len(value) == 1 else []
    if isinstance(value, str):
        found = [_scalar(value), _scalar(value.replace("_", "")), _BOOLS.get(value.lower()), _slug(value)]
        return [[value], *(item for item in found if item is not None)]
    whole = [int(value)] if isinstance(value, float) and value.is_integer() else []
    return [[value], *whole, place.written or str(value)]


def _literals(member: Any) -> tuple[Any, ...]:
    return get_args(member) if get_origin(member) is Literal else ()


def _scalar(text: str) -> Any:
    """Return `text` as it would be read without its quotes."""
    try:
        found = parse(text, SET).data
    except PlanError:
        return None
    return found if isinstance(found, int | float) else None
