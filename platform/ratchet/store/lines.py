"""JSON lines of other programs: every fault of a file is reported with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.errors import DataError


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the object of every line that is not blank.

    Raises DataError where the file cannot be read, holds no line, or a line is no JSON object.
    """
    count = 0
    try:
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
