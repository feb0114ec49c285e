"""Run a plan: pairs, tokens, models, scores, report. Every part that is there already is kept.

Read this first: it is the order of play, and the parts are one call each.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ratchet.model.passport import passport_of
from ratchet.pairs.chat import chat_template_of
from ratchet.pairs.estimate import first_pairs
from ratchet.pipeline.answered import Question, keep_answer_of_run
from ratchet.pipeline.background_evaluation import Evaluations, write_scores
from ratchet.pipeline.changes import refuse_changed
from ratchet.pipeline.context import Run, Trial
from ratchet.pipeline.graph import (
    BASE,
    PlannedStep,
    Step,
    chunk_names,
    planned_steps,
    quantised,
    steps_of,
)
from ratchet.pipeline.heldout_scores import check_suites, evaluate_model, evaluated_models
from ratchet.pipeline.order import ensure_order
from ratchet.pipeline.pins import pin
from ratchet.pipeline.prepare import (
    base_model,
    check_external_models,
    check_merges,
    prepare_sources,
    prepare_stages,
    reference_model,
    used_sources,
)
from ratchet.pipeline.reference_passes import (
    ensure_scores,
    evaluation_jobs,
    foreign_engine,
    gate_of,
    reference_jobs,
    score_together,
    step_jobs,
)
from ratchet.pipeline.rehearse import rehearse_stages
from ratchet.pipeline.samples import all_answered, write_samples
from ratchet.pipeline.scores_document import track_scores
from ratchet.pipeline.session import native_noise_to, once_needed
from ratchet.pipeline.step_inputs import Contents
from ratchet.pipeline.steps import ensure_step, finished_model, refuse_other_start
from ratchet.pipeline.stop import Stop, stoppable
from ratchet.pipeline.summary import summarise
from ratchet.plan.load import refuse_plan_here
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.reference.models import TRAINER, EngineChoice, Model, ScoreJob
from ratchet.reference.store import job_size
from ratchet.report.answers import sample_lines
from ratchet.report.diagnoses import lines
from ratchet.report.page import write_report
from ratchet.report.tables.training import model_lines
from ratchet.store.files import open_storage, write_json, write_text
from ratchet.store.layout import layout_at
from ratchet.store.made import hold
from ratchet.track.heard import Heard
from ratchet.track.progress import Console


def run_plan(
    plan: Plan,
    text: str,
    *,
    fresh: bool = False,
    trial: Trial | None = None,
    here: bool = False,
    asked: Question | None = None,
) -> Path:
    """Run a plan to its end and return the report that it wrote. `text` is the plan as written.

    A run that was cut short goes on where it was; a sweep's `trial` has its folder among the sweep's. With `here` all
    of it happens in this process, without a Ray; what it makes and finds is the same. No Ray is started before
    something is to be made. What came of it is kept as the answer to `asked`.
    Raises RunError where another process holds the run folder, or a step there was made from
    something else and `fresh` is not given; else what its parts raise.
    """
    run, clock = _open(plan, fresh, trial, here=here), time.monotonic()
    heard, steps = Heard(run.folder, run.console.say), list[Step]()
    with hold(run.folder, run.console.say) as lease, heard.all():
        run.lease = lease
        # First of all, as it needs no model and no Ray.
        if not (fresh or trial):
            refuse_changed(run)
        _look(run)
        with (
            native_noise_to(run.folder / "native.log"),
            heard.meanwhile(),
            once_needed(plan.cluster, run.console.say, here=here),
            stoppable(run.stop),
        ):
            _prepare(run)
            if not (fresh or trial):
                refuse_other_start(run)
            heard.say(run.warnings)
            rehearse_stages(run)
            with Evaluations(run) as evaluations:
                _score(run, BASE)
                if plan.model.scratch is None:
                    evaluations.made(BASE)
                for one in _steps(run):
                    step, run.models[one.step.name] = one.step, ensure_step(run, one)
                    _score(run, step.name)
                    evaluations.made(step.name)
                    steps.append(step)
                # Only now, when all steps that the folder holds are made from it.
                write_text(run.folder / "plan.yaml", text)
                write_json(run.folder / "resolved.json", run.plan.model_dump(mode="json"))
                models = evaluated_models(run, steps)
                scored = evaluations.finish([name for name, _ in models])
            scores = [evaluate_model(run, name, step, scored[name]) for name, step in models]
            samples = write_samples(run)
        document = write_scores(run, models, scored, evaluations.suites)
        # A trial's own process sends its scores, to the one run that it has there.
        if document is not None and trial is None:
            track_scores(plan.track.wandb, plan.name, document, run.folder)
        summary = summarise(run, steps, scores, text, time.monotonic() - clock)
        told = tuple(heard.on_page(summary.warnings))
        base = passport_of(run.models[BASE].folder)
        html, report = write_report(
            run.folder, dataclasses.replace(summary, base=base, warnings=told, scores=document, samples=samples)
        )
        for line in (*lines(report.diagnoses), *sample_lines(report), *model_lines(report)):
            run.console.say(line)
        results = [one for some in scored.values() for one in some]
        # What could not be asked is asked again by the next run.
        whole = all(one.failure is None and one.result.whole for one in results)
        if asked is not None and whole and all_answered(run, samples):
            journals = {answer.record for prompt in samples for answer in prompt.answers}
            keep_answer_of_run(run, asked, {"report": str(html)}, [one.folder for one in results], sorted(journals))
    return html


def score_plan(plan: Plan, *, here: bool = False, asked: Question | None = None) -> tuple[int, list[str]]:
    """Score the reference of every step whose reference model is there, in one pass of each engine.

    Trains nothing; with `here` it is done in this process, without a Ray. Returns how many pairs have scores now, and
    the steps whose reference is not there yet, and keeps both as the answer to `asked`. Raises what `run_plan` may.
    """
    run, pairs, waiting = _open(plan, here=here), 0, []
    heard = Heard(run.folder, run.console.say)
    work: dict[tuple[EngineChoice, str | None], list[tuple[Model, ScoreJob]]] = {}
    with hold(run.folder, run.console.say), heard.all():
        _look(run)
        with (
            native_noise_to(run.folder / "native.log"),
            heard.meanwhile(),
            once_needed(plan.cluster, run.console.say, here=here),
            stoppable(run.stop),
        ):
            _prepare(run)
            heard.say(run.warnings)
            for one in _steps(run):
                step = one.step
                if isinstance(step.reference, str) and step.reference not in run.models:
                    waiting.append(step.name)
                elif step.reference is not None and trains(step.settings):
                    model, quantise = reference_model(run, step), quantised(step)
                    engine = gate_of(run, step.stage, model, quantise).engine
                    some = work.setdefault((engine, quantise), [])
                    some += [(model, job) for job in step_jobs(run, step, step.settings) if job_size(job)]
                if (made := finished_model(run, one)) is not None:
                    run.models[step.name] = made
            for (engine, quantise), some in work.items():
                pairs += sum(one.pairs for one in score_together(run, list(dict.fromkeys(some)), engine, quantise))
        keep_answer_of_run(run, asked, {"pairs": str(pairs), "waiting": " ".join(waiting)})
    return pairs, waiting


def _open(plan: Plan, fresh: bool = False, trial: Trial | None = None, *, here: bool = False) -> Run:
    if here:
        refuse_plan_here(plan)
    layout, console = layout_at(plan.cluster.storage), Console()
    if trial is not None:
        layout, console = layout.trials(trial.sweep), trial.console
    stop = Stop(console.say, trial.asked) if trial else Stop(console.say)
    open_storage(layout.root)
    run = Run(plan, layout, console, fresh, chat_template_of(plan.model), trial, stop, here=here)
    run.foreign = foreign_engine(run)
    return run


def _look(run: Run) -> None:
    """Raise where the model cannot be used, or the first rows of a file, before Ray starts, which takes its time."""
    pin(run)
    if run.plan.model.scratch is None:
        run.models[BASE] = base_model(run)
    for name in used_sources(run.plan):
        first_pairs(run.plan.data[name])


def _prepare(run: Run) -> None:
    """Read the sources and find the models that training begins with."""
    run.stop.check()
    prepare_sources(run)
    if BASE not in run.models:
        run.models[BASE] = base_model(run)
    check_merges(run)
    check_suites(run)
    check_external_models(run)
    prepare_stages(run)


def _steps(run: Run) -> Iterator[PlannedStep]:
    """Yield the steps of a plan; the order of a stage is decided once it is reached, if its start model is there."""

    def order_of(name: str) -> Sequence[str]:
        (first, *_) = steps_of(run.plan, name, chunks := chunk_names(run.plan.stages[name]))
        if first.start not in run.models:
            return chunks
        run.orders[name] = ensure_order(run, name)
        return run.orders[name].chunks

    return planned_steps(run.plan, Contents(run), order_of)


def _score(run: Run, name: str) -> None:
    """Score a model on all that the run will ask of it, in one pass of each engine."""
    model: Model = run.models[name]
    jobs = list(reference_jobs(run, name))
    # Random weights are not evaluated: without a job nobody would read their scores.
    if name == BASE and run.plan.model.scratch and not jobs:
        return
    by_engine: dict[EngineChoice, list[ScoreJob]] = {}
    for stage, job in jobs:
        by_engine.setdefault(gate_of(run, stage, model).engine, []).append(job)
    # Models are compared with one another by these, so one engine scores them all.
    by_engine.setdefault(TRAINER, []).extend(evaluation_jobs(run))
    for engine, some in by_engine.items():
        ensure_scores(run, model, some, engine)
