"""Train one step: score its reference, give the workers what they need, gather the results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ratchet.documents.passport import amount_of
from ratchet.errors import RunError
from ratchet.model.passport import passport_of
from ratchet.pairs.chat import handed_of
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.context import Gate, Run, Tokens
from ratchet.pipeline.graph import BASE, Step, options, quantised
from ratchet.pipeline.prepare import reference_model, stage_tokens
from ratchet.pipeline.reference_passes import confirm, ensure_scores, gate_of, owed_by, pairs_to_train, step_jobs
from ratchet.pipeline.sizes import chunk_shares
from ratchet.pipeline.step_folder import REFERENCE, ROWS
from ratchet.pipeline.step_inputs import leaves
from ratchet.plan.stage_kinds import release_of
from ratchet.plan.training import TrainingStage
from ratchet.reference.models import Scores
from ratchet.store.files import read_sealed, storage_errors, write_sealed
from ratchet.store.fingerprint import digest_file
from ratchet.store.machine import begin_work
from ratchet.store.record import finished_record
from ratchet.track.progress import follow_training
from ratchet.train.spec import TrainSpec

if TYPE_CHECKING:
    from ratchet.train.launch import TrainResult

SLOTS = "slots"
"""The file of a trial that names its training workers' placement group."""


def training_of(run: Run) -> Callable[[TrainSpec], TrainResult]:
    """Return what trains a step: workers on the Ray, or this process."""
    begin_work()
    # Here, as torch takes seconds to load, and a run whose steps are there needs none.
    if run.here:
        from ratchet.train.here import train_here

        return functools.partial(train_here, stop=run.stop.why, say=run.console.say)
    from ratchet.train.launch import train

    cluster = run.plan.cluster
    return functools.partial(
        train,
        cpus_per_worker=cluster.cpus_per_worker,
        gpus_per_worker=cluster.gpus_per_worker,
        max_restarts=cluster.max_restarts,
        slots=run.folder / SLOTS if run.trial else None,
        stop=run.stop.why,
        say=run.console.say,
    )


@contextlib.contextmanager
def followed(run: Run, spec: TrainSpec) -> Iterator[None]:
    """Show how training goes on meanwhile, and let it come to a checkpoint where the run is asked to stop."""
    from ratchet.train.data import count_steps

    metrics = Path(spec.folder) / "metrics.jsonl"
    with follow_training(metrics, spec.step, count_steps(spec), run.console), run.stop.patiently():
        yield


def training_facts(run: Run, result: TrainResult, gate: Gate | None, scored: Sequence[Scores]) -> dict[str, Any]:
    """Return what the record of a trained step says of its training and its reference."""
    fresh = {one.fingerprint for one in scored} & run.scored_now  # the first step that needs a pass bears its cost
    run.scored_now -= fresh
    reference = {
        "seconds": round(sum(one.seconds for one in scored), 3),
        # Of one pass, unless parts of it were scored before.
        "start_seconds": max((one.start_seconds or 0.0 for one in scored), default=0.0),
        "pairs": sum(one.pairs for one in scored),
        "reused": not fresh,
        "in_training": bool(scored) and all(one.in_training for one in scored),
        "records": [str(one.folder) for one in scored],
        "engine": gate.engine.label if gate else None,
        "calibration": gate.calibration.to_dict() if gate and gate.calibration else None,
    }
    return {
        "training": result.to_dict(),
        "reference": reference if scored else None,
        "workers": result.workers,
    }


def tell_of_scores(run: Run, step: Step, result: TrainResult) -> None:
    """Say what the workers of a step scored with its model, or why a pass of its own must do it."""
    if result.scored is None:
        return
    run.scored_now.update(result.scored["fingerprints"])
    if why := result.scored["why_not"]:
        run.console.say(f"{f'score {step.name}':<20} is a pass of its own: {why}")
    elif result.scored["pairs"]:
        facts = {"with": "the model in memory", "pairs scored": result.scored["pairs"]}
        run.console.done(f"score {step.name}", facts, result.seconds["scoring"])


def ready(
    run: Run, step: Step, stage: TrainingStage, run_id: str, *, carries: bool
) -> tuple[TrainSpec, Gate | None, list[Scores]]:
    """Return what the workers of a step need, its reference scored, and by whom. Raises what scoring raises."""
    tokens = [stage_tokens(run, stage)[name] for name in step.chunk.shares]
    gate, scored = (None, []) if step.reference is None else _score_reference(run, step, stage)
    # The trainer's own scores need no room beside rounding: policy and reference are computed alike.
    noise = gate.calibration.noise if gate and gate.engine.foreign and gate.calibration else 0.0
    spec = train_spec(run, step, stage, tokens, scored, noise, run_id)
    spec = dataclasses.replace(spec, owed=owed_by(run, step.name), **_masters(run, step, carries=carries))
    return spec, gate, scored


def _score_reference(run: Run, step: Step, stage: TrainingStage) -> tuple[Gate, list[Scores]]:
    """Score the pairs of a chunk, and the held-out ones, under the step's reference, by the engine it may trust."""
    model, quantise = reference_model(run, step), quantised(step)
    gate = gate_of(run, step.stage, model, quantise)
    # Before the pass, which may take hours, and whose scores a refusal would leave unused.
    _hold_to(run, step, gate)
    scored = ensure_scores(run, model, step_jobs(run, step, stage), gate.engine, quantise)
    if gate.engine.foreign:
        confirm(run, step.stage, stage, model, scored)
    return gate, list(scored.values())


