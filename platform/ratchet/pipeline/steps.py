"""Make one step's model: refuse what does not match, reuse what does, train or merge the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import CorruptError
from ratchet.model.folder import card_usage, digest_model
from ratchet.pipeline.changes import identity_in, in_words, is_kept, refusal, weights_in_words
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import (
    BASE,
    PlannedStep,
    Step,
    built_on,
    chunk_names,
    final_model,
    planned_steps,
)
from ratchet.pipeline.prepare import reference_model
from ratchet.pipeline.step_folder import (
    IDENTITY,
    clear_step,
    drop_checkpoints,
    link_step,
    step_faults,
    write_step_record,
)
from ratchet.pipeline.step_inputs import (
    KEY,
    Contents,
    RunStep,
    drop_masters,
    input_weights,
    left_by,
    tell_of_rounding,
    wanted_again,
)
from ratchet.pipeline.training import followed, ready, tell_of_scores, training_facts, training_of
from ratchet.plan.stage_kinds import trains
from ratchet.plan.stages import Merge
from ratchet.reference.models import MASTERS, Adapter, Model, read_adapter, servable
from ratchet.store.files import folder_aside, remove_leftovers, storage_errors, write_sealed
from ratchet.store.fingerprint import fingerprint
from ratchet.store.lease import Wait
from ratchet.store.made import LeasedTurn, Product, record_of, turn
from ratchet.store.record import NAME, Record, now, read_record
from ratchet.train.spec import ADAPTER, MODEL

if TYPE_CHECKING:
    from ratchet.train.launch import TrainResult


def ensure_step(run: Run, planned: PlannedStep) -> Model:
    """Return the model of a step whose inputs are there, made if need be.

    Raises RunError where the run folder holds this step made from something else, and `--fresh`
    was not given; DataError, ModelError, TrainingError, StorageError as the work may.
    """
    step, identity = planned.step, planned.identity
    assert identity is not None  # noqa: S101  a run makes every input before
    made = RunStep(run, step, identity)
    folder = made.place
    with _turn(made) as mine:
        record = mine.found
        if record is None:
            _clear(folder, identity)
            started, clock = now(), time.monotonic()
            result: TrainResult | None = None
            counts: Mapping[str, Any]
            facts: Mapping[str, Any]
            if not trains(step.settings):
                counts, facts = _merge(run, step.settings, folder / MODEL), {}
            else:
                run_id = _run_id(run, step, identity)
                tell_of_rounding(run, step, identity)
                spec, gate, scored = ready(run, step, step.settings, run_id, carries=KEY in identity)
                train = training_of(run)
                with followed(run, spec):
                    result = train(spec)
                counts, facts = _of_sources(step, result.counts), training_facts(run, result, gate, scored)
                # It stands apart, like every pass.
                clock += result.seconds["scoring"]
            product = Product(counts, input_weights(run, step, identity), {**_facts(made, result), **facts})
            record = record_of(made, product, started, time.monotonic() - clock)
            # Another process may have taken the place over meanwhile: then nothing is recorded.
            mine.check()
            write_step_record(folder, record)
            run.console.done(step.name, _outcome(record), record.seconds)
            if result is not None:
                tell_of_scores(run, step, result)
        else:
            run.console.say(f"{step.name:<20} is there already")
        drop_checkpoints(folder)  # also of one that is there: its maker may have been killed before it could
    # While it trains, a signal is only remembered (`Stop.patiently`). Now the step is recorded, and the run may end.
    if mine.found is None or run.trial:
        run.stop.check()
    if run.trial is None:
        drop_masters(run, step)
    return known_model(run, step, record)


@contextlib.contextmanager
def _turn(made: RunStep) -> Iterator[LeasedTurn[Record | None]]:
    """Look for a step, and hold its place: the run holds its own folder, and for a trial that makes it others wait."""
    run, step, trial = made.run, made.step, made.run.trial

    def look(mine: bool) -> Record | None:
        if trial is None:
            return _found_in_run(made)
        if mine:
            clear_step(made.home, run.layout.damaged)
        return None if step_faults(made.home) else read_record(made.home)

    def missing(record: Record | None) -> dict[str, str]:
        return {} if record or trial is None else {f"{made.kind}-{made.home.name}": made.what}

    def stopped() -> None:
        if trial is not None:
            trial.check()
        run.stop.check()

    with contextlib.ExitStack() as stack:
        if trial is not None:
            stack.enter_context(trial.watch(step.name, made.folder))
            link_step(made.folder, made.home)
        # The lease of a trial's folder keeps nobody out of the store.
        held = run.lease if trial is None else None
        yield stack.enter_context(turn(run.layout, look, missing, Wait(run.console.say, stopped), held=held))


def _found_in_run(made: RunStep) -> Record | None:
    """Return the record of a step in its run folder, made sure that it is this one; or of one that a trial made."""
    run, folder, home = made.run, made.folder, made.home
    clear_step(folder, run.layout.damaged, wanted=not run.fresh and wanted_again(run, made.step.name))
    _claim(run, made.step, folder, made.identity)
    if not folder.exists() and not run.fresh and (home / NAME).exists() and not step_faults(home):
        link_step(folder, home)
    return read_record(folder)


def finished_model(run: Run, planned: PlannedStep) -> Model | None:
    """Return the model of a step that is made, and made from what the plan now asks for; else None.

    Raises CorruptError where it is not as it was written.
    """
    step, identity = planned.step, planned.identity
    if identity is None or not run.models.keys() >= {*built_on(run.plan, step)}:
        return None
    folder = run.layout.step(run.plan.name, step.name)
    if wrong := step_faults(folder):
        raise CorruptError(
            f"the step is damaged: {'; '.join(wrong)}",
            where=str(folder),
            fix="`ratchet run` puts it aside and makes it again; or put the files back from a copy",
        )
    record = read_record(folder)
    if record is None or changes_since(run, step, folder, identity):
        return None
    return known_model(run, step, record)


def known_model(run: Run, step: Step, record: Record) -> Model:
    """Return the model of a finished step."""
    base = run.models[BASE]
    return Model(
        name=step.name,
        folder=run.layout.step(run.plan.name, step.name) / "model",
        identity=record.fingerprint,
        weights=record.facts["weights"],
        dtype=base.dtype,
        trained_on=_trained_on(run, step),
        code=base.code,
        adapter=_adapter(run, step),
        masters=left_by(record),
    )


def _adapter(run: Run, step: Step) -> Adapter | None:
    """Return the adapter that a step trained, where an engine could serve its model as that."""
    if not trains(step.settings) or step.settings.lora is None:
        return None
    found = read_adapter(run.layout.step(run.plan.name, step.name) / "adapter", run.models[step.start].folder)
    return found if servable(found) else None


def changes_since(run: Run, step: Step, folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """Return in words how the step in `folder` differs from what the plan now asks for. Raises CorruptError."""
    before = identity_in(folder)
    if before is None:
        return []
    record = read_record(folder)
    changes = in_words(run, step, before, identity)
    if not changes and record is not None:  # the same recipe may have come out with other weights
        changes = weights_in_words(step, record.inputs, input_weights(run, step, identity))
    return changes


def refuse_other_start(run: Run) -> None:
    """Raise RunError where a kept step that needs the start model alone was made from another one.

    `ensure_step` would say the same, once all is scored.
    """
    for one in planned_steps(run.plan, Contents(run), lambda name: chunk_names(run.plan.stages[name])):
        step = one.step
        if one.identity is None or not trains(step.settings) or built_on(run.plan, step) != [BASE]:
            continue
        folder = run.layout.step(run.plan.name, step.name)
        with contextlib.suppress(CorruptError):  # what is damaged is made again
            if is_kept(folder) and (changes := changes_since(run, step, folder, one.identity)):
                raise refusal(step, folder, changes)


def _claim(run: Run, step: Step, folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder that holds this step made from something else, or put it aside with `--fresh`.

    One of which nothing was saved is removed: there is nothing to lose.
    """
    changes = [] if run.fresh else changes_since(run, step, folder, identity)
    if not (folder / IDENTITY).exists() or not (changes or run.fresh):
        return
    if not run.fresh and is_kept(folder):
        raise refusal(step, folder, changes)
    if folder.is_symlink():  # what it leads to is the store's, and stays there
        folder.unlink()
        return
    if not run.fresh:
        with storage_errors(folder):
            shutil.rmtree(folder)
        run.console.say(f"{step.name:<20} begins again, as nothing of it was saved: {'; '.join(changes)}")
        return
    aside = run.layout.set_aside(run.plan.name, step.name, now().replace(":", ""))
    with storage_errors(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(aside):
        folder.rename(aside)
    run.console.say(f"{step.name:<20} put aside as {aside}")


def _clear(folder: Path, identity: Mapping[str, Any]) -> None:
    """Give a step that is to be made its folder, without what one that was killed left of its model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, ADAPTER, MASTERS):  # this run alone may make them: what lies beside is of one that was killed
        remove_leftovers(folder / name)
    write_sealed(folder / IDENTITY, identity)


def _run_id(run: Run, step: Step, identity: Mapping[str, Any]) -> str:
    """Return the id by which trackers know a step's run: the same after a kill, another one after --fresh."""
    aside = len(list(run.layout.set_aside(run.plan.name, step.name, "").parent.glob(f"{step.name}-*")))
    return fingerprint({**identity, "set_aside": aside})


def _facts(made: RunStep, result: TrainResult | None) -> dict[str, Any]:
    """Return what the record of a step says beside its training. Publishing has taken the digest of its model."""
    run, step = made.run, made.step
    return {
        "step": step.name,
        "stage": step.stage,
        "chunk": step.chunk.label,
        "start": step.start,
        "reference_model": reference_model(run, step).name if step.reference else None,
        "weights": result.published["weights"] if result else digest_model(made.place / MODEL),
        "made_by": f"{run.trial.sweep}/{run.plan.name}" if run.trial else run.plan.name,
        **_trusted(run, step),
    }


def _trusted(run: Run, step: Step) -> dict[str, Any]:
    """Say whose code ran in a step, where a plan let any."""
    models = [run.models[BASE], *([reference_model(run, step)] if step.reference else [])]
    found = [dataclasses.asdict(code) for code in dict.fromkeys(model.code for model in models) if code]
    return {"trusted_code": found} if found else {}


def _merge(run: Run, settings: Merge, final: Path) -> dict[str, Any]:
    from ratchet.model.merge import merge_models  # it needs torch, and a merge that is there does not

    folders = [run.models[final_model(run.plan, name)].folder for name in settings.of]
    like = next((at for at, name in enumerate(settings.of) if name != BASE), 0)  # base may be stored otherwise
    with folder_aside(final) as aside:
        weights = settings.weights or (1.0,) * len(folders)
        merge_models(folders, weights, aside, like)
        shares = [
            f"| {name} | {weight / sum(weights):.6g} |" for name, weight in zip(settings.of, weights, strict=True)
        ]
        rows = "\n".join(["| model | weight |", "|---|---|", *shares])
        usage = card_usage(trust_remote_code=run.models[BASE].trust_remote_code)
        (aside / "README.md").write_text(
            f"# Merge\n\nMade by Ratchet: a weighted average.\n\n{rows}\n{usage}", encoding="utf-8"
        )
    return {"models": len(folders)}


def _trained_on(run: Run, step: Step) -> frozenset[str]:
    if not trains(step.settings):
        return frozenset().union(*(run.models[final_model(run.plan, name)].trained_on for name in step.settings.of))
    return run.models[step.start].trained_on | frozenset(step.chunk.shares)


def _of_sources(step: Step, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a trained step with the pairs of an epoch by source in place of by file."""
    named = dict(zip(step.chunk.shares, counts["of_file"], strict=True))
    return {**{key: value for key, value in counts.items() if key != "of_file"}, "sources": named}


def _outcome(record: Record) -> dict[str, Any]:
    training = record.facts.get("training")
    if training is None:
        return {"models averaged": record.counts["models"]}
    drawn = "drawn" in record.identity or any(one["share"] != 1 for one in record.identity["data"].values())
    sources = ", ".join(f"{name} {count:,}" for name, count in record.counts["sources"].items()) if drawn else ""
    return {"steps": record.counts["steps"], "pairs": record.counts["pairs"], **({"of": sources} if drawn else {})}
