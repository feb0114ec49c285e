"""Which engine may score a stage's reference: the one that the plan asks for, once its scores agree."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ratchet.errors import DataError, ModelError, TrainingError
from ratchet.evaluate.engines.kinds import need_vllm
from ratchet.pipeline.context import Gate, Run
from ratchet.pipeline.graph import options
from ratchet.pipeline.prepare import stage_tokens
from ratchet.pipeline.reference_passes import ensure_scores, sample_job
from ratchet.plan.stage_kinds import reads_reference, trains
from ratchet.plan.training import TrainingStage
from ratchet.reference.calibrate import calibrate
from ratchet.reference.jobs import TRAINER, EngineChoice, ScoreJob, Scores
from ratchet.reference.models import Model
from ratchet.reference.store import Logps, holds, ids_of, joined, read_job, read_logps
from ratchet.serving import vllm


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
    key = (stage_name, model.identity, model.dtype)
    if key not in run.gates:
        stage = run.plan.stages[stage_name]
        assert trains(stage)  # noqa: S101  a merge has no reference
        run.gates[key] = _compare(run, stage_name, stage, model, run.foreign)
    return run.gates[key]


def confirm(run: Run, name: str, stage: TrainingStage, model: Model, scored: Mapping[ScoreJob, Scores]) -> None:
    """Compare what a pass of another engine really wrote with the trainer's scores of the sample, as `gate_of` does.

    Nothing is computed: an engine that went wrong after the gate (weights changed in place, another
    machine) is found before anything is trained on its numbers. Raises TrainingError.
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
