"""Put a model through a suite: what was scored before is read, the rest is asked, and kept."""

from __future__ import annotations

import dataclasses
import functools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import DataError, ModelError, PlanError
from ratchet.evaluate import eq_bench, exact, harness, mt_bench, perplexity, text_overlap
from ratchet.evaluate.exact import Question
from ratchet.evaluate.judge import FAILED
from ratchet.evaluate.kept import read_result, write_result
from ratchet.evaluate.results import Score, TaskResult
from ratchet.pipeline.candidates import Bench, Candidates
from ratchet.pipeline.context import Model
from ratchet.pipeline.judges import judge_of
from ratchet.pipeline.preferences import score_preferences
from ratchet.plan.judge import ReplayJudge
from ratchet.plan.suite import (
    Answering,
    EqBench,
    ExactMatch,
    Files,
    Harness,
    MtBench,
    Perplexity,
    Preference,
    Rows,
    Suite,
    Task,
    TextOverlap,
)
from ratchet.report.figures import with_error
from ratchet.store.files import folder_aside, write_text
from ratchet.store.fingerprint import digest_tree, fingerprint
from ratchet.store.record import Record, now, read_record, write_record


@dataclasses.dataclass(frozen=True)
class Heldout:
    """A plan's held-out prompts: those of a task, and what they are known by."""

    questions: Callable[[ExactMatch], Sequence[Question]]
    identity: Callable[[ExactMatch], str]


_WHERE_ONLY = {"judge": {"concurrency", "timeout_seconds", "max_attempts", "budget", "key_variable", "allow_private"}}
"""Keys of a task that say how it is asked, not what."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """One task's result for one model; `folder` holds it, `reused` says that it was there before."""

    model: str
    suite: str
    task: str
    result: TaskResult
    folder: Path
    seconds: float
    reused: bool


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A result, and lines of files that are to lie beside it."""

    result: TaskResult
    lines: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def score_suite(bench: Bench, model: Model, name: str, suite: Suite, heldout: Heldout | None = None) -> list[Scored]:
    """Return the results of all tasks of a suite, in its order; `name` is the suite's file.

    Every result is kept as soon as it is there. Raises PlanError, DataError, ModelError, EndpointError,
    StorageError.
    """
    found: dict[str, Scored] = {}
    with Candidates(bench, model) as candidates:
        _check(candidates, name, suite)
        identities = {task: _identity(candidates, suite, suite.tasks[task], heldout) for task in suite.tasks}
        for task, identity in identities.items():
            folder = bench.layout.result(fingerprint(identity))
            if (record := read_record(folder)) is not None:
                found[task] = Scored(model.name, name, task, read_result(folder), folder, record.seconds, reused=True)
        left = {task: settings for task, settings in suite.tasks.items() if task not in found}
        for task, answered, seconds in _ask(candidates, suite, left, heldout):
            result = answered.result
            folder = _keep(bench, identities[task], answered, seconds)
            found[task] = Scored(model.name, name, task, result, folder, seconds, reused=False)
            bench.console.done(f"{task} {model.name}", facts_of(result.headline), seconds)
    return [found[task] for task in suite.tasks]


def facts_of(score: Score) -> dict[str, str | int]:
    """Return a score with its error as the console shows it, and of how many items it is."""
    value = "no score" if score.value is None else with_error(score.value, score.standard_error)
    return {score.name: value, "of": score.count}


def _check(candidates: Candidates, name: str, suite: Suite) -> None:
    """Tell what is missing before anything is asked. Raises DataError, ModelError."""
    for task, settings in suite.tasks.items():
        where = f"{name}: tasks.{task}"
        for path in _files(suite, settings):
            if not Path(path).exists() and not set("*?[") & set(path):
                raise DataError("no such file or folder", where=f"{where}: {path}", fix="correct the path")
        if (
            isinstance(settings, MtBench | EqBench | TextOverlap | Preference)
            and not candidates.tokenizer.chat_template
        ):
            raise ModelError(
                f"asks through a chat template, and the tokenizer of {candidates.model.name} has none",
                where=where,
                fix="give one: model.chat_template in a plan, --chat-template here; `plain` comes with Ratchet",
            )


def _ask(
    candidates: Candidates, suite: Suite, tasks: Mapping[str, Task], heldout: Heldout | None
) -> Iterator[tuple[str, _Answered, float]]:
    """Yield (task, result, seconds): lm-eval's tasks together, those with a judge last."""
    clock = time.monotonic()
    for some in _alike(tasks):
        first = next(iter(some.values()))
        results = harness.run_all(
            some,
            candidates.of(first),
            data_root=Path(suite.data_root) if suite.data_root else None,
            store=candidates.bench.layout.store,
        )
        for task, result in results.items():
            yield task, _Answered(result), time.monotonic() - clock
    for task, settings in sorted(tasks.items(), key=lambda pair: isinstance(pair[1], MtBench | Preference)):
        if isinstance(settings, Harness):
            continue
        clock = time.monotonic()
        yield task, _one(candidates, task, settings, heldout), time.monotonic() - clock


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
        case ExactMatch() if heldout is not None:
            return _Answered(exact.run(name, task, candidates.of(task), heldout.questions(task)))
    raise PlanError(
        f"a task of kind {task.kind} asks for a plan's held-out prompts, and there is no plan",
        where=f"tasks.{name}",
        fix="name the suite under `evaluate` of a plan",
    )