def _hold_to(run: Run, step: Step, gate: Gate) -> None:
    """Let a step that was begun go on only with the engine that it was begun with: others' numbers differ a little."""
    path = run.layout.step(run.plan.name, step.name) / REFERENCE
    before = read_sealed(path, "run with --fresh to put the step aside and make it again")
    if before is not None and before["engine"] != gate.engine.label:
        raise RunError(
            f"step {step.name} was begun with a reference scored by {before['engine']}, not by {gate.engine.label}",
            where=str(path),
            fix=f"go on with {before['engine']} (reference.engine, the installed version), or run with --fresh",
            code="run.other-plan",
        )
    write_sealed(path, {"engine": gate.engine.label})


def train_spec(
    run: Run, step: Step, stage: TrainingStage, tokens: list[Tokens], scored: list[Scores], noise: float, run_id: str
) -> TrainSpec:
    """Return what the training workers need to know, and write the rows of a cut chunk beside it."""
    cluster, start = run.plan.cluster, run.models[step.start]
    folder = run.layout.step(run.plan.name, step.name)
    rows = run.rows_of(step)
    if rows is not None:
        with storage_errors(folder):
            np.save(folder / ROWS, np.asarray(rows, dtype=np.int64))
    shares = chunk_shares(step, pairs_to_train(stage_tokens(run, stage)))
    heldout = [one for one in tokens if finished_record(one.folder).counts["heldout"]]
    references = tuple(str(one.folder) for one in scored)
    return TrainSpec(
        step=step.name,
        stage=stage,
        folder=str(folder),
        model=str(start.folder),
        tokens=tuple(str(one.folder / "train.arrow") for one in tokens),
        shares=tuple(shares.values()),
        cluster=cluster,
        options=options(stage),
        package=release_of(step.kind),
        dtype=start.dtype,
        trust_remote_code=start.trust_remote_code,
        chat_template=run.chat_template.text if run.chat_template else None,
        rows=None if rows is None else str(folder / ROWS),
        rows_sha256=None if rows is None else digest_file(folder / ROWS),
        references=references,
        heldout_tokens=tuple(str(one.folder / "heldout.arrow") for one in heldout),
        pair_files=tuple(str(run.pairs[name][1] / "train.parquet") for name in step.chunk.shares),
        heldout_references=references if heldout else (),
        starts_at_reference=step.reference == step.start,
        reference_noise=noise,
        track=_track(run, step, run_id),
        recipe=_recipe(run, step, stage, shares),
        store=run.layout,
        stop_file=str(run.trial.stop_file) if run.trial else None,
        lease=str(run.lease.folder) if run.lease else None,
        generation=run.lease.generation if run.lease else 0,
    )


def _masters(run: Run, step: Step, *, carries: bool) -> dict[str, Any]:
    """Return which masters a step starts from, and whether it leaves some. Raises RunError where they are gone."""
    start = run.models[step.start]
    if carries and not start.masters_file.exists():
        raise RunError(
            f"step {step.name} was begun with the float32 masters of {step.start}, and they are gone",
            where=str(start.masters_file),
            fix="run with --fresh to make the steps again",
            code="run.masters-gone",
        )
    found = {"masters": str(start.masters_file), "masters_digest": start.masters} if carries else {}
    return {**found, "keep_masters": leaves(run, step)}


def _recipe(run: Run, step: Step, stage: TrainingStage, shares: Mapping[str, float]) -> dict[str, str]:
    """What the model card says beside the loss and the optimiser: from what, against what, on what."""
    rows = {
        "plan": run.plan.name,
        "starts from": f"{step.start} ({run.models[step.start].weights})",
        "data": ", ".join(f"{name} × {share:g}" for name, share in shares.items()),
        "part": f"{step.chunk.part} of {step.chunk.parts}",
        "longest pair": f"{stage.max_length} tokens ({stage.overlong})",
        **_kept(run),
    }
    if handed := handed_of(load_tokenizer(run.models[BASE].folder, run.chat_template)):
        rows["chat template is handed"] = ", ".join(f"{name}: {json.dumps(value)}" for name, value in handed.items())
    if step.reference is not None:
        reference = reference_model(run, step)
        rows["reference"] = f"{reference.name} ({reference.weights})"
    return rows


def _kept(run: Run) -> dict[str, str]:
    """What of the plan's start model was not trained, if anything."""
    passport = passport_of(run.models[BASE].folder)
    rows = {"stored in": f"{passport.storage}, undone when it was loaded"} if passport.storage else {}
    for fate, said in (("kept", "as they came"), ("undone", "in this precision"), ("lost", "not published")):
        parts = [f"{part.name} ({amount_of(part.parameters)})" for part in passport.parts if part.fate == fate]
        rows |= {said: ", ".join(parts)} if parts else {}
    return rows


def _track(run: Run, step: Step, run_id: str) -> dict[str, Any]:
    wandb = run.plan.track.wandb
    if wandb is None or run.trial is not None:  # a trial is one run there, which its own process keeps
        return {}
    return {
        "wandb": wandb.model_dump(mode="json")
        | {
            "group": run.plan.name,
            "name": step.name,
            "job_type": step.kind,
            "run_id": f"{run.plan.name}-{step.name}-{run_id}",
            "folder": str(run.folder / "wandb"),
            "config": run.plan.model_dump(mode="json"),
        }
    }
