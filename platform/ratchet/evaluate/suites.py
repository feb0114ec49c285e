"""Put a model through a suite: what was scored before is read, the rest is asked, and kept."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ratchet.errors import ModelError, PlanError, RatchetError
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.engines.pool import TokenCount
from ratchet.evaluate.judges.kinds import judge_identity
from ratchet.evaluate.results import TaskResult, not_asked, read_result, why_of, write_result
from ratchet.evaluate.task_run import FAILS_ALONE, Answered, Content, Heldout, Inputs, Ready, task_run
from ratchet.model.load import check_quantisation
from ratchet.plan.suite import Suite, Task, named_judge, quantise_of, task_kind
from ratchet.reference.models import Model
from ratchet.store.files import at_home, write_text
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import Lease
from ratchet.store.made import Made, Product, find, keep

_log = logging.getLogger(__name__)
VERSION = 4
"""Rises when a task's numbers change for the same questions and answers."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """One task's result for one model; `folder` holds it, `reused` says that it was there before.

    `failure` is why the task could not be asked; its result then has no score. `start_seconds` of `seconds` went by
    until a process was ready; None where the record was written before records said so. `tokens` has those that were
    asked and computed, and nothing where the engine does not count.
    """

    model: str
    suite: str
    task: str
    result: TaskResult
    folder: Path
    seconds: float
    reused: bool
    failure: RatchetError | None = None
    start_seconds: float | None = None
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AskingWork:
    """What asking a task took: seconds, those of them until a process was ready, and tokens where they are known."""

    seconds: float
    start_seconds: float = 0.0
    tokens: TokenCount | None = None


@dataclasses.dataclass(frozen=True)
class ScoredTask:
    """A task's result for a model: `read` is what decides its numbers but the model, as `task_identity` has it."""

    task: str
    model: Any
    read: Mapping[str, Any]
    kind: ClassVar[str] = "scores"

    @property
    def what(self) -> str:
        return f"scores of {self.task}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "model": self.model, **self.read}


@dataclasses.dataclass(frozen=True)
class AnsweredTask(ScoredTask):
    """One that was answered, and what that took."""

    answered: Answered
    work: AskingWork

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Write the result, and the lines beside it."""
        result = self.answered.result
        write_result(folder, result)
        for name, lines in self.answered.lines.items():
            write_text(folder / name, "".join(f"{line}\n" for line in lines))
        counts = {"items": len(result.items), "problems": sum(result.problems.values())}
        facts: dict[str, Any] = {"start_seconds": round(self.work.start_seconds, 3)}
        if self.work.tokens is not None:
            facts["tokens"] = dataclasses.asdict(self.work.tokens)
        return Product(counts, facts=facts, seconds=self.work.seconds)


@dataclasses.dataclass(frozen=True)
class SuiteContent:
    """What the tasks of a suite read, and what decides each one's numbers but the model.

    `failed` has the tasks that cannot be asked at all, with the reason.
    """

    ready: Mapping[str, Ready]
    identities: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, RatchetError]


def score_suite(
    bench: Bench,
    model: Model,
    name: str,
    suite: Suite,
    tell: Callable[[Scored], None],
    heldout: Heldout | None = None,
) -> list[Scored]:
    """Return the results of all tasks of a suite, in its order; `name` is the suite's file.

    Every result is kept as soon as it is there, and `tell` is called with each that was not in the store before.
    Where another process asks the model, its results are waited for.
    A task that cannot be asked has a result without a score, and a warning says why; the others are asked.
    Raises ModelError where the model cannot be used, EndpointError, RunError, StorageError.
    """
    with Candidates(bench, model) as candidates:
        gpu = bool(bench.cluster.gpus_per_worker)
        read = check_suite(name, suite, candidates.tokenizer, bench.layout, heldout, gpu=gpu)
        parts = {
            task: ScoredTask(task, candidates.identity_for(suite.tasks[task]), identity)
            for task, identity in read.identities.items()
        }
        failed = {task: _fail(bench, model, name, task, suite.tasks[task], read.failed[task]) for task in read.failed}
        found = failed | _kept(bench.layout, model, name, parts)
        if wanted := [suite.tasks[task] for task in suite.tasks if task not in found]:
            leases = candidates.alone(wanted, candidates.step_back)
            found = failed | _kept(bench.layout, model, name, parts)  # another process may have asked meanwhile
            # Reversed, so that of tasks with one identity the first is asked.
            keys = {fingerprint(parts[task].identity): task for task in reversed(suite.tasks) if task not in found}
            left = {task: read.ready[task] for task in suite.tasks if task in keys.values()}
            for task, outcome, work in _ask(candidates, left):
                # A task may stand in a suite under several names.
                alike = [same for same in parts if parts[same].identity == parts[task].identity]
                answered = _of_known_unit(suite.tasks[task].kind, outcome)
                if isinstance(answered, RatchetError):
                    found |= {one: _fail(bench, model, name, one, suite.tasks[one], answered) for one in alike}
                    continue
                made = keep_result(bench.layout, parts[task], answered, work, leases)
                whole = answered.result.whole
                found |= {one: _read(model.name, name, one, made, reused=False, whole=whole) for one in alike}
                tell(found[task])
    return [found[task] for task in suite.tasks]


def raise_failed(name: str, read: SuiteContent) -> None:
    """Raise one error for all tasks of a suite that cannot be asked, of the kind of the first."""
    if read.failed:
        first = next(iter(read.failed.values()))
        lines = [f"{error.where or f'{name}: tasks.{task}'}: {error.what}" for task, error in read.failed.items()]
        raise type(first)("\n".join(lines), fix=first.fix) if len(lines) > 1 else first


def _fail(bench: Bench, model: Model, suite: str, task: str, settings: Task, error: RatchetError) -> Scored:
    """Return the result of a task that could not be asked. It is kept where no later run looks for it."""
    _log.warning("%s: tasks.%s of %s was not asked: %s; %s", suite, task, model.name, why_of(error), error.fix)
    result = not_asked(task, settings.kind, getattr(settings, "metric", settings.kind), error)
    why = {"task": settings.model_dump(mode="json"), "not asked": error.what}
    made = keep_result(bench.layout, ScoredTask(task, model.weights, why), Answered(result, {}), AskingWork(0.0), ())
    return Scored(model.name, suite, task, result, made.folder, 0.0, reused=False, failure=error)


def keep_result(
    layout: Layout, part: ScoredTask, answered: Answered, work: AskingWork, leases: Sequence[Lease]
) -> Made:
    """Write a result down. One that is not whole is where the next run does not look for it.

    Raises RunError where another process took over.
    """
    task = AnsweredTask(part.task, part.model, part.read, answered, work)
    return keep(layout, task, leases, apart=not answered.result.whole)


def _kept(layout: Layout, model: Model, name: str, parts: Mapping[str, ScoredTask]) -> dict[str, Scored]:
    """Return the results of a suite's tasks that the store holds."""
    there = {task: made for task, part in parts.items() if (made := find(layout, part)) is not None}
    return {task: _read(model.name, name, task, made, reused=True, whole=True) for task, made in there.items()}


