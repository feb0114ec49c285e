"""Sources and a model that the command line names without a plan."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ratchet.errors import PlanError
from ratchet.plan.data import Source
from ratchet.plan.document import SET, Document, fail
from ratchet.plan.explain import validate
from ratchet.plan.model import ModelSpec
from ratchet.plan.override import apply

Schema = TypeVar("Schema", bound=BaseModel)


def loose_sources(files: Sequence[str], assignments: Sequence[str]) -> dict[str, Source]:
    """Return a source for each file, folder or glob, named after it; `assignments` set keys of all of them.

    Raises PlanError for a key or value that a source cannot have, with all that is wrong.
    """
    found: dict[str, Source] = {}
    for file in files:
        stem = _name(file)
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in found)
        found[name] = _made(Source, {"path": file}, assignments)
    return found


def loose_model(model: str | None) -> ModelSpec | None:
    """Return the model of a folder, or of a name on the hub; None where none is named. Raises PlanError."""
    if model is None:
        return None
    if model and Path(model).expanduser().is_dir():
        found = _made(ModelSpec, {"path": model})
    elif not model or model[0] in "./~" or model.count("/") > 1:
        raise PlanError(f"{model}: no such folder", where="--model", fix="give a model's folder, or a hub name")
    else:
        found = _made(ModelSpec, {"name": model})
    return found


def model_named(values: dict[str, Any]) -> ModelSpec:
    """Return the model that options of the command line say. Raises PlanError, a line for each option that is wrong."""
    made, problems = validate(ModelSpec, Document(SET, values, {}))
    if made is None:
        said = "\n".join(f"{_option(problem.key)}: {problem.what}" for problem in problems)
        raise PlanError(said, where="the command line", fix="give what the option takes; --help lists them")
    return made


def _option(key: str) -> str:
    """Return the option that sets a key of a model; the key where it is a part of the model's name."""
    head = key.partition(".")[0]
    if head == "template_arguments":
        return "--template-argument"
    return key if head in ("path", "name", "revision") else f"--{head.replace('_', '-')}"


def _name(file: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", Path(file).name.lower().partition(".")[0]).strip("-")
    return name[:40] or "data"


def _made(schema: type[Schema], values: dict[str, Any], assignments: Sequence[str] = ()) -> Schema:
    """Return what the command line says of a source or a model. Raises PlanError, a line for each problem."""
    document = apply(Document(SET, values, {}), assignments, schema)
    made, problems = validate(schema, document)
    fail([*document.problems, *problems])
    if made is None:
        raise PlanError("no source or model can be of this form", fix="docs/plan.md lists the keys of both")
    return made
