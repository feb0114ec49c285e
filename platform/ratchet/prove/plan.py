"""Prove a plan: the first updates of each stage by its workers, by the plain trainer, and both beside each other.

Read `prove_plan` first. Pairs, tokens and scores are those that `ratchet run` makes, and it finds them again. What the
workers write lies in `<storage>/proofs/<plan>` and goes at the end; the run's own folder is read, and not written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.losses.preference import loss_of
from ratchet.pairs.chat import chat_template_of
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, PlannedStep, Step, final_model, step_identity, steps_of
from ratchet.pipeline.order import decide_order
from ratchet.pipeline.pins import pinned_before
from ratchet.pipeline.prepare import base_model, check_external_models, prepare_sources, reference_model
from ratchet.pipeline.reference_passes import foreign_engine
from ratchet.pipeline.session import native_noise_to, ray_session
from ratchet.pipeline.step_inputs import Contents
from ratchet.pipeline.steps import finished_model
from ratchet.pipeline.stop import Stop, stoppable
from ratchet.pipeline.training import ready
from ratchet.plan.references import stage_order, start_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs, stage_kind, trains
from ratchet.plan.training import Checkpoint, Lora, TrainingStage
from ratchet.prove.case import ProvedStep, read_token_pairs, read_trace, recipe_of, shift_of
from ratchet.prove.compare import Number, compare_traces, numbers_table
from ratchet.prove.models import check_memory
from ratchet.prove.oracle import PLAIN_LOSSES
from ratchet.prove.recording import recording
from ratchet.reference.store import read_logps, write_block
from ratchet.store.files import storage_errors, write_json
from ratchet.store.layout import Layout, layout_at
from ratchet.store.made import hold
from ratchet.track.progress import Console
from ratchet.train.data import open_rows
from ratchet.train.launch import first_updates
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import ray_worker

NAME = "prove.json"
UPDATES = 3
_NEVER = 10**9
_MOVED = "{} starts on its kink, where rounding decides: here the reference of each answer is moved by one nat"


@dataclasses.dataclass(frozen=True)
class Proof:
    """`numbers` in the order in which they came about; `unproved` and `notes` are lines, by step."""

    numbers: tuple[Number, ...]
    unproved: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    path: Path

    @property
    def outside(self) -> list[Number]:
        return [number for number in self.numbers if not number.ok]


def prove_plan(plan: Plan, updates: int = UPDATES) -> Proof:
    """Return the numbers of the first `updates` of each stage beside the plain ones, and write them down.

    A stage whose start is not made yet is proved from the plan's base in its stead. Raises what `run_plan` may, and
    ModelError where the plain trainer does not fit into this machine's memory.
    """
    numbers: list[Number] = []
    unproved: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    run = _open(plan)
    with (
        hold(run.folder, run.console.say) as lease,
        native_noise_to(run.folder / "native.log"),
        ray_session(plan.cluster),
        stoppable(run.stop),
        _scratch(run.folder / "steps"),
    ):
        run.lease = lease
        _prepare(run)
        for name in stage_order(plan):
            stage = plan.stages[name]
            if not trains(stage):
                unproved.append((name, "a merge trains nothing"))
                continue
            step, later, stands_in = _first_step(run, name)
            if (why := why_not(plan, stage)) is not None:
                unproved.append((step.name, why))
            else:
                notes += [(step.name, f"the plan's base stands in for {other}") for other in stands_in]
                found, moved = _prove(run, step, stage, updates)
                numbers += found
                notes += [(step.name, _MOVED.format(step.kind))] * moved
            unproved += unproved_steps(later)
            if not stands_in:
                _find_made(run, name)
    proof = Proof(tuple(numbers), tuple(unproved), tuple(notes), run.folder / NAME)
    write_json(proof.path, to_dict(proof))
    return proof


def to_dict(proof: Proof) -> dict[str, Any]:
    """Return a proof as JSON types."""
    return {
        "ok": not proof.outside,
        "numbers": [dataclasses.asdict(number) | {"ok": number.ok} for number in proof.numbers],
        "unproved": [{"step": step, "why": why} for step, why in proof.unproved],
        "notes": [{"step": step, "note": note} for step, note in proof.notes],
    }


def unproved_steps(later: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the steps of a stepwise stage after its first, each with the reason why it is not proved."""
    return [
        (one.name, f"the first step of {one.stage} is proved; this one begins with what it trains") for one in later
    ]


def why_not(plan: Plan, stage: TrainingStage) -> str | None:
    """Return what in a stage cannot be proved, by its key, or None."""
    lora = stage.lora
    if reads_pairs(stage) and stage.kind not in PLAIN_LOSSES:
        return f"kind {stage.kind}: the plain trainer states no loss of another package"
    if plan.model.dtype == "float16":
        return "model.dtype float16: its loss scale is found by trying, and skips updates"
    if plan.model.trust_remote_code:
        return "model.trust_remote_code: the plain trainer runs no code that comes with a model"
    if stage.router_loss != "off":
        return f"router_loss {stage.router_loss}: the plain trainer states no loss of routers"
    return None if lora is None else _why_not_adapters(lora)


def _why_not_adapters(lora: Lora) -> str | None:
    if lora.quantise is not None:
        return f"lora.quantise {lora.quantise}: quantised weights have no float64"
    if lora.dropout:
        return f"lora.dropout {lora.dropout:g}: what it drops is drawn at random (prove the stage with dropout 0)"
    return None


def _open(plan: Plan) -> Run:
    console = Console()
    layout = layout_at(plan.cluster.storage)
    plan, layout = pinned_before(plan, layout), layout.proofs  # of the data and models that a run of it reads
    run = Run(plan, layout, console, False, chat_template_of(plan.model), None, Stop(console.say))
    run.foreign = foreign_engine(run)
    return run


