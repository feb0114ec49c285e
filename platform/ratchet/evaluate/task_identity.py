"""What a task reads beside the model: by content, so that a kept result is never of other questions.

Read before anything is asked, which also tells first what is missing.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any, assert_never

from ratchet.evaluate.engines.kinds import engine_label
from ratchet.evaluate.eq_bench.files import read_questions
from ratchet.evaluate.exact_match import Heldout, of_a_plan
from ratchet.evaluate.harness.definitions import Loaded
from ratchet.evaluate.mt_bench.files import read_set
from ratchet.evaluate.task_files import read_rows
from ratchet.model.digest import digest_tokenizer
from ratchet.model.load import resolve
from ratchet.pairs.chat import chat_template_of, handed_of
from ratchet.pairs.flow import pairs_identity
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.plan.judge import EndpointJudge, Judge, ModelJudge, ReplayJudge
from ratchet.plan.model import ModelSpec
from ratchet.plan.suite import EqBench, ExactMatch, Harness, MtBench, Perplexity, Preference, Task, TextOverlap
from ratchet.reference.models import model_of
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_file

VERSION = 4
"""Rises when a task's numbers change for the same questions and answers."""
_LIBRARIES = {"harness": ("lm_eval",), "text_overlap": ("sacrebleu", "rouge_score")}
_WHERE_ONLY = {"concurrency", "timeout_seconds", "max_attempts", "budget", "key_variable", "allow_private"}
"""Keys of a judge that say how it is asked, not who it is."""
_PLACES = {"path", "file", "questions", "rows", "data", "judge", "reference", "include", "source"}
"""Keys of a task that say where things are; `read` says what they are."""


def identity_of(task: Task, loaded: Loaded | None, heldout: Heldout | None, *, gpu: bool) -> dict[str, Any]:
    """Return what decides a task's numbers beside the model: its settings, what it reads, and the code.

    `loaded` is a harness task's; `gpu` whether a judge of one's own runs on one. Raises DataError, ModelError,
    PlanError where something cannot be read.
    """
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES.get(task.kind, ())}
    said = task.model_dump(mode="json")
    # `rows` names texts in one kind of task, and counts prompts in another: a number is no place.
    settings = {key: value for key, value in said.items() if key not in _PLACES or isinstance(value, int)}
    return {
        "version": VERSION,
        "task": settings,
        "libraries": libraries,
        "read": _read(task, loaded, heldout),
        "judge": _judge(task.judge, gpu=gpu) if isinstance(task, MtBench) else None,
    }


def _read(task: Task, loaded: Loaded | None, heldout: Heldout | None) -> Any:
    """Return the content of what a task reads. A kind without a case here is an error: its results would be taken for
    those of other questions.
    """
    read: Any
    match task:
        case Harness():
            if loaded is None:
                raise ValueError("a task of lm-eval is known by its data, which must be loaded first")
            read = {"contents": dict(loaded.contents), "include": loaded.include}
        case MtBench():
            read = dict(read_set(task.questions, task.references).settings)
        case EqBench():
            asked = read_questions(task.questions, task.version, revision=task.revision)
            read = {"label": asked.label, "questions": [dataclasses.asdict(one) for one in asked.questions]}
        case TextOverlap():
            read = read_rows(task.rows, (task.question, task.answer), task.max_rows)[1]
        case Perplexity():
            read = read_rows(task.rows, (task.column,), task.max_rows, blank=True)[1]
        case Preference():
            read = {"pairs": pairs_identity(task.data, None), "reference": _model(task.reference)}
        case ExactMatch():
            read = {"source": task.source, "prompts": of_a_plan(heldout).identity(task)}
        case _:
            assert_never(task)
    return read


def _judge(judge: Judge | None, *, gpu: bool) -> Any:
    match judge:
        case EndpointJudge():
            return judge.model_dump(mode="json", exclude=_WHERE_ONLY)
        case ModelJudge():
            engine = engine_label(judge.engine, gpu=gpu)
            return {"engine": engine, "name": judge.model.name or judge.model.path, "model": _model(judge.model)}
        case ReplayJudge():
            return {"judge": judge.judge, "recording": digest_file(at_home(judge.file))}
        case None:
            return None
    assert_never(judge)


def _model(spec: ModelSpec | None) -> Mapping[str, Any] | None:
    if spec is None:
        return None
    folder = resolve(spec)
    tokenizer = load_tokenizer(folder, chat_template_of(spec))
    return {
        "weights": model_of("read", spec, folder).identity,
        "tokenizer": digest_tokenizer(folder),
        "chat_template": tokenizer.chat_template,
        **handed_of(tokenizer),
        "dtype": spec.dtype,
    }
