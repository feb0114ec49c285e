"""Read `report.json`, `scores.json` and `sweep.json` into the dataclasses of report/*data.py.

The pipeline writes plain values; reading proves their shape, so that tables and charts need not. A
key that is absent without a default or of another type is a DataError with its dotted path; keys
that the dataclasses do not name may stand in the documents and are not shown.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import DataError
from ratchet.report.data import Report
from ratchet.report.scores_data import Scores
from ratchet.report.sweep_data import Sweep

NAME = "report.json"


def load(path: Path) -> Report:
    """Read a report.json. Raises DataError where it is absent, not JSON, or not a report."""
    data = read_document(path, "run the plan again: it writes the report anew")
    return read(data, where=str(path))


def read_document(path: Path, fix: str) -> Any:
    """Return the values of a JSON document. Raises DataError where it is absent, or not JSON: then `fix` helps."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        where = "<storage>/runs/<plan> or <storage>/sweeps/<sweep>"
        raise DataError("there is no report here", where=str(path), fix=f"give such a folder: {where}") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path), fix=fix) from error


def read(data: Mapping[str, Any], *, where: str = NAME) -> Report:
    """Return plain values as a Report. Raises DataError naming the dotted key that is wrong."""
    try:
        report: Report = _build(Report, data, "")
    except _MisfitError as misfit:
        raise DataError(f"{misfit}", where=where, fix="report.data says what each key holds") from None
    return report


def read_scores(data: Mapping[str, Any], *, where: str = "scores.json") -> Scores:
    """Return plain values as Scores. Raises DataError naming the dotted key that is wrong."""
    try:
        scores: Scores = _build(Scores, data, "")
    except _MisfitError as misfit:
        raise DataError(f"{misfit}", where=where, fix="docs/scores.md says what each key holds") from None
    return scores


def read_sweep(data: Mapping[str, Any], *, where: str = "sweep.json") -> Sweep:
    """Return plain values as a Sweep whose parts name only one another.

    Raises DataError naming the dotted key that is wrong, or the id that nothing has.
    """
    try:
        sweep: Sweep = _build(Sweep, data, "")
        _check(sweep)
    except _MisfitError as misfit:
        raise DataError(f"{misfit}", where=where, fix="docs/sweeps.md says what each key holds") from None
    return sweep


def _check(sweep: Sweep) -> None:
    """Raise _MisfitError where an id stands twice, names nothing, or a stage starts from itself."""
    if sweep.format != 1:
        raise _MisfitError(f"format: expected 1, got {sweep.format}")
    ids = {
        kind: [one.id for one in found]
        for kind, found in (("points", sweep.points), ("trials", sweep.trials), ("stages", sweep.stages))
    }
    for kind, found in ids.items():
        if len(set(found)) < len(found):
            twice = Counter(found).most_common(1)[0][0]
            raise _MisfitError(f"{kind}: {twice[:60]!r} is there twice")
    known = {kind: set(found) for kind, found in ids.items()}
    named = [
        *(("points", "trials.point", one.point) for one in sweep.trials),
        *(("stages", "trials.steps", step) for one in sweep.trials for step in one.steps),
        *(("stages", "stages.start", one.start) for one in sweep.stages if one.start is not None),
        *(("trials", "stages.trials", trial) for one in sweep.stages for trial in one.trials),
        *([("points", "best", sweep.best)] if sweep.best is not None else []),
    ]
    for kind, at, name in named:
        if name not in known[kind]:
            raise _MisfitError(f"{at}: {name[:60]!r} is none of {kind}")
    starts = {one.id: one.start for one in sweep.stages}
    for first in starts:
        way: set[str] = set()
        step: str | None = first
        while step is not None:
            if step in way:
                raise _MisfitError(f"stages.start: {step[:60]!r} starts from itself")
            way.add(step)
            step = starts[step]


class _MisfitError(Exception):
    """A value that is not what its key holds; `read` turns it into a DataError."""


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, Mapping):
        raise _MisfitError(f"{at or 'top'}: expected a mapping, got {type(value).__name__}")
    found = {}
    for field in dataclasses.fields(kind):
        name = field.name
        if name in value:
            found[name] = _convert(_hints(kind)[name], value[name], _join(at, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _MisfitError(f"{_join(at, name)}: missing")
    return kind(**found)


def _convert(hint: Any, value: Any, at: str) -> Any:
    """Return `value` as `hint` asks: a plain type, X | None, Literal, tuple, Mapping or dataclass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, at)
    if origin in {types.UnionType, typing.Union}:
        return None if value is None else _convert(arguments[0], value, at)
    if origin is typing.Literal:
        fits, wanted = value in arguments, " or ".join(map(str, arguments))
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(arguments[0], item, f"{at}[{index}]") for index, item in enumerate(value))
        fits, wanted = False, "a list"
    elif origin is Mapping and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, _join(at, str(key))) for key, item in value.items()}
    elif hint is float:
        fits, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        fits = fits and math.isfinite(value)
    elif hint is int:
        fits, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        plain = Mapping if origin is not None else hint
        fits, wanted = hint is Any or isinstance(value, plain), getattr(plain, "__name__", "a value")
    if not fits:
        raise _MisfitError(f"{at}: expected {wanted}, got {str(value)[:60]!r}")
    return value


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
