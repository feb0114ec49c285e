"""What a plan and its suites name outside of themselves: files, folders, and variables with keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ratchet.pairs.chat import shipped_templates
from ratchet.plan.base import Strict
from ratchet.plan.document import KeyPath
from ratchet.plan.judge import JUDGE_KINDS
from ratchet.plan.load import PlannedSuite, planned_suites
from ratchet.plan.naming import NAMING, TEMPLATE
from ratchet.plan.schema import Plan


@dataclasses.dataclass(frozen=True)
class Named:
    """A text that names something, and its key in the plan, or in `suite` where that is not None."""

    text: str
    path: KeyPath
    suite: PlannedSuite | None = None


def named_files(plan: Plan) -> Iterator[Named]:
    """Yield every file and folder that a plan and its suites name; the suites' own files are `planned_suites`."""
    for suite, path, part in _parts_of(plan):
        for key in NAMING.get(type(part), ()):
            value = getattr(part, key)
            if key != TEMPLATE or value not in shipped_templates():
                texts = [value] if isinstance(value, str) else value or ()
                yield from (Named(text, (*path, key), suite) for text in texts)


def key_variables(plan: Plan) -> Iterator[Named]:
    """Yield the variables that hold the keys of the judges of a plan's suites."""
    keys = {row.settings: (row.key_variable,) for row in JUDGE_KINDS.values() if row.key_variable}
    for suite, path, part in _parts_of(plan):
        for key in keys.get(type(part), ()):
            if name := getattr(part, key):
                yield Named(name, (*path, key), suite)


def _parts_of(plan: Plan) -> Iterator[tuple[PlannedSuite | None, KeyPath, Strict]]:
    yield from ((None, path, part) for path, part in _parts(plan, ()))
    for one in planned_suites(plan):
        yield from ((one, path, part) for path, part in _parts(one.suite, ()))


def _parts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Strict]]:
    """Yield the parts of a schema's value that have keys of their own, with their paths."""
    if isinstance(value, Strict):
        yield path, value
        value = {key: getattr(value, key) for key in type(value).model_fields}
    for key, item in value.items() if isinstance(value, Mapping) else _numbered(value):
        yield from _parts(item, (*path, key))


def _numbered(value: Any) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(value) if isinstance(value, tuple | list) else ())