def _prepare(run: Run) -> None:
    """Read the sources and find the plan's models."""
    # First, so that a model that cannot be used is an error before any file is read.
    if run.plan.model.scratch is None:
        run.models[BASE] = base_model(run)
    prepare_sources(run)
    # After the sources, since its tokenizer is made from their rows.
    if run.plan.model.scratch is not None:
        run.models[BASE] = base_model(run)
    check_external_models(run)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Keep what the workers write only as long as it is read."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_step(run: Run, name: str) -> tuple[Step, list[Step], list[str]]:
    """Return the first step of a stage, its later ones, and the models that are not made yet, for which the base
    stands in.
    """
    stands_in = []

    def found(model: str) -> None:
        if model not in run.models:
            run.models[model] = run.models[BASE]
            stands_in.append(model)

    found(final_model(run.plan, start_of(run.plan, name)))
    run.orders[name] = decide_order(run, name)
    step, *later = steps_of(run.plan, name, run.orders[name].chunks)
    if isinstance(step.reference, str):
        found(step.reference)
    return step, later, stands_in


def _find_made(run: Run, name: str) -> None:
    """Find the models of a stage's steps that the run itself has made."""
    made = dataclasses.replace(run, layout=Layout(run.layout.root))
    names = Contents(made)
    for step in steps_of(run.plan, name, run.orders[name].chunks):
        identity = step_identity(run.plan, step, names) if names.knows(step) else None
        if (model := finished_model(made, PlannedStep(step, identity))) is None:
            return
        run.models[step.name] = model


def _prove(run: Run, step: Step, stage: TrainingStage, updates: int) -> tuple[list[Number], bool]:
    """Return the numbers of a step, and whether its reference was moved."""
    clock = time.monotonic()
    folder = run.layout.step(run.plan.name, step.name)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    carries = run.models[step.start].masters is not None and run.models[step.start].masters_file.exists()
    spec, _, _ = ready(run, step, stage, "prove", carries=carries)
    table = open_rows(spec)
    whole = stage.epochs * -(-len(table) // stage.batch)
    steps = whole if stage.max_steps is None else min(whole, stage.max_steps)
    count = min(updates, steps)
    start, reference = run.models[step.start], None if step.reference is None else reference_model(run, step)
    case = ProvedStep(
        name=step.name,
        recipe=recipe_of(step.kind, stage, steps),
        model=start.folder,
        dtype=start.dtype,
        reference=reference.folder if reference else None,
        reference_dtype=reference.dtype if reference else start.dtype,
        rows=len(table),
        batch=stage.batch,
        float32_sums=stage.gradients == "float32",
        masters=start.masters_file if carries else None,
    )
    run.console.step(step.name, f"plain float64 for {count} updates of {stage.batch} pairs: {check_memory(case)}")
    moved = stage_kind(step.kind).reads_pairs and loss_of(step.kind).kink and spec.starts_at_reference
    spec = _alone(spec, move_reference(spec, table) if moved else None)
    first_updates(
        spec,
        _worker(count),
        cpus_per_worker=run.plan.cluster.cpus_per_worker,
        gpus_per_worker=run.plan.cluster.gpus_per_worker,
        stop=run.stop.why,
        say=run.console.say,
    )
    trace = read_trace(Path(spec.folder), count)
    ids = [[table.pair_id(row) for row in rows] for rows in trace.rows]
    pairs = read_token_pairs(
        [Path(path) for path in spec.tokens], [one for update in ids for one in update], moved=moved
    )
    (numbers,) = compare_traces(case, pairs, ids, [trace])
    run.console.done(step.name, {"numbers": len(numbers)}, time.monotonic() - clock)
    return numbers, moved


def _alone(spec: TrainSpec, references: str | None) -> TrainSpec:
    """Return the spec of a step that leaves nothing behind: no checkpoint on its way, no held-out loss, no tracker."""
    changed: dict[str, Any] = {} if references is None else {"references": (references,), "starts_at_reference": False}
    stage = spec.stage.model_copy(update={"checkpoint": Checkpoint(every=_NEVER, keep=1)})
    changed |= {"stage": stage, "keep_masters": False, "track": {}}
    return dataclasses.replace(spec, heldout_tokens=(), heldout_references=(), **changed)


def move_reference(spec: TrainSpec, table: Any) -> str:
    """Write a step's reference, each number moved off the kink of its loss, into its folder; return where it lies."""
    ids = table.pair_ids()
    found = read_logps([Path(folder) for folder in spec.references], ids)
    names = [str(one) for one in ids.to_pylist()]
    by_N2 = np.array([shift_of(one) for one in names]).reshape(-1, 2)
    folder = Path(spec.folder) / "moved"
    moved = dataclasses.replace(found, chosen=found.chosen + by_N2[:, 0], rejected=found.rejected + by_N2[:, 1])
    with storage_errors(folder):
        folder.mkdir()
    write_block(folder, 0, names, moved)
    return str(folder)


def _worker(updates: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def worker(config: Mapping[str, Any]) -> dict[str, Any]:
        return ray_worker(config, lambda make: recording(make, updates))

    return worker


def proof_lines(proof: Proof) -> list[str]:
    """Return the table, and below it what was not proved, notes, and the verdict."""
    said = numbers_table(proof.numbers)
    said += ["", *(f"not proved: {step}: {why}" for step, why in proof.unproved)] if proof.unproved else []
    said += ["", *(f"{step}: {note}" for step, note in proof.notes)] if proof.notes else []
    outside = len(proof.outside)
    verdict = f"{outside} outside" if outside else "all within what the precision allows"
    return [*said, "", f"{len(proof.numbers)} numbers, {verdict}: {proof.path}"]
