"""Load plans, suites and sweep spaces. Everything that is wrong with a file is listed at once, in one PlanError."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

from ratchet.errors import PlanError
from ratchet.plan import explain, override, references
from ratchet.plan.document import Document, KeyPath, Problem, dotted, fail
from ratchet.plan.judge import ModelJudge
from ratchet.plan.naming import counted_from_its_file
from ratchet.plan.outline import close, hint, suggest
from ratchet.plan.plugins import refuse_broken
from ratchet.plan.reading import in_yaml, read
from ratchet.plan.schema import Evaluation, Plan
from ratchet.plan.space import Space, space_problems
from ratchet.plan.suite import Suite, named_judge, source_of, task_kind

Schema = TypeVar("Schema", Plan, Suite, Space)
Also = Callable[[Document, type[Plan] | type[Suite]], Iterable[Problem]]
"""Looks for faults of a plan or suite that its text does not show: whether what it names is on this machine."""
_TRAINER = "set it to trainer, which is in this process"
_SCHEMAS = {"stages": "a plan", "tasks": "an evaluation suite", "keys": "a sweep space"}
"""The top-level key that says what a file is."""


def nothing_more(document: Document, schema: type[Plan] | type[Suite]) -> Iterable[Problem]:
    """Look for nothing more: what a file names may be on another machine."""
    return ()


def load_plan(path: Path, overrides: Sequence[str] = (), also: Also = nothing_more) -> Plan:
    """Read a plan, with `dotted.key=value` overrides. Paths in it are relative to the current folder.

    Raises PlanError, whose `what` has one line for each problem.
    """
    return plan_of(read_plan(path, overrides), also)


def read_plan(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read the document of a plan, with overrides. Raises PlanError where it is none."""
    return override.apply(_read_as("stages", path), overrides)


def load_suite(path: Path, overrides: Sequence[str] = (), also: Also = nothing_more) -> Suite:
    """Read an evaluation suite. Raises PlanError, whose `what` has one line for each problem."""
    return _suite_of(read_suite(path, overrides), also)


