"""Which scores a model owes the run, made in one pass as soon as the model is there, and which engine may make them.

A model is scored on every held-out set, on a fixed sample of every source, and on all pairs that it is the reference
of. The samples are for γ, which compares training data with data never seen. The engine that the plan asks for scores a
reference once its scores agree with the trainer's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ratchet.errors import DataError, ModelError, TrainingError
from ratchet.evaluate.engines.kinds import need_vllm
from ratchet.pairs.table import TokenTable, open_table
from ratchet.pipeline.context import Gate, Run, Tokens
from ratchet.pipeline.graph import (
    BASE,
    Step,
    all_steps,
    final_model,
    needs_difficulty,
    options,
    preference_sources,
    quantised,
    reference_reads,
)
from ratchet.pipeline.prepare import stage_tokens, tokens_of
from ratchet.plan.references import start_of
from ratchet.plan.stage_kinds import reads_pairs, reads_reference, trains
from ratchet.plan.training import TrainingStage
from ratchet.reference.calibrate import calibrate
from ratchet.reference.models import TRAINER, EngineChoice, Model, Passes, ScoreJob, Scores
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.reference.store import Logps, holds, ids_of, job_size, joined, read_job, read_logps, sample_rows
from ratchet.serving import vllm
from ratchet.store.record import finished_record
from ratchet.track.progress import counted
from ratchet.train.spec import Owed

GAMMA_SAMPLE = 256
"""Pairs of each source on which γ is measured for every model."""


def evaluation_tokens(run: Run) -> list[Tokens]:
    """Return the tokens on which all models are compared: each source under the longest length policy."""
    stages = [stage for stage in run.plan.stages.values() if reads_pairs(stage)]
    if not stages:
        return []
    # The widest leaves the fewest pairs out, and all models are compared on the same ones.
    widest = max(stages, key=lambda stage: stage.max_length)
    return [tokens_of(run, name, widest.max_length, widest.overlong) for name in preference_sources(run.plan)]


def train_job(tokens: Tokens, rows: Sequence[int] | None = None) -> ScoreJob:
    """Return the job of scoring a source's pairs to train on, all of them or those at `rows`."""
    return ScoreJob(tokens.fingerprint, tokens.folder, "train", None if rows is None else tuple(rows))


def heldout_job(tokens: Tokens) -> ScoreJob:
    """Return the job of scoring a source's held-out pairs."""
    return ScoreJob(tokens.fingerprint, tokens.folder, "heldout")


def gamma_job(tokens: Tokens) -> ScoreJob:
    """Return the job of scoring the fixed sample of a source's pairs to train on."""
    return sample_job(tokens, GAMMA_SAMPLE)


def sample_job(tokens: Tokens, size: int) -> ScoreJob:
    """Return the job of scoring a fixed sample of a source's pairs to train on."""
    return train_job(tokens, sample_rows(finished_record(tokens.folder).counts["train"], size))


def stage_table(run: Run, stage: TrainingStage) -> TokenTable:
    """Return the table of all pairs of a stage: its sources' shares."""
    tokens = stage_tokens(run, stage)
    shares = stage.shares_of(pairs_to_train(tokens))
    return open_table(
        [one.folder / "train.arrow" for one in tokens.values()], [shares[name] for name in tokens], stage.seed
    )


def pairs_to_train(tokens: Mapping[str, Tokens]) -> dict[str, int]:
    """Return how many pairs to train on each source has, by the records of its tokens."""
    return {name: finished_record(one.folder).counts["train"] for name, one in tokens.items()}


def step_jobs(run: Run, step: Step, stage: TrainingStage) -> list[ScoreJob]:
    """Return what a step's reference is asked for: the pairs of its chunk, and the held-out ones."""
    tokens, picked = stage_tokens(run, stage), dict[str, list[int]]()
    if (rows := run.rows_of(step)) is not None:
        table, part = stage_table(run, stage), np.asarray(rows)
        files, lines = table.file_of_N[part], table.row_of_N[part]
        # In rising order, as the rows are a part of what scores are known by: the same rows are then the same scores.
        # Copies of a pair have one score.
        picked = {source: np.unique(lines[files == file]).tolist() for file, source in enumerate(tokens)}
    return [
        heldout_job(tokens[source]) if split == "heldout" else train_job(tokens[source], picked.get(source))
        for source, split in reference_reads(step)
    ]


