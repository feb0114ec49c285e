"""Tasks of lm-eval: it builds the requests and scores the answers, and the engine in between is ours.

    load (definitions, data) → build or find requests → all tasks' requests in one call of the engine → lm-eval scores

Requests are built here, once, for the whole of a task: a worker that built its own share would draw other examples.
Each leaf's requests are a group of their own, so its batches do not depend on what else a suite asks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate

from ratchet.errors import ModelError, PlanError, RatchetError, StorageError
from ratchet.evaluate.bench import Candidates
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.asking import Encoder, HarnessRequests, ReplayModel, encode_requests
from ratchet.evaluate.harness.definitions import Loaded, failure_of, load_definitions, quiet
from ratchet.evaluate.harness.figures import total_of, values_of
from ratchet.evaluate.harness.requests import build_rows, kept_rows, requests_key
from ratchet.evaluate.harness.scores import HarnessScored, harness_result
from ratchet.evaluate.results import TaskResult
from ratchet.evaluate.task_run import FIRST, Answered, Content, Inputs, Outcomes, Ready, TaskRun, nothing_to_check
from ratchet.pairs.chat import handed_of
from ratchet.plan.tasks import Harness
from ratchet.serving.requests import Answer
from ratchet.store.fingerprint import fingerprint


@dataclasses.dataclass(frozen=True)
class _Leaf:
    task: Any
    docs: Mapping[int, Any]
    asked: HarnessRequests
    redrawn: int


def load_task(name: str, task: Harness, data_root: Path | None, store: Path) -> Loaded:
    """Return a task of a suite with its data read.

    `data_root` is a folder with data laid out as on the hub, None for the hub itself. Below `store`
    `datasets`' copies of local data are kept. Raises PlanError, DataError.
    """
    try:
        with quiet():
            return load_definitions(task, data_root, store / "datasets")
    except PlanError as error:  # it knows the task by lm-eval's name alone
        raise PlanError(error.what, where=error.where or f"tasks.{name}", fix=error.fix, code=error.finer) from error


def run_all(
    tasks: Mapping[str, Loaded], candidate: Candidate, store: Path
) -> dict[str, tuple[TaskResult | RatchetError, float]]:
    """Score tasks of a suite for one model; the engine is asked for all of them at once.

    Returns each task's result with its share of the work, by tokens; the error of a task that cannot be asked or
    scored, which keeps no other from it. Below `store` built requests are kept, for every model that is asked the
    same. Raises StorageError, and what the engine raises.
    """
    failed: dict[str, RatchetError] = {}
    leaves: dict[tuple[str, str], _Leaf] = {}
    with quiet():
        for name, loaded in tasks.items():
            with _alone(name, failed):
                own = {(name, leaf): _leaf(loaded, leaf, candidate, store / "requests") for leaf in loaded.leaves}
                leaves |= own
        groups = {f"{name}/{leaf}": it.asked.requests for (name, leaf), it in leaves.items()}
        answers = candidate.engine.answer_groups(groups)
        results: dict[str, TaskResult] = {}
        work = dict.fromkeys(tasks, 0)
        for name, loaded in tasks.items():
            if name in failed:
                continue
            with _alone(name, failed):
                results[name] = _result(
                    name, loaded, {leaf: leaves[name, leaf] for leaf in loaded.leaves}, answers, candidate
                )
            found = [answer for leaf in loaded.leaves for answer in answers[f"{name}/{leaf}"]]
            work[name] = sum((one.prompt_tokens or 0) + (one.completion_tokens or 0) for one in found)
    whole = sum(work.values()) or 1
    return {name: (failed[name] if name in failed else results[name], work[name] / whole) for name in tasks}


@contextlib.contextmanager
def _alone(name: str, failed: dict[str, RatchetError]) -> Iterator[None]:
    """Let a task fail alone: what ends the block for a reason of the task's own is put into `failed`."""
    try:
        yield
    # No task's own fault: all others would fail of it too.
    except StorageError:
        raise
    except Exception as error:
        failed[name] = failure_of(error, name)


def _result(
    name: str, loaded: Loaded, own: Mapping[str, _Leaf], answers: Mapping[str, Sequence[Answer]], candidate: Candidate
) -> TaskResult:
    said = {leaf: it.asked.said(answers[f"{name}/{leaf}"]) for leaf, it in own.items()}
    texts = {leaf: it.asked.texts(answers[f"{name}/{leaf}"]) for leaf, it in own.items()}
    scored = _score(loaded, own, said, texts)
    return harness_result(name, scored, _settings(loaded, candidate, scored.cut))


