"""Float32 masters between the steps of a plan: who leaves them, who starts from them, and when they go."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptError
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, Step, heirs
from ratchet.pipeline.step_folder import IDENTITY, masters_of, step_faults
from ratchet.plan.stage_kinds import trains
from ratchet.store.files import storage_errors
from ratchet.store.fingerprint import fingerprint
from ratchet.store.record import NAME, Record
from ratchet.store.sealed import read_sealed
from ratchet.store.sound import legible_record

KEY = "masters"
"""The key of a step's identity and inputs that says from which masters it starts."""
_log = logging.getLogger(__name__)


def left_by(record: Record) -> str | None:
    """Return the digest of the masters that a finished step left, or None where no step needed any."""
    masters = masters_of(record)
    return None if masters is None else str(masters["sha256"])


def leaves(run: Run, step: Step) -> bool:
    """Whether a step leaves masters behind: some later step of the plan starts from it."""
    return step.name in heirs(run.plan)


def carried(run: Run, step: Step, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the masters that a step starts from, as its identity has them; empty where it starts from rounded weights.

    A step that is begun goes on as it began. Another has them where they are there, or where it was made with them for
    another run: masters go once no step of the plan needs them, and a stage that is added later starts without.
    """
    digest = run.models[step.start].masters if trains(step.settings) else None
    if digest is None:
        return {}
    found = {KEY: digest}
    begun = None if run.fresh else begun_as(run.layout.step(run.plan.name, step.name))
    if begun is not None:
        return found if begun.get(KEY) else {}
    made = run.layout.made_step(home_key(run, step, {**identity, **found}, {**inputs, **found}))
    return found if run.models[step.start].masters_file.exists() or (made / NAME).exists() else {}


def begun_as(folder: Path) -> Mapping[str, Any] | None:
    """Return the identity with which a step was begun, by its record where its own file is damaged; else None."""
    try:
        return read_sealed(folder / IDENTITY, "run with --fresh")
    except CorruptError:
        record = legible_record(folder)
        return None if record is None else record.identity


def wanted_again(run: Run, name: str) -> bool:
    """Whether a finished step must be made again for its masters: they went, and a step that began with them has to be
    made again itself, being damaged or cut short.
    """
    folder = run.layout.step(run.plan.name, name)
    record = legible_record(folder)
    if record is None or left_by(record) is None or (folder / KEY).exists():
        return False
    return any(_lacks(run, heir) for heir in heirs(run.plan).get(name, []))


def _lacks(run: Run, name: str) -> bool:
    folder = run.layout.step(run.plan.name, name)
    begun = begun_as(folder)
    if begun is None or KEY not in begun:
        return False
    return not (folder / NAME).exists() or bool(step_faults(folder)) or wanted_again(run, name)


def home_key(run: Run, step: Step, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the name under which trials share a step; one that leaves masters is another than one that does not."""
    leaving = {"leaves": KEY} if leaves(run, step) else {}
    return fingerprint({"recipe": identity, "inputs": inputs, **leaving})


def tell_of_rounding(run: Run, step: Step, identity: Mapping[str, Any]) -> None:
    """Warn where a step starts from the rounded weights of another, whose masters are not there."""
    start = step.start
    if KEY in identity or start == BASE or step.name not in heirs(run.plan).get(start, []):
        return
    _log.warning(
        "%s starts from the rounded weights of %s: float32 masters are kept only while a step of the plan needs them. "
        "What %s gained below the precision of %s is lost; run with --fresh to carry it on",
        step.name,
        start,
        start,
        run.plan.model.dtype,
    )


def drop_masters(run: Run, step: Step) -> None:
    """Remove the masters that `step` started from, once all steps that need them are made.

    Those of steps that trials share stay: further trials may start from them.
    """
    folder = run.layout.step(run.plan.name, step.start)
    waiting = {*heirs(run.plan).get(step.start, [])} - {*run.models, step.name}
    if run.trial is None and not waiting and not folder.is_symlink() and (folder / KEY).exists():
        with storage_errors(folder):
            shutil.rmtree(folder / KEY)
