"""Rehearse the stages of a plan at the beginning of a run, before anything is scored or trained.

A large model is scored for hours before its first step, and later stages come after days. What a stage's adapters,
precision or engine would fail at is known before that. A small model is rehearsed by the workers of its first step.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ratchet.model.folder import stored_tensors
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, all_steps
from ratchet.pipeline.step_inputs import leaves
from ratchet.pipeline.training import SLOTS
from ratchet.plan.stage_kinds import trains
from ratchet.store.files import storage_errors
from ratchet.store.record import NAME
from ratchet.track.progress import under_way
from ratchet.train.spec import WHOLE, TrainSpec

FOLDER = "rehearsal"
"""The folder of a run in which its stages are rehearsed; it goes at the end."""


def rehearse_stages(run: Run) -> None:
    """Rehearse each kind of step that is still to be made, with the start model's settings, if that model is large.

    Raises ModelError, StorageError, which name what would fail at publishing; ClusterError, StoppedError.
    """
    specs = _specs(run)
    if not specs or sum(math.prod(one.shape) for one in stored_tensors(run.models[BASE].folder).values()) <= WHOLE:
        return
    # Here, as torch takes seconds to load.
    from ratchet.store.made import find
    from ratchet.train.rehearsal import Rehearsal

    cluster, seen = run.plan.cluster, set[str]()
    for spec in specs:
        one = Rehearsal(spec, "cuda" if cluster.gpus_per_worker else "cpu", cluster.most_workers)
        if (known := str(one.identity)) in seen or find(run.layout, one) is not None:
            continue
        seen.add(known)
        clock, folder = time.monotonic(), Path(spec.folder)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with under_way(
                "rehearsal", f"what {spec.step} will do with its model is tried with a small one", run.console
            ):
                _rehearser(run)(spec)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        run.console.done("rehearsal", {"of": spec.step}, time.monotonic() - clock)


def _specs(run: Run) -> list[TrainSpec]:
    """Return the specs of the training steps that have no record, without what they are trained on."""
    base, found = run.models[BASE], list[TrainSpec]()
    for step in all_steps(run.plan, {stage: order.chunks for stage, order in run.orders.items()}):
        if trains(step.settings) and not (run.layout.step(run.plan.name, step.name) / NAME).exists():
            spec = TrainSpec(
                step=step.name,
                stage=step.settings,
                folder=str(run.folder / FOLDER),
                model=str(base.folder),
                tokens=(),
                shares=(),
                cluster=run.plan.cluster,
                dtype=base.dtype,
                trust_remote_code=base.trust_remote_code,
                chat_template=run.chat_template.text if run.chat_template else None,
                keep_masters=leaves(run, step),
                store=run.layout,
            )
            found.append(spec)
    return found


def _rehearser(run: Run) -> Callable[[TrainSpec], None]:
    """Return what rehearses a step: workers on the Ray, or this process."""
    if run.here:
        from ratchet.train.here import rehearse_here

        return rehearse_here
    from ratchet.train.launch import rehearse_on_workers

    cluster = run.plan.cluster
    return lambda spec: rehearse_on_workers(
        spec,
        cpus_per_worker=cluster.cpus_per_worker,
        gpus_per_worker=cluster.gpus_per_worker,
        stop=run.stop.why,
        slots=run.folder / SLOTS if run.trial else None,
        say=run.console.say,
    )
