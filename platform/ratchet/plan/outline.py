"""Walk the schema beside plain values: which keys stand where, and what a value must be, in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ratchet.plan.base import NAME_PATTERN
from ratchet.plan.document import shorten

Model = type[BaseModel]
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Any: "anything"}


def members(annotation: Any) -> tuple[Any, ...]:
    """Return what an annotation is one of, without None and without constraints."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return tuple(member for part in get_args(annotation) for member in members(part))
    return () if annotation in {None, NoneType} else (annotation,)


def is_model(member: Any) -> bool:
    """Whether a member of an annotation is a part of the schema with keys of its own."""
    return isinstance(member, type) and issubclass(member, BaseModel)


def models(annotation: Any, value: Any = None) -> list[Model]:
    """Return the models an annotation may be; where `value` names its kind, only the model of that kind."""
    found = [member for member in members(annotation) if is_model(member)]
    if isinstance(value, Mapping) and isinstance(kind := value.get("kind"), str):
        # A kind that is misspelt leaves all of them, so that its keys can still be explained.
        return [model for model in found if kind_of(model) == kind] or found
    return found


def kind_of(model: Model) -> str | None:
    """Return the `kind` that marks a model in a choice of models."""
    field = model.model_fields.get("kind")
    options = get_args(field.annotation) if field else ()
    return options[0] if len(options) == 1 else None


def annotation_of(field: FieldInfo) -> Any:
    """Return a field's annotation with the constraints that pydantic took off it."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def keys(annotation: Any, value: Any = None) -> list[str]:
    """Return the keys that may stand below: fields of the models, and names that `value` holds."""
    found = [key for model in models(annotation, value) for key in model.model_fields]
    if any(get_origin(member) is dict for member in members(annotation)) and isinstance(value, Mapping):
        found += value
    return list(dict.fromkeys(found))


def below(annotation: Any, key: str | int, value: Any = None) -> Any:
    """Return the annotation of what stands under `key`, or None where nothing may."""
    found: list[Any] = [
        annotation_of(model.model_fields[key])
        for model in models(annotation, value)
        if isinstance(key, str) and key in model.model_fields
    ]
    for member in members(annotation):
        parts = get_args(member)
        if member is Any:
            found.append(Any)
        elif get_origin(member) is dict and isinstance(key, str):
            found.append(parts[1])
        elif get_origin(member) is tuple and isinstance(key, int):
            found.append(parts[0] if parts[-1] is Ellipsis else parts[min(key, len(parts) - 1)])
    return Union[tuple(found)] if found else None  # noqa: UP007  made at run time


def paths_to(annotation: Any, key: str, value: Any = None) -> Iterator[tuple[str, ...]]:
    """Yield the paths at which models below have `key`, the nearest first; names are not looked through."""
    # By levels, so that the nearest comes first. A schema that holds itself would never end; this one does not.
    level: list[tuple[tuple[str, ...], Model]] = [((), model) for model in models(annotation, value)]
    while level:
        yield from ((*path, key) for path, model in level if key in model.model_fields)
        level = [
            ((*path, name), inner)
            for path, model in level
            for name, field in model.model_fields.items()
            for inner in models(field.annotation)
        ]


def fits(member: Any, value: Any) -> bool:
    """Whether a value has the shape (mapping, list, scalar) that a member of a choice has."""
    origin = get_origin(member)
    if is_model(member) or origin is dict:
        return isinstance(value, Mapping)
    if origin is tuple:
        return isinstance(value, list)
    if origin is Literal:
        return isinstance(value, tuple({type(option) for option in get_args(member)}))
    return member is Any or isinstance(value, member)


def labels(label: str, member: Any) -> bool:
    """Whether pydantic's name of a branch of a choice means `member`."""
    origin = get_origin(member)
    if is_model(member):
        return label == kind_of(member) or re.search(rf"\b{member.__name__}\b", label) is not None
    if origin is Literal:
        return label.startswith("literal[")
    return (
        label.startswith(f"{origin.__name__}[")
        if origin
        else label in {member.__name__, f"constrained-{member.__name__}"}
    )