def reference_jobs(run: Run, name: str) -> Iterator[tuple[str, ScoreJob]]:
    """Yield the stages and jobs for which the model `name` is scored, but for those of one step alone.

    It is the reference of steps, or decides the order of a stage's chunks. A cut chunk whose rows are not decided yet
    is scored with its step, and so is a reference that is held as its training holds it.
    """
    plan = run.plan
    undecided = [one for one, stage in plan.stages.items() if needs_difficulty(stage) and one not in run.orders]
    for one in undecided:
        stage = plan.stages[one]
        if trains(stage) and final_model(plan, start_of(plan, one)) == name:
            yield from ((one, train_job(tokens)) for tokens in stage_tokens(run, stage).values())
    for step in all_steps(plan, {stage: order.chunks for stage, order in run.orders.items()}):
        known = step.chunk.parts == 1 or run.rows_of(step) is not None
        if not known or quantised(step) is not None or step.stage in undecided:
            continue
        if step.reference == name and trains(step.settings):
            yield from ((step.stage, job) for job in step_jobs(run, step, step.settings))


def owed_by(run: Run, name: str) -> Owed | None:
    """Return what the model `name`, which is not made yet, will be scored on by the trainer's engine once it is.

    None where the plan lets another engine score references: it makes the pass, and the comparison before it.
    """
    if run.foreign is not None:
        return None
    wanted = [job for _, job in reference_jobs(run, name)] + evaluation_jobs(run)
    jobs = tuple(dict.fromkeys(job for job in wanted if job_size(job)))
    code = run.models[BASE].code
    return Owed(run.layout, jobs, passes_of(run), run.plan.cluster.score_actors, None if code is None else code.digest)


def passes_of(run: Run) -> Passes:
    """Return how a scoring process lays out pairs."""
    budget = run.plan.cluster.token_budget
    return Passes(budget if isinstance(budget, int) else None, run.plan.cluster.sharing)


def ensure_scores(
    run: Run, model: Model, jobs: Iterable[ScoreJob], engine: EngineChoice = TRAINER, quantise: str | None = None
) -> dict[ScoreJob, Scores]:
    """Score `jobs` under `model` where the store does not hold them yet. Raises DataError, ModelError."""
    # A job without pairs gets no scores, so callers look whether theirs is in the answer.
    wanted = list(dict.fromkeys(job for job in jobs if job_size(job)))
    return dict(zip(wanted, score_together(run, [(model, job) for job in wanted], engine, quantise), strict=True))


def score_together(
    run: Run, work: Sequence[tuple[Model, ScoreJob]], engine: EngineChoice = TRAINER, quantise: str | None = None
) -> list[Scores]:
    """Score each job under its model, all in one pass of one pool. Raises DataError, ModelError."""
    cluster = run.plan.cluster
    started = time.monotonic()
    name = f"score {', '.join(dict.fromkeys(model.name for model, _ in work))}"
    with counted(name, "pairs", run.console) as show:
        scored = score_jobs(
            [(model.scoring(engine, quantise), job) for model, job in work],
            run.layout,
            Pool(cluster.score_actors, cluster.gpus_per_worker, passes_of(run)),
            engine,
            on_pairs=show,
            wait=run.wait,
        )
    run.scored.update(one.folder for one in scored)
    fresh = sum(one.pairs for one in scored if not one.reused)
    run.scored_now.update(one.fingerprint for one in scored if not one.reused)
    if fresh:
        found = sum(one.pairs for one in scored if one.reused)
        facts = {"by": engine.label} if engine.foreign else {}
        run.console.done(
            name, {**facts, "pairs scored": fresh, "found in the store": found}, time.monotonic() - started
        )
    return scored


def evaluation_jobs(run: Run) -> list[ScoreJob]:
    """Return the jobs that every model of the run goes through."""
    return [job for tokens in evaluation_tokens(run) for job in (heldout_job(tokens), gamma_job(tokens))]


def foreign_engine(run: Run) -> EngineChoice | None:
    """Return the engine beside the trainer's that the plan asks for, if there is one.

    In one process `auto` is the trainer's. Raises PlanError where it asks for vLLM and none is installed.
    """
    asked = run.plan.reference
    if asked.engine == "trainer" or run.here:
        return None
    version = vllm.version() if asked.engine == "auto" else need_vllm("reference.engine")
    return EngineChoice("vllm", version, asked.quantisation, run.plan.cluster.tensor_parallel) if version else None


