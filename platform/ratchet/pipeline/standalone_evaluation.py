"""Put models through a suite, outside of any plan."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import NAME, SuiteScores
from ratchet.errors import PlanError, RatchetError
from ratchet.evaluate.bench import Bench
from ratchet.evaluate.engines.kinds import engine_kind
from ratchet.evaluate.results import why_of
from ratchet.evaluate.suites import Scored, score_suite
from ratchet.model.folder import model_folder
from ratchet.pairs.chat import chat_template_of, template_identity
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.pipeline.answered import Question, evaluation_question, keep_answer
from ratchet.pipeline.scores_document import Entry, say_score, suite_scores, track_scores
from ratchet.pipeline.session import native_noise_to, once_needed
from ratchet.pipeline.stop import Stop, stoppable
from ratchet.pipeline.summary import hardware
from ratchet.plan.cluster import Cluster
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Wandb
from ratchet.plan.suite import Suite, named_judge, task_kind
from ratchet.plan.task_parts import Answering
from ratchet.reference.models import Model, model_of
from ratchet.report.page import write_report
from ratchet.store.codec import to_values
from ratchet.store.files import open_storage, write_json
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import layout_at
from ratchet.store.made import hold
from ratchet.store.record import code_commit, now, versions
from ratchet.track.heard import Heard
from ratchet.track.progress import Console


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """A model to evaluate, by the name that it has in the report."""

    name: str
    spec: ModelSpec


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The report of an evaluation, and the tasks that could not be asked."""

    report: Path
    failed: tuple[Scored, ...] = ()

    def error(self) -> RatchetError | None:
        """Return one error for all tasks that could not be asked, of the kind of the first; None where all were."""
        found = [(one, one.failure) for one in self.failed if one.failure is not None]
        if not found:
            return None
        lines = [f"tasks.{one.task} of {one.model} was not asked: {why_of(why)}" for one, why in found]
        first = found[0][1]
        return type(first)("\n".join(lines), fix=first.fix, code=first.finer)


def evaluate_models(
    asked: Sequence[EvaluationRequest],
    suite_file: Path,
    suite: Suite,
    cluster: Cluster,
    wandb: Wandb | None = None,
    *,
    here: bool = False,
    asked_as: Question | None = None,
) -> Evaluated:
    """Put models through a suite, write the report, and return where it is and what could not be asked.

    The first is the one that the others are compared with, beside the previous one of each. What a model was
    asked before is not asked again. With `here` this process asks them, without a Ray. What came of it is kept as the
    answer to `asked_as`. Raises PlanError, ModelError, DataError where nothing can be asked, EndpointError,
    ClusterError, StorageError, RunError; StoppedError where a signal asked for the end.
    """
    _check(suite_file, suite)
    clock, console = time.monotonic(), Console()
    layout = layout_at(cluster.storage, "--storage ")
    open_storage(layout.root)
    models = [model_of(one.name, one.spec, model_folder(one.spec)) for one in asked]
    folder = layout.evaluation(f"{suite_file.stem}-{_digest(asked, models, suite_file, suite)}")
    entries: list[Entry] = []
    stop, heard = Stop(console.say), Heard(folder, console.say)
    with hold(folder, console.say), heard.all():
        with (
            native_noise_to(folder / "native.log"),
            heard.meanwhile(),
            once_needed(cluster, console.say, here=here),
            stoppable(stop),
        ):
            for one, model in zip(asked, models, strict=True):
                template = chat_template_of(one.spec)
                stopped = lambda: stop.why() is not None  # noqa: E731  it is asked from the batches
                bench = Bench(layout, cluster, console, template, cluster.score_actors, stopped)
                scored = score_suite(bench, model, str(suite_file), suite, functools.partial(say_score, console))
                before = entries[-1].name if entries else None
                entries.append(Entry(one.name, model.weights, model.dtype, before, tuple(scored)))
        scores = suite_scores(entries, {str(suite_file): suite}, folder, layout.root)
        write_json(folder / NAME, to_values(scores))
        track_scores(wandb, suite_file.stem, scores, folder)
        data = _report(suite_file, scores, suite, models, time.monotonic() - clock)
        data = dataclasses.replace(data, warnings=tuple(heard.on_page(data.warnings)))
        html, _ = write_report(folder, data)
        results = [one for entry in entries for one in entry.scored]
        if asked_as is not None and all(one.failure is None and one.result.whole for one in results):
            again = evaluation_question(
                {one.name: one.spec for one in asked}, suite_file, suite, cluster, wandb, here=here
            )
            if again == asked_as:
                files = [folder / NAME, *(html.with_suffix(ending) for ending in (".html", ".json", ".md"))]
                keep_answer(layout, asked_as, {"report": str(html)}, [one.folder for one in results], files)
    return Evaluated(html, tuple(one for entry in entries for one in entry.scored if one.failure is not None))


def _digest(asked: Sequence[EvaluationRequest], models: Sequence[Model], suite_file: Path, suite: Suite) -> str:
    """Return the key of an evaluation's folder: models, templates, and the suite with its values."""
    named = [
        [model.name, model.identity, digest_tokenizer(model.folder), _rendering(one.spec, model), model.dtype]
        for one, model in zip(asked, models, strict=True)
    ]
    told = {"models": named, "file": str(suite_file), "suite": suite.model_dump(mode="json")}
    return fingerprint(told)[:8]


def _rendering(spec: ModelSpec, model: Model) -> dict[str, Any]:
    return template_identity(load_tokenizer(model.folder, chat_template_of(spec)))


def _check(suite_file: Path, suite: Suite) -> None:
    """Check that every task can be asked, before anything is loaded. Raises PlanError."""
    for name, task in suite.tasks.items():
        where = f"{suite_file}: tasks.{name}"
        kind = task_kind(task.kind)
        if kind.needs_plan:
            raise PlanError(
                "asks for prompts that a plan holds out, and there is no plan here",
                where=where,
                fix="name the suite under `evaluate` of the plan, and run that",
            )
        if kind.judged and named_judge(task) is None:
            raise PlanError(
                "has no judge",
                where=where,
                fix=f"give one: --set 'tasks.{name}.judge={{kind: …}}' (docs/evaluation.md)",
            )
        if isinstance(task, Answering):
            engine_kind(task.engine).check(f"{where}.engine")


def _report(suite_file: Path, scores: SuiteScores, suite: Suite, models: Sequence[Model], seconds: float) -> Report:
    return Report(
        plan=suite_file.stem,
        title=suite_file.stem,
        created=now(),
        ratchet=versions()["ratchet"],
        commit=code_commit(),
        versions=versions(),
        resolved=suite.model_dump(mode="json"),
        plan_text=suite_file.read_text(encoding="utf-8"),
        hardware=hardware(),
        seconds=round(seconds, 1),
        warnings=tuple(str(model.code) for model in models if model.code),
        scores=scores,
    )
