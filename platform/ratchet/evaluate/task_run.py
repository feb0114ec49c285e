"""How a kind of task is read and asked: the half of its row that may load models (`plan.task_parts` has the other)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import DataError, ModelError, PlanError, RatchetError
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import TaskResult
from ratchet.pairs.pair import Ids
from ratchet.plan.suite import task_kind

if TYPE_CHECKING:
    from ratchet.evaluate.bench import Candidates

FAILS_ALONE = (PlanError, DataError, ModelError)
"""Errors of a task, after which the others are asked all the same; any other one ends an evaluation."""
FIRST, NEXT, LAST = 0, 1, 2
"""When a task of a suite is asked. Last are those for which the candidate's processes end."""


@dataclasses.dataclass(frozen=True)
class HeldoutQuestion:
    """A held-out prompt as token ids and as text, and the chosen answer to it."""

    pair_id: str
    prompt: Ids
    text: str
    chosen: str


@dataclasses.dataclass(frozen=True)
class Heldout:
    """A plan's held-out prompts: at most so many of a source, and what those of a source are known by."""

    questions: Callable[[str, int], Sequence[HeldoutQuestion]]
    identity: Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where tasks find what they read.

    `data_root` is the suite's mirror of the hub, `store` holds copies of data, `heldout` is None outside of a plan.
    """

    data_root: Path | None
    store: Path
    heldout: Heldout | None


@dataclasses.dataclass(frozen=True)
class Content:
    """What a task reads beside the model: `known_by` enters its identity, `loaded` is what its `run` takes up."""

    known_by: Any
    loaded: Any


@dataclasses.dataclass(frozen=True)
class Ready:
    """A task whose content was read."""

    settings: Any
    content: Content


@dataclasses.dataclass(frozen=True)
class Answered:
    """A result, and lines of files that are to lie beside it."""

    result: TaskResult
    lines: Mapping[str, Sequence[str]]


Outcomes = Mapping[str, tuple[Answered | RatchetError, float]]
"""What came of tasks that were asked together, by name: the answer or why there is none, and its share of the work."""


@dataclasses.dataclass(frozen=True)
class TaskRun:
    """A kind of task as an evaluation uses it. No column has a default.

    reads         name, settings and Inputs in, Content out; raises an error of FAILS_ALONE where something is missing
    check_chosen  settings, and the chosen answers that a plan holds out for the task; raises where they do not suit it
    turn          FIRST, NEXT or LAST
    together      settings in; tasks of a suite with equal keys are asked in one call. None: each alone
    run           asks tasks of the kind; raises what the engine raises, and gives a task's own error as its outcome
    """

    reads: Callable[[str, Any, Inputs], Content]
    check_chosen: Callable[[Any, Sequence[str]], object]
    turn: int
    together: Callable[[Any], Hashable] | None
    run: Callable[[Candidates, Mapping[str, Ready]], Outcomes]


def nothing_to_check(settings: Any, chosen: Sequence[str]) -> None:
    """Accept any chosen answers: a task that asks for none is given none."""


def each_alone(
    ask: Callable[[Candidates, str, Ready], Answered],
) -> Callable[[Candidates, Mapping[str, Ready]], Outcomes]:
    """Return a `run` that asks one task after the other; one that fails keeps no other from being asked."""

    def run(candidates: Candidates, tasks: Mapping[str, Ready]) -> Outcomes:
        found: dict[str, tuple[Answered | RatchetError, float]] = {}
        for name, ready in tasks.items():
            try:
                found[name] = ask(candidates, name, ready), 1 / len(tasks)
            except FAILS_ALONE as error:
                found[name] = error, 1 / len(tasks)
        return found

    return run


def by_candidate(
    ask: Callable[[str, Any, Candidate], TaskResult],
) -> Callable[[Candidates, Mapping[str, Ready]], Outcomes]:
    """Return a `run` of tasks that need their settings and a Candidate alone."""
    return each_alone(
        lambda candidates, name, ready: Answered(ask(name, ready.settings, candidates.of(ready.settings)), {})
    )


def task_run(kind: str) -> TaskRun:
    """Return how a kind of task is asked. Raises PlanError where its row names none."""
    # By name, because the rows of `plan` may not load what asks a model.
    named = task_kind(kind).run
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(
            f"the kind of task {kind} cannot be asked: {named} cannot be loaded: {error}",
            fix="correct `run` of its TaskKind: module:name of a TaskRun",
            code="plan.kind",
        ) from error
    if not isinstance(found, TaskRun):
        raise PlanError(
            f"the kind of task {kind} cannot be asked: {named} is {type(found).__name__}, not a TaskRun",
            fix="correct `run` of its TaskKind",
            code="plan.kind",
        )
    return found
