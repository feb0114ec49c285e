"""Put a model through a suite: what was scored before is read, the rest is asked, and kept."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from ratchet.errors import ModelError, RatchetError
from ratchet.evaluate import exact_match as exact
from ratchet.evaluate import perplexity, text_overlap
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.eq_bench import run as eq_bench
from ratchet.evaluate.exact_match import Heldout, of_a_plan
from ratchet.evaluate.harness import run as harness
from ratchet.evaluate.harness.definitions import Loaded
from ratchet.evaluate.harness.failures import FAILS_ALONE
from ratchet.evaluate.judges.judge import FAILED
from ratchet.evaluate.judges.kinds import judge_of
from ratchet.evaluate.mt_bench import run as mt_bench
from ratchet.evaluate.preference_task import score_preferences
from ratchet.evaluate.results import NOT_ASKED, TaskResult, not_asked, read_result, why_of, write_result
from ratchet.evaluate.task_identity import identity_of
from ratchet.model.quantise import check_quantisation
from ratchet.plan.suite import (
    EqBench,
    ExactMatch,
    Harness,
    MtBench,
    Perplexity,
    Preference,
    Suite,
    Task,
    TextOverlap,
)
from ratchet.reference.models import Model
from ratchet.store.files import at_home, write_text
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import Lease
from ratchet.store.made import Entry, Product, publish
from ratchet.store.sound import clear, sound_record

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Scored:
    """One task's result for one model; `folder` holds it, `reused` says that it was there before.

    `failure` is why the task could not be asked; its result then has no score.
    """

    model: str
    suite: str
    task: str
    result: TaskResult
    folder: Path
    seconds: float
    reused: bool
    failure: RatchetError | None = None


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A result, and lines of files that are to lie beside it."""

    result: TaskResult
    lines: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Read:
    """What the tasks of a suite read: lm-eval's with their data, and what decides each one's numbers but the model.

    `failed` has the tasks that cannot be asked at all, with the reason.
    """

    loaded: Mapping[str, Loaded]
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
        identities = {
            task: _identity(candidates, suite.tasks[task], identity) for task, identity in read.identities.items()
        }
        failed = {task: _fail(bench, model, name, task, suite.tasks[task], read.failed[task]) for task in read.failed}
        found = failed | _kept(bench.layout, model, name, identities)
        if wanted := [suite.tasks[task] for task in suite.tasks if task not in found]:
            leases = candidates.alone(wanted, candidates.step_back)
            found = failed | _kept(bench.layout, model, name, identities)  # another process may have asked meanwhile
            keys = {fingerprint(identities[task]): task for task in reversed(suite.tasks) if task not in found}
            left = {task: suite.tasks[task] for task in suite.tasks if task in keys.values()}
            for task, answered, seconds in _ask(candidates, read.loaded, left, heldout):
                # A task may stand in a suite under several names.
                alike = [same for same in identities if identities[same] == identities[task]]
                if isinstance(answered, RatchetError):
                    found |= {one: _fail(bench, model, name, one, suite.tasks[one], answered) for one in alike}
                    continue
                folder = _keep(bench, identities[task], answered, seconds, leases)
                found |= {one: _read(model.name, name, one, folder, seconds, reused=False) for one in alike}
                tell(found[task])
    return [found[task] for task in suite.tasks]


def raise_failed(name: str, read: Read) -> None:
    """Raise one error for all tasks of a suite that cannot be asked, of the kind of the first."""
    if read.failed:
        first = next(iter(read.failed.values()))
        lines = [f"{error.where or f'{name}: tasks.{task}'}: {error.what}" for task, error in read.failed.items()]
        raise type(first)("\n".join(lines), fix=first.fix) if len(lines) > 1 else first


def _fail(bench: Bench, model: Model, suite: str, task: str, settings: Task, error: RatchetError) -> Scored:
    """Return the result of a task that could not be asked. It is kept where no later run looks for it."""
    _log.warning("%s: tasks.%s of %s was not asked: %s; %s", suite, task, model.name, why_of(error), error.fix)
    result = not_asked(task, settings.kind, getattr(settings, "metric", settings.kind), error)
    identity = {
        "kind": "scores",
        "model": model.weights,
        "task": settings.model_dump(mode="json"),
        "not asked": error.what,
    }
    folder = _keep(bench, identity, _Answered(result), 0.0, ())
    return Scored(model.name, suite, task, result, folder, 0.0, reused=False, failure=error)


def _kept(layout: Layout, model: Model, name: str, identities: Mapping[str, Mapping[str, Any]]) -> dict[str, Scored]:
    """Return the results of a suite's tasks that the store holds."""
    found = {}
    for task, identity in identities.items():
        folder = layout.result(fingerprint(identity))
        if (record := sound_record(folder)) is not None:
            found[task] = _read(model.name, name, task, folder, record.seconds, reused=True)
    return found


def _read(model: str, suite: str, task: str, folder: Path, seconds: float, *, reused: bool) -> Scored:
    """Return a result as it is kept, also where it was just made: one form, whenever it was made."""
    result = dataclasses.replace(read_result(folder), task=task)
    return Scored(model, suite, task, result, folder, seconds, reused)


