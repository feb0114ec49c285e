"""How far a plan has come, without doing any of it: for each step, what is there and what it will take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ratchet.documents.passport import Passport
from ratchet.model.check import check_model
from ratchet.model.folder import model_folder
from ratchet.model.passport import check_trainable, passport_of
from ratchet.pairs.chat import chat_template_of
from ratchet.pairs.estimate import first_pairs
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Policy
from ratchet.pipeline.changes import changed_in_plan, is_kept
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import BASE, PlannedStep, Step, built_on, chunk_names, needs_difficulty, planned_steps
from ratchet.pipeline.order import find_order
from ratchet.pipeline.pins import pinned_before
from ratchet.pipeline.prepare import scratch_model, source_tokens, used_sources
from ratchet.pipeline.sizes import (
    Sizes,
    bytes_written,
    chunk_shares,
    names_rows,
    optimiser_steps,
    source_rows,
    source_size,
    step_rows,
    stored_parameters,
    weight_bytes,
)
from ratchet.pipeline.step_inputs import Contents
from ratchet.pipeline.steps import changes_since, known_model
from ratchet.plan.model import Scratch
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.training import TrainingStage
from ratchet.reference.models import model_of
from ratchet.store.layout import layout_at
from ratchet.store.made import survey
from ratchet.store.record import NAME, finished_record, legible_record
from ratchet.track.progress import Console
from ratchet.train.checkpoint import read_checkpoint


@dataclasses.dataclass(frozen=True)
class Size:
    """What a step takes: pairs of one epoch, tokens of all epochs, optimiser steps, bytes it will write.

    `estimated` where the sources are not read yet, so that pairs and tokens are guesses. `of_source` are the pairs of
    an epoch by source, of the whole where the step trains on a part of it.
    """

    pairs: int
    tokens: int
    steps: int
    bytes: int
    estimated: bool
    of_source: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StepState:
    """One step. `status` is done, begun, ready, waiting or changed; `why` says it in words.

    `id` is what the step is known by, or None where that depends on what is not there yet.
    """

    step: Step
    id: str | None
    status: str
    why: str
    size: Size | None


@dataclasses.dataclass(frozen=True)
class SourceState:
    """One source: read or not, and how many pairs it has (`estimated` where it is not read)."""

    name: str
    read: bool
    pairs: int
    estimated: bool


def plan_state(plan: Plan) -> tuple[list[SourceState], list[StepState]]:
    """Return the state of a plan's sources and steps. Nothing is written and no Ray is started.

    Raises DataError where a source is missing, ModelError where the start model cannot be used.
    """
    layout = layout_at(plan.cluster.storage)
    plan = pinned_before(plan, layout)
    run = Run(plan, layout, Console(), False, chat_template_of(plan.model))
    sizes = Sizes()
    sources = find_inputs(run, sizes)
    changed = changed_in_plan(run)
    return sources, [_state(run, one, sizes, changed.get(one.step.name, [])) for one in known_steps(run)]


def find_inputs(run: Run, sizes: Sizes) -> list[SourceState]:
    """Find what a run has made of its sources and its start model, and return the state of its sources."""
    sources = _find_sources(run, sizes)
    if BASE not in run.models:  # one from scratch is found by its pairs, so that they come first
        find_base(run)
    _find_tokens(run)
    return sources


def known_steps(run: Run) -> Iterator[PlannedStep]:
    """Yield the steps of a run, each with its identity as far as what was found says."""

    def order_of(stage: str) -> Sequence[str]:
        # Looked for once the stage is reached: by then it is known whether its start model is made.
        if (order := find_order(run, stage, unnamed=True)) is None:
            return chunk_names(run.plan.stages[stage])
        run.orders[stage] = order
        return order.chunks

    return planned_steps(run.plan, Contents(run), order_of)


def _find_sources(run: Run, sizes: Sizes) -> list[SourceState]:
    found = []
    for name in used_sources(run.plan):
        source = run.plan.data[name]
        fp, size = sizes.identity(run.plan, name), sizes.pairs(run.plan, name)
        if names_rows(source):
            run.pairs[name] = (fp, run.layout.pairs(fp))
        read = size.known == "before length"
        found.append(SourceState(name, read, size.train, not read))
    return found


def scratch_parameters(spec: Scratch) -> int:
    """Return the parameters of a model made from scratch, as many as its vocabulary may have."""
    head = spec.hidden_size // spec.heads
    attention = 2 * spec.hidden_size**2 + 2 * spec.hidden_size * head * spec.key_value_heads
    layer = attention + 3 * spec.hidden_size * spec.intermediate_size + 2 * spec.hidden_size
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)
    return spec.layers * layer + embeddings + spec.hidden_size


def base_passport(plan: Plan) -> Passport | None:
    """Return the passport of a plan's start model; None where that is made from scratch. Raises ModelError."""
    return passport_of(model_folder(plan.model)) if plan.model.scratch is None else None