def read_suite(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read the document of an evaluation suite, with overrides. Raises PlanError where it is none.

    Relative paths in the file count from it; they come back as they are from the current folder.
    """
    return override.apply(counted_from_its_file(_read_as("tasks", path)), overrides, Suite)


def load_space(path: Path, overrides: Sequence[str] = ()) -> Space:
    """Read a sweep space. Whether it suits a plan is another question, for `tune.check`.

    Raises PlanError, whose `what` has one line for each problem.
    """
    return space_of(read_space(path, overrides))


def read_space(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read the document of a sweep space, whose lines are needed to say which of them does not suit a plan.

    Raises PlanError where it is no space.
    """
    return override.apply(_read_as("keys", path), overrides, Space)


def space_of(document: Document) -> Space:
    """Return the space that a document says. Raises PlanError, whose `what` has one line for each problem."""
    space, problems = explain.validate(Space, document)
    if space is not None:
        problems = space_problems(document, space)
    return _proved(space, [*document.problems, *problems], document)


def plan_of(document: Document, also: Also = nothing_more) -> Plan:
    """Return the plan that a document says. Raises PlanError, whose `what` has one line for each problem."""
    plan, _ = explain.validate(Plan, document)
    return _proved(plan, plan_problems(document, also), document)


def plan_problems(document: Document, also: Also = nothing_more) -> list[Problem]:
    """Return everything that is wrong with the document of a plan, the suites that it names included."""
    return [*own_problems(document), *also(document, Plan), *suite_problems(document, also)]


def own_problems(document: Document) -> list[Problem]:
    """Return what is wrong with the document of a plan, the suites that it names apart. Reads no file."""
    _, problems = explain.validate(Plan, document)
    return [*document.problems, *problems, *references.contradictions(document)]


def load_file(path: Path, overrides: Sequence[str] = (), also: Also = nothing_more) -> Plan | Suite | Space:
    """Read any YAML file that has a schema. Raises PlanError."""
    refuse_broken()
    document = read(path)
    mark = next((mark for mark in _SCHEMAS if mark in document.data), None)
    if mark is None:
        near = next((near for key in document.data if (near := close(key, _SCHEMAS))), None)
        what = "neither a plan (with `stages`), a suite (with `tasks`) nor a sweep space (with `keys`)"
        fail([document.problem((), f"{what}{hint(near)}")])
    if mark == "stages":
        return plan_of(override.apply(document, overrides), also)
    if mark == "tasks":
        return load_suite(path, overrides, also)
    return space_of(override.apply(document, overrides, Space))


def file_kind(loaded: Plan | Suite | Space) -> str:
    """Say what a file holds, and how many of its parts."""
    if isinstance(loaded, Plan):
        return f"a plan of {_counted(loaded.stages, 'stage')}"
    if isinstance(loaded, Suite):
        return f"a suite of {_counted(loaded.tasks, 'task')}"
    return f"a sweep space of {_counted(loaded.keys, 'key')}"


def _counted(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _suite_of(document: Document, also: Also = nothing_more) -> Suite:
    suite, problems = explain.validate(Suite, document)
    return _proved(suite, [*document.problems, *problems, *also(document, Suite)], document)


def _read_as(mark: str, path: Path) -> Document:
    """Read a file that should have `mark` at its top. Raises PlanError, also where a package adds a broken kind."""
    refuse_broken()
    document = read(path)
    for other, words in _SCHEMAS.items():
        # A file that has both keys is a plan with a slip; the schema says more of it than this could.
        if other != mark and other in document.data and mark not in document.data:
            what = str(document.problem((), f"this is {words}, not {_SCHEMAS[mark]}"))
            raise PlanError(what, code="plan.other-file")
    return document


def _proved(model: Schema | None, problems: list[Problem], document: Document) -> Schema:
    fail(problems)
    if model is None:
        raise PlanError(f"{document.file}: does not fit its schema")
    return model


@dataclasses.dataclass(frozen=True)
class PlannedSuite:
    """A suite as a plan asks for it: `name` is its file, `final` whether it is for final models alone.

    `document` has the lines of its keys; those that the plan sets stand at `--set` there.
    """

    name: str
    suite: Suite
    final: bool
    at_end: bool
    document: Document


def planned_suites(plan: Plan) -> list[PlannedSuite]:
    """Return the suites of a plan that is known to be right, with the values that the plan sets."""
    found = []
    for one in plan.evaluate:
        asked = Evaluation(suite=one) if isinstance(one, str) else one
        # Read once more, as a suite that is known to be right has lost its lines.
        document = read_suite(Path(asked.suite), _assignments(asked.set))
        suite = _suite_of(document)
        found.append(PlannedSuite(asked.suite, suite, asked.models == "final", asked.when == "end", document))
    return found


def _assignments(values: Any) -> list[str]:
    return [f"{key}={in_yaml(value)}" for key, value in values.items()]


def suite_problems(document: Document, also: Also = nothing_more) -> Iterator[Problem]:
    """Yield what is wrong with the suites that a plan names (`evaluate`), and with what they ask of its `data`."""
    named = document.data.get("evaluate")
    seen: list[str] = []
    for n, one in enumerate(named if isinstance(named, list) else []):
        name = one.get("suite") if isinstance(one, dict) else one
        if not isinstance(name, str):
            continue
        here = ("evaluate", n)
        if name in seen:
            yield document.problem(here, f"{name} is listed twice")
            continue
        seen.append(name)
        values = one.get("set") if isinstance(one, dict) else None
        yield from _suite(document, here, name, values if isinstance(values, dict) else {}, also)


def _suite(document: Document, here: KeyPath, name: str, values: dict[str, Any], also: Also) -> Iterator[Problem]:
    try:
        own = read_suite(Path(name), _assignments(values))
    except PlanError as error:
        yield document.problem(here, error.what)
        return
    suite, problems = explain.validate(Suite, own)
    yield from [*own.problems, *problems, *also(own, Suite)]
    sources = document.data.get("data")
    if suite is None or not isinstance(sources, dict):
        return
    for task, settings in suite.tasks.items():
        if task_kind(settings.kind).judged and named_judge(settings) is None:
            what = f"task {task} of {name} has no judge: set tasks.{task}.judge here under `set`, or in the suite"
            yield document.problem(here, what)
        source = source_of(settings)
        if source is None:
            continue
        if source not in sources:
            what = (
                f"task {task} of {name} asks for the source {source}, which is not in `data`{suggest(source, sources)}"
            )
            yield document.problem(here, what)
        elif _holds_out_nothing(sources[source]):
            key = dotted(("data", source, "held_out"))
            what = f"task {task} of {name} has nothing to answer: {key} is 0; set it above 0"
            yield document.problem(here, what)


def _holds_out_nothing(source: Any) -> bool:
    share = source.get("held_out") if isinstance(source, dict) else None
    # `False` equals 0 in Python, and `explain` has already refused it.
    return not isinstance(share, bool) and share == 0


def refuse_plan_here(plan: Plan) -> None:
    """Raise PlanError with all that keeps a plan from running in one process, and what to set instead.

    The rest of `cluster` says where a run goes and how it is spread. It has no meaning here: `score_actors`,
    `max_restarts`, `collective_timeout`, `ray`.
    """
    found = list(_needs_of_cluster(plan))
    if plan.reference.engine == "vllm":
        found.append(f"reference.engine: vllm has processes of its own: {_TRAINER}")
    for one in planned_suites(plan):
        found += _needs_of_suite(one.name, one.suite)
    _refuse(found)


def refuse_suite_here(name: str, suite: Suite) -> None:
    """Raise PlanError with all that keeps a suite from being asked in one process, and what to set instead."""
    _refuse(list(_needs_of_suite(name, suite)))


def _needs_of_cluster(plan: Plan) -> Iterator[str]:
    cluster = plan.cluster
    if cluster.fewest_workers > 1:
        yield f"cluster.workers: {cluster.fewest_workers} are as many processes: set it to 1"
    if cluster.deepspeed.zero:
        yield f"cluster.deepspeed.zero: {cluster.deepspeed.zero} divides a model by DeepSpeed: set it to 0"


def _needs_of_suite(name: str, suite: Suite) -> Iterator[str]:
    for task_name, task in suite.tasks.items():
        where = f"{name}: tasks.{task_name}"
        if getattr(task, "engine", "trainer") == "vllm":
            yield f"{where}.engine: vllm has processes of its own: {_TRAINER}"
        judge = getattr(task, "judge", None)
        if isinstance(judge, ModelJudge) and judge.engine == "vllm":
            yield f"{where}.judge.engine: vllm has processes of its own: {_TRAINER}"


def _refuse(found: list[str]) -> None:
    if found:
        raise PlanError("\n".join(found), where="--here", fix="or run it without --here")