def _read(model: str, suite: str, task: str, made: Made, *, reused: bool, whole: bool) -> Scored:
    """Return a result as it is kept."""
    # Read back also where it was just made, so that it has one form whenever it was made. The file does not say whether
    # it is whole: one that is not is never found again, and who has just made it knows.
    result = dataclasses.replace(read_result(made.folder), task=task, whole=whole)
    start, tokens = made.record.facts.get("start_seconds"), made.record.facts.get("tokens", {})
    return Scored(
        model, suite, task, result, made.folder, made.record.seconds, reused, start_seconds=start, tokens=tokens
    )


def check_suite(
    name: str, suite: Suite, tokenizer: Any, layout: Layout, heldout: Heldout | None, *, gpu: bool
) -> SuiteContent:
    """Return what the tasks of a suite read, and which of them lack something to be asked. Raises StorageError."""
    inputs = Inputs(at_home(suite.data_root) if suite.data_root else None, layout.store, heldout)
    ready: dict[str, Ready] = {}
    identities: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, RatchetError] = {}
    for task, settings in suite.tasks.items():
        try:
            _check_task(f"{name}: tasks.{task}", settings, tokenizer)
            content = task_run(settings.kind).reads(task, settings, inputs)
            identities[task] = task_identity(settings, content, gpu=gpu)
            ready[task] = Ready(settings, content)
        except FAILS_ALONE as error:
            failed[task] = error
    return SuiteContent(ready, identities, failed)


def task_identity(task: Task, content: Content, *, gpu: bool) -> dict[str, Any]:
    """Return what decides a task's numbers beside the model: its settings, what it reads, and the code.

    `gpu` says whether your own judge model runs on one. Raises DataError, ModelError where a judge cannot be read.
    """
    kind = task_kind(task.kind)
    return {
        "version": VERSION,
        "task": task.model_dump(mode="json", exclude=set(kind.by_content)),
        "libraries": {name: importlib.metadata.version(name) for name in kind.libraries},
        "read": content.known_by,
        "judge": judge_identity(named_judge(task), gpu=gpu),
    }


def _check_task(where: str, settings: Task, tokenizer: Any) -> None:
    if quantise := quantise_of(settings):
        check_quantisation(quantise, f"{where}.quantise")
    if task_kind(settings.kind).needs_chat_template and not tokenizer.chat_template:
        raise ModelError(
            "asks through a chat template, and the model's tokenizer has none",
            where=where,
            fix="give one: model.chat_template in a plan, --chat-template here; `plain` comes with Ratchet",
            code="model.no-template",
        )


def _ask(
    candidates: Candidates, tasks: Mapping[str, Ready]
) -> Iterator[tuple[str, Answered | RatchetError, AskingWork]]:
    """Yield (task, result or why it has none, what it took), in the turn of each kind, those together that may be."""
    groups: dict[tuple[str, Hashable], dict[str, Ready]] = {}
    for name, ready in tasks.items():
        together = task_run(ready.settings.kind).together
        key = (ready.settings.kind, name if together is None else together(ready.settings))
        groups.setdefault(key, {})[name] = ready
    for (kind, _), some in sorted(groups.items(), key=lambda group: task_run(group[0][0]).turn):
        clock, before = time.monotonic(), candidates.start_seconds()
        outcomes = task_run(kind).run(candidates, some)
        seconds, start = time.monotonic() - clock, candidates.start_seconds() - before
        tokens = candidates.take_tokens()
        for name, (answered, share) in outcomes.items():
            # Groups of tasks that are asked together begin with their task's name.
            own = [count for group, count in tokens.items() if len(some) == 1 or group.startswith(f"{name}/")]
            yield name, answered, AskingWork(seconds * share, start * share, sum(own, TokenCount()) if own else None)


def _of_known_unit(kind: str, answered: Answered | RatchetError) -> Answered | RatchetError:
    """Return an outcome, or an error where its headline counts what its kind does not name: averages would mix it."""
    units = task_kind(kind).units
    if isinstance(answered, RatchetError) or (unit := answered.result.headline.unit) in units:
        return answered
    return PlanError(
        f"the kind of task {kind} counts {', '.join(units)}, and its headline is in {unit}",
        fix="correct `units` of its TaskKind",
        code="plan.kind",
    )
