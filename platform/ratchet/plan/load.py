"""Load plans and suites. Everything that is wrong with a file is told at once, in one PlanError."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ratchet.errors import PlanError
from ratchet.plan import explain, override, references
from ratchet.plan.document import Document, Problem, dotted, fail
from ratchet.plan.outline import close, either, hint
from ratchet.plan.reading import read
from ratchet.plan.schema import Plan
from ratchet.plan.suite import Suite

Schema = TypeVar("Schema", Plan, Suite)
_SCHEMAS = {"stages": "a plan", "tasks": "an evaluation suite"}
"""The top-level key that says what a file is."""


def load_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a plan, with `dotted.key=value` overrides. Paths in it are relative to the current folder.

    Raises PlanError, whose `what` has one line for each problem.
    """
    document = read(path)
    _refuse_other(document, "stages")
    return plan_of(override.apply(document, overrides))


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read an evaluation suite. Raises PlanError, whose `what` has one line for each problem."""
    document = read(path)
    _refuse_other(document, "tasks")
    return _suite_of(override.apply(document, overrides, Suite))


def plan_of(document: Document) -> Plan:
    """Return the plan that a document says. Raises PlanError, whose `what` has one line for each problem."""
    plan, problems = explain.validate(Plan, document)
    problems = [*document.problems, *problems, *references.check(document), *_suites(document)]
    return _proved(plan, problems, document)


def check_file(path: Path, overrides: Sequence[str] = ()) -> str:
    """Check any YAML file that has a schema, and say what it is. Raises PlanError."""
    document = read(path)
    mark = next((mark for mark in _SCHEMAS if mark in document.data), None)
    if mark is None:
        near = next((near for key in document.data if (near := close(key, _SCHEMAS))), None)
        fail([document.problem((), f"neither a plan (with `stages`) nor a suite (with `tasks`){hint(near)}")])
    if mark == "stages":
        count = len(plan_of(override.apply(document, overrides)).stages)
        return f"a plan of {count} stage{'s' * (count != 1)}"
    count = len(_suite_of(override.apply(document, overrides, Suite)).tasks)
    return f"a suite of {count} task{'s' * (count != 1)}"


def _suite_of(document: Document) -> Suite:
    suite, problems = explain.validate(Suite, document)
    return _proved(suite, [*document.problems, *problems], document)


def _refuse_other(document: Document, mark: str) -> None:
    for other, words in _SCHEMAS.items():
        if other != mark and other in document.data and mark not in document.data:
            fail([document.problem((), f"this is {words}, not {_SCHEMAS[mark]}")])


def _proved(model: Schema | None, problems: list[Problem], document: Document) -> Schema:
    fail(problems)
    if model is None:
        raise PlanError(f"{document.file}: does not fit its schema")
    return model


def _suites(document: Document) -> Iterator[Problem]:
    """Yield what is wrong with the suites that a plan names, and with what they ask of it."""
    named, sources = document.data.get("evaluate"), document.data.get("data")
    if not isinstance(named, list):
        return
    for n, name in enumerate(named):
        if not isinstance(name, str):
            continue
        here = ("evaluate", n)
        if name in named[:n]:
            yield document.problem(here, f"{name} is listed twice")
            continue
        try:
            read_suite = read(Path(name))
        except PlanError as error:
            yield document.problem(here, error.what)
            continue
        suite, problems = explain.validate(Suite, read_suite)
        yield from [*read_suite.problems, *problems]
        if suite is None or not isinstance(sources, dict):
            continue
        for task, settings in suite.tasks.items():
            if settings.source not in sources:
                said = hint(close(settings.source, sources)) or f"; there are {either(list(sources))}"
                what = f"task {task} of {name} asks for the source {settings.source}, which `data` has not{said}"
                yield document.problem(here, what)
            elif _holds_out_nothing(sources[settings.source]):
                key = dotted(("data", settings.source, "held_out"))
                what = f"task {task} of {name} has nothing to answer: {key} is 0; set it above 0"
                yield document.problem(here, what)


def _holds_out_nothing(source: Any) -> bool:
    share = source.get("held_out") if isinstance(source, dict) else None
    return not isinstance(share, bool) and share == 0