def _leaf(loaded: Loaded, name: str, candidate: Candidate, store: Path) -> _Leaf:
    task, asked = loaded.leaves[name], loaded.asked
    special = False if asked.profile == "openllm-v1" else None
    encoder = Encoder(candidate.tokenizer, candidate.longest, special=special)
    template = encoder.apply_chat_template if asked.chat_template else None
    if template and not getattr(candidate.tokenizer, "chat_template", None):
        raise ModelError(
            "the tokenizer has no chat template",
            where=encoder.tokenizer_name,
            fix="leave chat_template out",
            code="model.no-template",
        )
    docs = list(task.eval_docs)
    made_from = {
        "lm_eval": lm_eval.__version__,
        "task": name,
        "profile": asked.profile,
        "limit": asked.limit,
        "data": loaded.contents[name],
        "include": loaded.include,
        # Of the tokenizer the template alone: kept requests are texts, which all models share.
        "template": _template(candidate.tokenizer) if template else {},
    }
    key = requests_key(task, made_from)
    path = store / f"{name}-{key}.requests"
    rows = kept_rows(path, key, docs, lambda: build_rows(task, docs, asked.profile, asked.limit, template))
    instances = [
        Instance(kind, docs[row.doc_id], tuple(arguments), index, (name, row.doc_id, row.repeats))
        for row in rows
        for index, (kind, arguments) in enumerate(row.requests)
    ]
    redrawn = sum(row.redrawn for row in rows)
    return _Leaf(task, {row.doc_id: docs[row.doc_id] for row in rows}, encode_requests(encoder, instances), redrawn)


def _template(tokenizer: Any) -> dict[str, Any]:
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return {"text": str(tokenizer.chat_template), "tokens": special, **handed_of(tokenizer)}


def _score(
    loaded: Loaded,
    leaves: Mapping[str, _Leaf],
    said: Mapping[str, Mapping[int, Any]],
    texts: Mapping[str, Mapping[int, str]],
) -> HarnessScored:
    """Let lm-eval score what was said: its task objects are given the requests that were asked.

    Its errors are left out: they are none as soon as one figure of a task has no formula.
    """
    for leaf in leaves.values():
        task, docs = leaf.task, leaf.docs
        # lm-eval builds requests and reads documents itself in `evaluate`; it must take those that were asked, as
        # building them again would draw other examples.
        task._instances = list(leaf.asked.instances)
        task.build_all_requests = lambda **_: None
        task.doc_iterator = lambda docs=docs, **_: iter(docs.items())
        own = type(task)
        task.process_results = functools.partial(values_of, own.process_results.__get__(task))
        hows = {metric: total_of(how) for metric, how in own.aggregation(task).items()}
        task.aggregation = lambda hows=hows: hows
    results = evaluate(
        lm=ReplayModel({key: answers for some in said.values() for key, answers in some.items()}),
        task_dict={"tasks": dict(loaded.leaves), "groups": dict(loaded.groups)},
        bootstrap_iters=0,  # errors are ours: lm-eval leaves all of them out where one figure has no formula
        log_samples=True,
    )
    cut = sum(leaf.asked.cut for leaf in leaves.values())
    asked = sum(len(leaf.asked.instances) for leaf in leaves.values())
    total = {name: leaf.task for name, leaf in leaves.items()}
    redrawn = {name: leaf.redrawn for name, leaf in leaves.items()}
    joined = sum(leaf.asked.joined for leaf in leaves.values())
    return HarnessScored(loaded.asked, loaded.metric, total, loaded.groups, results, texts, cut, asked, redrawn, joined)


def _settings(loaded: Loaded, candidate: Candidate, cut: int) -> dict[str, Any]:
    asked = loaded.asked
    by_subject = asked.profile == "openllm-v1" and len(loaded.leaves) > 1
    return {
        "lm_eval": lm_eval.__version__,
        "task": asked.task,
        "profile": asked.profile,
        "metric": loaded.metric,
        "shots": _same({name: task.config.num_fewshot for name, task in loaded.leaves.items()}),
        "version": _same({name: str(task.VERSION) for name, task in loaded.leaves.items()}),
        "limit": asked.limit,
        "chat_template": fingerprint(_template(candidate.tokenizer)) if asked.chat_template else "",
        "special_tokens": "none" if asked.profile == "openllm-v1" else "the tokenizer's",
        # Where nothing was cut, how long a context might have been decided nothing.
        "positions": candidate.longest if cut else None,
        "data": dict(loaded.data),
        "contents": fingerprint(dict(loaded.contents)),
        "include": loaded.include,
        "headline_mean": "groups" if by_subject else "items",
        "engine": asked.engine,
        "batch_tokens": asked.batch_tokens,
    }


def _same(of_leaves: Mapping[str, Any]) -> Any:
    """Return what all leaves have, or what each has."""
    values = set(of_leaves.values())
    return values.pop() if len(values) == 1 else dict(of_leaves)


def _read(name: str, task: Harness, inputs: Inputs) -> Content:
    loaded = load_task(name, task, inputs.data_root, inputs.store)
    return Content({"contents": dict(loaded.contents), "include": loaded.include}, loaded)


def _ask_together(candidates: Candidates, tasks: Mapping[str, Ready]) -> Outcomes:
    first = next(iter(tasks.values())).settings
    loaded = {name: ready.content.loaded for name, ready in tasks.items()}
    results = run_all(loaded, candidates.of(first), candidates.bench.layout.store)
    return {
        name: (result if isinstance(result, RatchetError) else Answered(result, {}), share)
        for name, (result, share) in results.items()
    }


TASK = TaskRun(
    reads=_read,
    check_chosen=nothing_to_check,
    turn=FIRST,
    together=lambda task: (task.engine, task.batch_tokens),
    run=_ask_together,
)
