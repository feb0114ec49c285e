"""Which scores a model owes the run, made in one pass as soon as the model is there.

A model is scored on every held-out set, on a fixed sample of every source (for γ, where training
data is compared with data never seen), and on all pairs that it is the reference of.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import preference_sources
from ratchet.pipeline.prepare import tokens_of
from ratchet.plan.stage_kinds import reads_pairs
from ratchet.reference.jobs import TRAINER, EngineChoice, Passes, ScoreJob, Scores
from ratchet.reference.models import Model
from ratchet.reference.score import Pool, score_jobs
from ratchet.reference.store import job_size, sample_rows
from ratchet.store.record import finished_record
from ratchet.track.progress import counted

GAMMA_SAMPLE = 256
"""Pairs of each source on which γ is measured for every model."""


def evaluation_tokens(run: Run) -> list[Tokens]:
    """Return the tokens on which all models are compared: each source under the longest length policy."""
    stages = [stage for stage in run.plan.stages.values() if reads_pairs(stage)]
    if not stages:
        return []
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


def ensure_scores(
    run: Run, model: Model, jobs: Iterable[ScoreJob], engine: EngineChoice = TRAINER, quantise: str | None = None
) -> dict[ScoreJob, Scores]:
    """Score `jobs` under `model` where the store does not hold them yet. Raises DataError, ModelError."""
    wanted = list(dict.fromkeys(job for job in jobs if job_size(job)))
    return dict(zip(wanted, score_together(run, [(model, job) for job in wanted], engine, quantise), strict=True))


def score_together(
    run: Run, work: Sequence[tuple[Model, ScoreJob]], engine: EngineChoice = TRAINER, quantise: str | None = None
) -> list[Scores]:
    """Score each job under its model, all in one pass of one pool. Raises DataError, ModelError."""
    cluster = run.plan.cluster
    started = time.monotonic()
    name = f"score {', '.join(dict.fromkeys(model.name for model, _ in work))}"
    budget = cluster.token_budget if isinstance(cluster.token_budget, int) else None
    with counted(name, "pairs", run.console) as show:
        scored = score_jobs(
            [(model.scoring(engine, quantise), job) for model, job in work],
            run.layout,
            Pool(cluster.score_actors, cluster.gpus_per_worker, Passes(budget, cluster.sharing)),
            engine,
            on_pairs=show,
            wait=run.wait,
        )
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
