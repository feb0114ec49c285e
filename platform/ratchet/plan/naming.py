"""Which keys of plans and suites name a file or folder, and where relative ones count from.

A plan's paths count from where the command is run. A suite's count from the suite's own file, so that it can be
asked for from anywhere; what `set` or `--set` puts into a suite counts from where the command is run.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ratchet.plan.cluster import Cluster
from ratchet.plan.data import HeldOutRows, Source
from ratchet.plan.document import Document, KeyPath
from ratchet.plan.judge import JUDGE_KINDS
from ratchet.plan.model import ModelSpec
from ratchet.plan.outline import below, models
from ratchet.plan.suite import TASK_KINDS, Suite
from ratchet.plan.task_parts import Files, Rows

TEMPLATE = "chat_template"
NAMING: Mapping[type[BaseModel], tuple[str, ...]] = {
    ModelSpec: ("path", TEMPLATE),
    Source: ("path",),
    HeldOutRows: ("path",),
    Suite: ("data_root",),
    Files: ("path",),
    Rows: ("path",),
    **{row.settings: tuple(row.paths) for row in TASK_KINDS.values() if row.paths},
    **{row.settings: (row.path,) for row in JUDGE_KINDS.values() if row.path},
}
"""Keys of plans and suites that name a file or folder to be read."""
WRITTEN: Mapping[type[BaseModel], tuple[str, ...]] = {Cluster: ("storage",)}
"""Keys that name a folder to be written."""
_ABSOLUTE = re.compile(r"[/~$]|[A-Za-z]:[\\/]|\w+://")


@dataclasses.dataclass(frozen=True)
class NamedPath:
    """A text that names a file or folder: the part of the schema that it belongs to, its key there, and its path."""

    part: type[BaseModel]
    key: str
    path: KeyPath
    text: str


def places(data: Any, annotation: Any, path: KeyPath = ()) -> Iterator[NamedPath]:
    """Yield the texts of plain values that name files and folders; values that fit no schema are left out."""
    if isinstance(data, list):
        for n, item in enumerate(data):
            yield from places(item, below(annotation, n, data), (*path, n))
    if not isinstance(data, Mapping):
        return
    for model in models(annotation, data):
        for key in (*NAMING.get(model, ()), *WRITTEN.get(model, ())):
            value = data.get(key)
            if isinstance(value, str):
                yield NamedPath(model, key, (*path, key), value)
            elif isinstance(value, list):
                yield from (
                    NamedPath(model, key, (*path, key, n), one) for n, one in enumerate(value) if isinstance(one, str)
                )
    for key, item in data.items():
        inner = below(annotation, key, data)
        if inner is not None and isinstance(item, Mapping | list):
            yield from places(item, inner, (*path, key))


def counted_from_its_file(document: Document) -> Document:
    """Return a suite's document with relative paths as they are from where the command is run.

    A chat template that is one word is the name of one that comes with the library.
    """
    # Texts, not paths: pathlib keeps `..` as it is, and a person should read the shortest form.
    home, data = os.path.dirname(document.file), document.data  # noqa: PTH120  a text, not a file
    for place in places(data, Suite):
        if _ABSOLUTE.match(place.text) or (place.key == TEMPLATE and re.fullmatch(r"[\w-]+", place.text)):
            continue
        data = _with(data, place.path, os.path.normpath(os.path.join(home, place.text)))  # noqa: PTH118
    return dataclasses.replace(document, data=data)


def _with(data: Any, path: KeyPath, value: Any) -> Any:
    """Return plain values with one of them changed; `data` stays as it is."""
    if not path:
        return value
    # Only what lies on the path is copied. The rest is shared with the document, which nothing changes.
    copy = dict(data) if isinstance(data, Mapping) else list(data)
    copy[path[0]] = _with(data[path[0]], path[1:], value)  # type: ignore[index]
    return copy