def check_suite(name: str, suite: Suite, tokenizer: Any, layout: Layout, heldout: Heldout | None, *, gpu: bool) -> Read:
    """Return what the tasks of a suite read, and which of them lack something to be asked. Raises StorageError."""
    data_root = at_home(suite.data_root) if suite.data_root else None
    loaded: dict[str, Loaded] = {}
    identities: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, RatchetError] = {}
    for task, settings in suite.tasks.items():
        try:
            _check_task(f"{name}: tasks.{task}", settings, tokenizer)
            if isinstance(settings, Harness):
                loaded[task] = harness.load_task(task, settings, data_root, layout.store)
            identities[task] = identity_of(settings, loaded.get(task), heldout, gpu=gpu)
        except FAILS_ALONE as error:
            failed[task] = error
    return Read(loaded, identities, failed)


def _check_task(where: str, settings: Task, tokenizer: Any) -> None:
    if isinstance(settings, Perplexity) and settings.quantise:
        check_quantisation(settings.quantise, f"{where}.quantise")
    if isinstance(settings, MtBench | EqBench | TextOverlap | Preference) and not tokenizer.chat_template:
        raise ModelError(
            "asks through a chat template, and the model's tokenizer has none",
            where=where,
            fix="give one: model.chat_template in a plan, --chat-template here; `plain` comes with Ratchet",
        )


def _ask(
    candidates: Candidates,
    loaded: Mapping[str, Loaded],
    tasks: Mapping[str, Task],
    heldout: Heldout | None,
) -> Iterator[tuple[str, _Answered | RatchetError, float]]:
    """Yield (task, result or why it has none, seconds): lm-eval's tasks together, those with a judge last."""
    for some in _alike(tasks):
        clock = time.monotonic()
        first = next(iter(some.values()))
        results = harness.run_all(
            {task: loaded[task] for task in some}, candidates.of(first), candidates.bench.layout.store
        )
        seconds = time.monotonic() - clock
        for task, (result, share) in results.items():
            yield task, result if isinstance(result, RatchetError) else _Answered(result), seconds * share
    for task, settings in sorted(tasks.items(), key=lambda pair: isinstance(pair[1], MtBench | Preference)):
        if isinstance(settings, Harness):
            continue
        clock = time.monotonic()
        answered: _Answered | RatchetError
        try:
            answered = _one(candidates, task, settings, heldout)
        except FAILS_ALONE as error:
            answered = error
        yield task, answered, time.monotonic() - clock


def _alike(tasks: Mapping[str, Task]) -> list[dict[str, Harness]]:
    """Return lm-eval's tasks, those together that the same engine answers in batches of the same size."""
    groups: dict[tuple[str, int], dict[str, Harness]] = {}
    for name, task in tasks.items():
        if isinstance(task, Harness):
            groups.setdefault((task.engine, task.batch_tokens), {})[name] = task
    return list(groups.values())


def _one(candidates: Candidates, name: str, task: Task, heldout: Heldout | None) -> _Answered:
    match task:
        case EqBench():
            return _Answered(eq_bench.run(name, task, candidates.of(task)))
        case TextOverlap():
            return _Answered(text_overlap.run(name, task, candidates.of(task)))
        case Perplexity():
            return _Answered(perplexity.run(name, task, candidates.of(task)))
        case MtBench():
            return _conversations(candidates, name, task)
        case Preference():
            candidates.rest()
            return _Answered(score_preferences(candidates.bench, candidates.model, name, task))
        case ExactMatch():
            return _Answered(exact.run(name, task, candidates.of(task), of_a_plan(heldout).questions(task)))
        case Harness():
            raise ValueError("tasks of lm-eval are asked together, by `run_all`")
    assert_never(task)


def _conversations(candidates: Candidates, name: str, task: MtBench) -> _Answered:
    """Ask, and have it judged; answers and judgments come in FastChat's format too, for other tools."""
    with judge_of(candidates, task, f"tasks.{name}.judge") as judge:
        done = mt_bench.run(name, task, candidates.of(task), judge)
    model, when = candidates.model.name, time.time()
    lines = {"answers.jsonl": done.answer_lines(model, when), "judgments.jsonl": done.judgment_lines(model, when)}
    return _Answered(done.result, lines)


def _identity(candidates: Candidates, task: Task, read: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result is the fingerprint of: the model, and what the task is and reads."""
    return {"kind": "scores", "model": candidates.identity_for(task), **read}


def _is_whole(result: TaskResult) -> bool:
    """Whether asking again could not give more: it was asked, and no request to a judge failed."""
    return not any(problem.startswith((FAILED, NOT_ASKED)) for problem in result.problems)


def _keep(bench: Bench, identity: dict[str, Any], answered: _Answered, seconds: float, leases: Sequence[Lease]) -> Path:
    """Write a result, and return its folder. Raises RunError where another process took over.

    One that is not whole stands under a name of its own, where the next run does not look for it.
    """
    result, fp = answered.result, fingerprint(identity)
    folder = bench.layout.result(fp if _is_whole(result) else f"{fp}-{uuid.uuid4().hex[:8]}")

    def make(aside: Path) -> Product:
        write_result(aside, result)
        for name, lines in answered.lines.items():
            write_text(aside / name, "".join(f"{line}\n" for line in lines))
        return Product({"items": len(result.items), "problems": sum(result.problems.values())}, seconds=seconds)

    clear(folder, bench.layout.damaged)
    publish(folder, Entry("scores", identity, result.task), make, leases)
    return folder