def close(word: str, options: Iterable[str]) -> str | None:
    """Return the option that `word` is most likely a slip of."""
    known = list(options)
    # Reversed, so that of two options that are one when flat the first wins.
    flat = {option.lower().replace("-", "_"): option for option in reversed(known)}
    # difflib takes quadratic time, and a key may be a megabyte.
    found = difflib.get_close_matches(word[:100].lower().replace("-", "_"), flat, n=1)
    return flat[found[0]] if found else None


def hint(suggestion: str | None) -> str:
    """Return the end of a sentence, on its line, that asks whether `suggestion` was meant."""
    return f"; did you mean {shorten(suggestion, most=200)}?" if suggestion else ""


def suggest(word: str, options: Iterable[str]) -> str:
    """Return the end of a sentence that says which option was meant, or else which there are."""
    return hint(close(word, options)) or f"; there are {either(list(dict.fromkeys(options)))}"


def either(options: Sequence[str], most: int = 24) -> str:
    """Return options in words, on one line: `a, b or c`."""
    shown = [shorten(option, most=200) for option in options[:most]] + (["…"] if len(options) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}" if shown else "nothing"


def _keys_of(model: Model) -> str:
    shown = ", ".join(list(model.model_fields)[:3])
    return f"a mapping with keys such as {shown}" if len(model.model_fields) > 3 else f"a mapping with {shown}"


def describe(annotation: Any, model_words: Callable[[Model], str] = _keys_of) -> str:
    """Return in words what a value must be: `a whole number of at least 1`."""
    bare, limits = _split(annotation)
    if get_origin(bare) not in {Union, UnionType}:
        return (
            either([str(option) for option in get_args(bare)]) if _is_literal(bare) else _one(bare, limits, model_words)
        )
    kinds = [kind for part in get_args(bare) if is_model(part) and (kind := kind_of(part))]
    words = [f"a mapping of kind {either(kinds)}"] if len(kinds) > 1 else []
    for part in get_args(bare):
        if _is_literal(part):
            words += map(str, get_args(part))
        elif part is not NoneType and not (is_model(part) and kind_of(part) in kinds):
            words.append(describe(part, model_words))
    return either(list(dict.fromkeys([*words, "null"] if NoneType in get_args(bare) else words)))


def _one(annotation: Any, limits: Mapping[str, Any], model_words: Callable[[Model], str]) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if is_model(annotation):
        return model_words(annotation)
    if origin is dict:
        return f"a mapping from name to {describe(parts[1], model_words)}"
    if origin is tuple:
        least = limits.get("min_length")
        count = f"at least {least} " if least else "" if parts[-1] is Ellipsis else f"{len(parts)} "
        several = least != 1 or parts[-1] is not Ellipsis
        item = "a value" if parts[0] is Any else describe(parts[0], model_words)
        return f"a list of {count}{_plural(item) if several else item.removeprefix('a ')}"
    if annotation is str and limits.get("pattern") == NAME_PATTERN:
        return "a name"
    return _WORDS.get(annotation, "a value") + _range(limits, whole=annotation is int)


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _split(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """Return an annotation without its constraints, and these by name."""
    limits: dict[str, Any] = {}
    while get_origin(annotation) is Annotated:
        annotation, *found = get_args(annotation)
        for item in found:
            # pydantic keeps some constraints in the `metadata` of a Field, others as objects of their own.
            for limit in (item, *getattr(item, "metadata", ())):
                for name in ("gt", "ge", "lt", "le", "min_length", "pattern"):
                    if (bound := getattr(limit, name, None)) is not None:
                        limits[name] = bound
    return annotation, limits


def _range(limits: Mapping[str, Any], *, whole: bool) -> str:
    low, high = limits.get("ge"), limits.get("le")
    # People read "from 0 to 9" more easily than "below 10".
    if whole and "lt" in limits:
        high = limits["lt"] - 1
    if low is not None and high is not None:
        return f" from {low} to {high}"
    ends = [f"above {limits['gt']}"] if "gt" in limits else []
    ends += [f"of at least {low}"] if low is not None else []
    ends += [f"below {limits['lt']}"] if "lt" in limits and high is None else []
    ends += [f"at most {high}"] if high is not None else []
    return f" {' and '.join(ends)}" if ends else ""


def _plural(words: str) -> str:
    return re.sub(r"^(?:a )?(whole number|number|name|value|text)", r"\1s", words)