def find_base(run: Run) -> None:
    """Find the plan's start model, as a run would; one that is to be made from scratch may not be there yet.

    Raises ModelError where it cannot be used.
    """
    spec = run.plan.model
    if spec.scratch is not None:
        model = scratch_model(run, spec.scratch)
        made = None if model is None else survey(run.layout, {BASE: model}).get(BASE)
        if made is None:
            return
        folder = made.folder
    else:
        folder = model_folder(spec)
        check_trainable(folder)
        check_model(folder, run.chat_template)
    run.models[BASE] = model_of(BASE, spec, folder)


def _find_tokens(run: Run) -> None:
    if BASE not in run.models:
        return
    wanted = {
        (name, stage.max_length, stage.overlong): source_tokens(run, name, stage)
        for stage in run.plan.stages.values()
        if trains(stage)
        for name in stage.shares()
        if name in run.pairs
    }
    for key, made in survey(run.layout, wanted).items():
        run.tokens[key] = Tokens(key[0], made.fingerprint, made.folder)


def _state(run: Run, one: PlannedStep, sizes: Sizes, changed: list[str]) -> StepState:
    step, size = one.step, _size(run, one.step, sizes)
    folder = run.layout.step(run.plan.name, step.name)
    undecided = needs_difficulty(step.settings) and step.stage not in run.orders
    order = "the order of its chunks follows from its start model" if undecided else ""
    # The base is not among them: it is there, or made first.
    models = [name for name in built_on(run.plan, step) if name not in run.models and name != BASE]
    if models:
        return StepState(step, one.id, "waiting", "; ".join(filter(None, [f"for {', '.join(models)}", order])), size)
    if not changed and one.identity is None:
        return StepState(step, None, "ready", order, size)
    status, why = _made(run, one, folder, changed)
    return StepState(step, one.id, status, why, size)


def _made(run: Run, one: PlannedStep, folder: Path, changed: list[str]) -> tuple[str, str]:
    """Return the state of a step that waits for nothing, and why.

    `changed` is in what it differs from what it was made from, as far as the plan and its files tell.
    """
    record = legible_record(folder)
    if record is None and (folder / NAME).exists():
        return "ready", "its record is damaged: the step is made again"
    if one.identity is not None:
        changed = changed or changes_since(run, one.step, folder, one.identity)
    if changed and is_kept(folder):
        return "changed", "; ".join(changed)
    if record is not None:
        run.models[one.step.name] = known_model(run, one.step, record)
        return "done", f"on {record.started[:10]} in {record.seconds:.0f} s"
    saved = max(
        (saved.step for path in folder.glob("checkpoints/step-*") if (saved := read_checkpoint(path))), default=0
    )
    return ("begun", f"goes on after step {saved}") if saved else ("ready", "")


def _tokens(run: Run, step: Step, source: str) -> Tokens | None:
    if not trains(step.settings):
        return None
    return run.tokens.get((source, step.settings.max_length, step.settings.overlong))


def _size(run: Run, step: Step, sizes: Sizes) -> Size:
    weights = _weight_bytes(run)
    if not trains(step.settings):
        return Size(0, 0, 0, weights, False)
    stage = step.settings
    train: dict[str, float] = {}
    each_source: dict[str, float] = {}
    estimated = False
    for name in step.chunk.shares:
        known = _tokens(run, step, name)
        one = sizes.of(run.plan, name, stage) if known is None else source_size(finished_record(known.folder))
        if known is not None and one.tokens is not None:
            train[name], each_source[name] = one.train, one.tokens
        else:
            kept, each = _lengths(run, name, stage)
            train[name] = one.train * (1.0 if one.known == "counted" else kept)
            each_source[name], estimated = train[name] * each, True
    tokens = sum(share * each_source[name] for name, share in chunk_shares(step, train).items())
    rows = step_rows(step, train)
    steps = optimiser_steps(rows, stage)
    written = bytes_written(stage, weights, run.plan.model.dtype, steps)
    return Size(
        rows, int(tokens) * stage.epochs // step.chunk.parts, steps, written, estimated, source_rows(step, train)
    )


def _lengths(run: Run, name: str, stage: TrainingStage) -> tuple[float, float]:
    """Return about which share of a source's pairs is short enough for a stage, and the tokens of each."""
    first = first_pairs(run.plan.data[name])
    if BASE not in run.models:
        return 1.0, first.tokens
    tokenizer = load_tokenizer(run.models[BASE].folder, run.chat_template)
    return first.tokenised(tokenizer, find_style(tokenizer), Policy(stage.max_length, stage.overlong))


def _weight_bytes(run: Run) -> int:
    base = run.models.get(BASE)
    scratch = run.plan.model.scratch
    made = scratch_parameters(scratch) if scratch else 0
    parameters = made if base is None else stored_parameters(base.folder)
    return weight_bytes(parameters, run.plan.model.dtype)