def gate_of(run: Run, stage_name: str, model: Model, quantise: str | None = None) -> Gate:
    """Return which engine scores `model` as the reference of a stage, compared once a run.

    Both engines score a fixed sample of each source; what the differences do to the stage's loss
    decides. Raises TrainingError with the figures where that is too much and the plan does not say
    otherwise; what scoring raises.
    """
    if run.foreign is None or not reads_reference(run.plan.stages[stage_name]):
        return Gate(TRAINER, None)  # a loss without a reference says of no engine how far it may be off
    if quantise is not None:
        said = f"the reference of {stage_name} is held in {quantise} as its training holds it: the trainer scores it"
        run.warnings += [said] if said not in run.warnings else []
        return Gate(TRAINER, None)
    # By stage too, since its loss and options decide how much a difference matters.
    key = (stage_name, model.identity, model.dtype)
    if key not in run.gates:
        stage = run.plan.stages[stage_name]
        assert trains(stage)  # noqa: S101  a merge has no reference
        run.gates[key] = _compare(run, stage_name, stage, model, run.foreign)
    return run.gates[key]


def confirm(run: Run, name: str, stage: TrainingStage, model: Model, scored: Mapping[ScoreJob, Scores]) -> None:
    """Compare what a pass of another engine really wrote with the trainer's scores of the sample, as `gate_of` does.

    Nothing is computed. An engine may go wrong after the gate: weights change in place, or another machine scores. That
    is found before a step is trained on its numbers. Raises TrainingError.
    """
    jobs = [sample_job(tokens, run.plan.reference.sample) for tokens in stage_tokens(run, stage).values()]
    own = ensure_scores(run, model, jobs)
    ids = [pair_id for job in own for pair_id in ids_of(job)]
    train = {job: one for job, one in scored.items() if job.split == "train"}
    inside = np.flatnonzero(np.any([holds(job, ids) for job in train], axis=0))
    if not len(inside):  # a chunk of the stage that holds none of the sample
        return
    picked = [ids[place] for place in inside]
    written = read_logps([one.folder for one in train.values()], picked)
    found = calibrate(stage.kind, options(stage), picked, _all(own).at(inside), written)
    if not found.passed:
        raise TrainingError(
            f"the scores of {model.name} that were written are not those that were compared before: {found.figures()}",
            where=", ".join(str(one.folder) for one in train.values()),
            fix="delete these folders, and run again with reference.engine: trainer",
        )


def _compare(run: Run, name: str, stage: TrainingStage, model: Model, foreign: EngineChoice) -> Gate:
    asked, started = run.plan.reference, time.monotonic()
    jobs = [sample_job(tokens, asked.sample) for tokens in stage_tokens(run, stage).values()]
    try:
        theirs = ensure_scores(run, model, jobs, foreign)
    except (ModelError, DataError) as error:
        # An engine that the plan names must do it; `auto` takes the trainer's where the other one cannot.
        if asked.engine != "auto":
            raise
        run.warnings.append(f"the reference of {name} is scored by the trainer: {error.what}")
        return Gate(TRAINER, None)
    mine = ensure_scores(run, model, jobs)
    ids = [pair_id for job in mine for pair_id in ids_of(job)]
    found = calibrate(stage.kind, options(stage), ids, _all(mine), _all(theirs))
    facts = {"with": foreign.label, "shift": f"{found.shift:.2g}", "borne": found.bound}
    run.console.done(f"compare {name}", facts, time.monotonic() - started)
    if found.passed:
        return Gate(foreign, found)
    said = f"{foreign.label} scores {model.name} too differently for {stage.kind}: {found.figures()}"
    if asked.engine == "auto" or asked.otherwise == "rescore":
        run.warnings.append(f"{said}; the trainer scores it")
        return Gate(TRAINER, found)
    raise TrainingError(
        said,
        where=f"stages.{name}",
        fix="set reference.otherwise to rescore, reference.engine to trainer, or model.dtype to float32",
    )


def _all(scored: Mapping[ScoreJob, Scores]) -> Logps:
    return joined([read_job(job, one) for job, one in scored.items()])
