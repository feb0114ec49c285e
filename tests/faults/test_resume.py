"""A run that goes on after any of its steps, or past any harm to its newest checkpoint, is the uninterrupted one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nightly import nightly
from ratchet.documents.events import Event
from ratchet.plan.training import Checkpoint
from ratchet.train.checkpoint import MANIFEST
from ratchet.train.objective import Data
from ratchet.train.spec import TrainSpec
from tests.train.test_checkpoint import empty, truncate
from train_bench import Pairs, flip, reference_of, same, spec_of, state_of, timeless, tiny_model, train

pytestmark = pytest.mark.heavy

Run = tuple[TrainSpec, Data, list[torch.Tensor]]
KINDS: dict[str, dict[str, Any]] = {
    "dpo": {"options": {"beta": 0.5}},
    "dpop": {"kind": "dpop", "options": {"beta": 0.5, "penalty": 5.0}},
    "stepwise": {"kind": "dpop", "options": {"beta": 0.5, "penalty": 5.0}, "starts_at_reference": False},
}
"""The last is a later step of a stage: its reference is another model than the one that it starts from."""


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twelve steps without a stop, and a checkpoint of each."""
    table = Pairs(22)
    data = Data(table, reference_of(tiny_model(int(request.param == "stepwise")), table))
    every_step = Checkpoint(every=1, keep=99)
    spec = spec_of(tmp_path_factory.mktemp("whole"), checkpoint=every_step, **KINDS[request.param])
    return spec, data, state_of(train(spec, data).engine)


def copy_of(whole: Run, folder: Path) -> TrainSpec:
    shutil.copytree(whole[0].folder, folder)
    return dataclasses.replace(whole[0], folder=str(folder))


def assert_goes_on_after(step: int, spec: TrainSpec, whole: Run) -> list[Event]:
    """Train on, and compare with the run that was never stopped; return the events of its checkpoints."""
    done = train(spec, whole[1])
    assert done.resumed == step
    assert same(state_of(done.engine), whole[2])
    folder, base = Path(spec.folder), Path(whole[0].folder)
    assert (folder / "ledger.jsonl").read_bytes() == (base / "ledger.jsonl").read_bytes()
    assert timeless(folder) == timeless(base)
    return done.checkpoints.events


@pytest.mark.parametrize("step", nightly(range(12), lambda step: step == 5))
def test_going_on_after_any_step_is_the_uninterrupted_run(whole: Run, tmp_path: Path, step: int) -> None:
    spec = copy_of(whole, tmp_path / "run")
    for path in Path(spec.folder).glob("checkpoints/step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    assert not assert_goes_on_after(step, spec, whole)


def of_the_step_before(path: Path) -> None:
    shutil.copyfile(path.parent.parent / "step-000011" / path.name, path)


@pytest.mark.parametrize("whole", ["dpop"], indirect=True)
@pytest.mark.parametrize(
    "harm", nightly([truncate, empty, flip, of_the_step_before, Path.unlink], lambda harm: harm is flip)
)
def test_any_harm_to_any_file_of_the_newest_checkpoint_costs_one_checkpoint(
    whole: Run, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    names = sorted(path.name for path in (Path(whole[0].folder) / "checkpoints/step-000012").iterdir())
    assert {MANIFEST, "state.pt"} < {*names}
    for name in names:
        spec = copy_of(whole, tmp_path / name)
        harm(Path(spec.folder) / "checkpoints/step-000012" / name)
        (event,) = assert_goes_on_after(11, spec, whole)
        assert (event.code, event.checkpoint) == ("checkpoint-damaged", "step-000012")
        assert (Path(spec.folder) / "checkpoints/bad-step-000012").is_dir()
