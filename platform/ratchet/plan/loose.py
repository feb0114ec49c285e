"""Sources and a model that the command line names without a plan."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ratchet.errors import PlanError
from ratchet.plan.data import Source
from ratchet.plan.document import SET
from ratchet.plan.model import ModelSpec
from ratchet.plan.reading import parse


def loose_sources(files: Sequence[str], assignments: Sequence[str]) -> dict[str, Source]:
    """Return a source for each file, folder or glob, named after it; `assignments` set keys of all of them.

    Raises PlanError for a key or value that a source cannot have.
    """
    keys: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise PlanError(f"cannot read {assignment!r}", where=SET, fix="write key=value, such as layout=pair")
        keys[key.strip()] = parse(text, SET).data
    found: dict[str, Source] = {}
    for file in files:
        stem = _name(file)
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in found)
        found[name] = _made(Source, {"path": file, **keys})
    return found


def loose_model(model: str | None) -> ModelSpec | None:
    """Return the model of a folder, or of a name on the hub; None where none is named. Raises PlanError."""
    if model is None:
        return None
    if model and Path(model).expanduser().is_dir():
        found: ModelSpec = _made(ModelSpec, {"path": model})
    elif not model or model[0] in "./~" or model.count("/") > 1:
        raise PlanError(f"{model}: no such folder", where="--model", fix="give a model's folder, or a hub name")
    else:
        found = _made(ModelSpec, {"name": model})
    return found


def _name(file: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", Path(file).name.lower().partition(".")[0]).strip("-")
    return name[:40] or "data"


def _made(schema: Any, values: dict[str, Any]) -> Any:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PlanError(first["msg"], where=where, fix="docs/plan.md lists the keys of a source and a model") from None
