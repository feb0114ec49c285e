"""Dataclasses to JSON values and back, and JSON lines of other programs. The only place that knows how a document is
written and read.

A frozen dataclass says which keys a document has. mypy holds the code that fills it to that, and pydantic holds a file
to it. A key that is absent without a default, or has another type, is an error with its dotted path. A file may have
keys that its dataclass does not name: those of a later version are passed over.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ratchet.errors import DataError, RatchetError

T = TypeVar("T")

_WANTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What should stand where pydantic finds something else, by pydantic's name of the error."""
_SHOWN = 60


def to_values(document: Any) -> dict[str, Any]:
    """Return a document as JSON values, its keys in the order of the dataclass's fields.

    Numbers that are not finite become null: JSON has none. Half a surrogate pair, which a model's answer may
    hold and no file can, becomes a question mark.
    """
    values: dict[str, Any] = plain(dataclasses.asdict(document))
    return values


def plain(value: Any) -> Any:
    """Return a value as JSON types, with null for numbers that are not finite, and no half characters."""
    if isinstance(value, float):  # most values of a long history are numbers
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def from_values(kind: type[T], values: Any, *, where: str, fix: str, error: type[RatchetError] = DataError) -> T:
    """Return JSON values as a document of `kind`.

    Raises `error`, with `where` and `fix`, which names the first dotted key that is wrong.
    """
    # As JSON text, because there a list is a tuple and a whole number is a number, and nothing else is converted.
    text = json.dumps([plain(values)])
    try:
        (document,) = _adapter(cast(Any, kind)).validate_json(text)
    except ValidationError as invalid:
        said = _sentence(invalid.errors()[0])
        if error is DataError:
            raise DataError(said, where=where, fix=fix, code="data.document") from None
        raise error(said, where=where, fix=fix) from None
    found: T = document
    return found


def read_document(kind: type[T], path: Path, *, absent: str, fix: str) -> T:
    """Read a JSON file as a document of `kind`.

    Raises DataError where it is absent (`absent` is then the advice), not JSON, or not such a document.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("there is no report here", where=str(path), fix=absent, code="data.no-report") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path), fix=fix, code="data.not-json") from error
    return from_values(kind, values, where=str(path), fix=fix)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # In a tuple, because pydantic takes no configuration for a dataclass itself, and hands this one on.
    one: Any = types.GenericAlias(tuple, (kind,))
    return TypeAdapter(one, config=ConfigDict(strict=True, allow_inf_nan=False))


def _sentence(error: ErrorDetails) -> str:
    """Say what is wrong, and at which dotted key: `steps[3].pairs: expected a whole number, got 'many'`."""
    at = ""
    # The first part is the place in the tuple that the document was put into.
    for part in error["loc"][1:]:
        at += f"[{part}]" if isinstance(part, int) else f".{part}" if at else str(part)
    kind, found = error["type"], error["input"]
    if kind == "missing":
        return f"{at}: missing"
    wanted = _WANTED.get(kind)
    if kind == "literal_error":
        wanted = error["ctx"]["expected"].replace("'", "")
    if wanted == "a mapping":
        return f"{at or 'top'}: expected a mapping, got {type(found).__name__}"
    return f"{at}: expected {wanted or error['msg']}, got {str(found)[:_SHOWN]!r}"


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the object of every line that is not blank.

    Raises DataError where the file cannot be read, holds no line, or a line is no JSON object.
    """
    count = 0
    try:
        # Editors on Windows put a byte order mark before the first line.
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    count += 1
                    yield number, _object(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"cannot be read: {said}", where=str(path), fix="correct the path, or get it again") from error
    if not count:
        raise DataError("the file is empty", where=str(path), fix="get it again: one JSON object a line")


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not JSON: {error}", where=f"{path}:{number}", fix="correct or remove the line, or get the file again"
        ) from None
    if not isinstance(value, dict):
        raise DataError("not a JSON object", where=f"{path}:{number}", fix="correct or remove the line")
    return value
