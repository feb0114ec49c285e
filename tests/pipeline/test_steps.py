"""Under which lease a step is made: a run's own of its folder, or one of the step's where trials share it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ratchet.pipeline.context import Run, Trial
from ratchet.pipeline.graph import BASE, all_steps
from ratchet.pipeline.step_inputs import RunStep
from ratchet.pipeline.steps import _turn
from ratchet.plan.schema import Plan
from ratchet.reference.models import Model
from ratchet.store.layout import Layout
from ratchet.store.made import HELD, hold
from ratchet.track.progress import Console


@contextlib.contextmanager
def unwatched(step: str, folder: Path) -> Iterator[None]:
    yield


def begun(root: Path, trial: Trial | None) -> RunStep:
    stages = {"align": {"kind": "cpo", "data": ["a"]}}
    rows = {"generate": {"kind": "arithmetic"}, "build": "arithmetic_corruption"}
    plan = Plan.model_validate({"name": "p", "model": {"path": "m"}, "data": {"a": rows}, "stages": stages})
    run = Run(plan, Layout(root), Console(), False, None, trial)
    run.models[BASE] = Model(BASE, root / "m", "i", "w", "float32")
    return RunStep(run, all_steps(plan, {})[0], {"kind": "cpo"})


def test_a_run_makes_a_step_under_the_lease_of_its_own_folder(tmp_path: Path) -> None:
    made = begun(tmp_path, None)
    with hold(made.run.folder) as made.run.lease, _turn(made) as mine:
        assert mine.leases.keys() == {HELD} and made.place == made.folder and not made.folder.is_symlink()


def test_a_trial_makes_a_step_under_a_lease_for_which_other_trials_wait(tmp_path: Path) -> None:
    looks = list[None]()
    trial = Trial("s", unwatched, Console(), tmp_path / "stop", lambda: looks.append(None))
    made = begun(tmp_path, trial)
    with hold(made.run.folder) as made.run.lease, _turn(made) as mine:
        assert mine.leases.keys() == {f"step-{made.home.name}"} and looks
        assert made.place == made.home and made.folder.resolve() == made.home.resolve()