def _conversations(candidates: Candidates, name: str, task: MtBench) -> _Answered:
    """Ask, and have it judged; answers and judgments come in FastChat's format too, for other tools."""
    with judge_of(candidates, task, f"tasks.{name}.judge") as judge:
        done = mt_bench.run(name, task, candidates.of(task), judge)
    model, when = candidates.model.name, time.time()
    lines = {"answers.jsonl": done.answer_lines(model, when), "judgments.jsonl": done.judgment_lines(model, when)}
    return _Answered(done.result, lines)


def _identity(candidates: Candidates, suite: Suite, task: Task, heldout: Heldout | None) -> dict[str, Any]:
    """Return what a result is the fingerprint of: the model, the task, and the bytes of what it reads here."""
    asked = task.model_dump(mode="json")
    for key, where in _WHERE_ONLY.items():
        if isinstance(asked.get(key), dict):
            asked[key] = {name: value for name, value in asked[key].items() if name not in where}
    engine = task.engine if isinstance(task, Answering) else "trainer"
    quantise = task.quantise if isinstance(task, Perplexity) else None
    return {
        "kind": "scores",
        "version": 1,
        "model": candidates.identity(engine, quantise),
        "task": asked,
        "files": {path: _digest(path) for path in _files(suite, task)},
        "prompts": heldout.identity(task) if heldout is not None and isinstance(task, ExactMatch) else None,
    }


def _files(suite: Suite, task: Task) -> list[str]:
    match task:
        case Harness(include=include):
            found = [include, suite.data_root]
        case MtBench(questions=Files(path=path), judge=ReplayJudge(file=file)):
            found = [path, file]
        case MtBench(questions=Files(path=path)) | EqBench(questions=Files(path=path)):
            found = [path]
        case TextOverlap(rows=Rows(path=path)) | Perplexity(rows=Rows(path=path)):
            found = [path]
        case Preference(data=data):
            found = [data.path] if isinstance(data.path, str) else list(data.path or ())
        case _:
            found = []
    return [path for path in found if path is not None]


@functools.cache
def _digest(path: str) -> str:
    # A path that is no file here, such as a glob, is told by whoever reads it.
    return digest_tree(Path(path)) if Path(path).exists() else ""


def _is_whole(result: TaskResult) -> bool:
    """Whether asking again could not give more: no request to a judge failed."""
    return not any(problem.startswith(FAILED) for problem in result.problems)


def _keep(bench: Bench, identity: dict[str, Any], answered: _Answered, seconds: float) -> Path:
    """Write a result, and return its folder.

    One that is not whole stands under a name of its own, where the next run does not look for it.
    """
    result, fp = answered.result, fingerprint(identity)
    folder = bench.layout.result(fp if _is_whole(result) else f"{fp}-{uuid.uuid4().hex[:8]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = now()
    with folder_aside(folder) as aside:
        write_result(aside, result)
        for name, lines in answered.lines.items():
            write_text(aside / name, "".join(f"{line}\n" for line in lines))
        counts = {"items": len(result.items), "problems": sum(result.problems.values())}
        write_record(aside, Record("scores", fp, identity, counts, started, round(seconds, 3)))
    return folder
