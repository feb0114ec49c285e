"""Killed anywhere, a run goes on to the same end, to the bit; and what it needs for that."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from killed import run_killed
from nightly import nightly
from ratchet.plan.training import Checkpoint
from ratchet.train import faults
from ratchet.train.checkpoint import MANIFEST, newest_step
from ratchet.train.objective import Data
from train_bench import Pairs, changed, flip, reference_of, same, spec_of, state_of, tiny_model, train

pytestmark = pytest.mark.heavy


KILLS = [
    ("step:kill@3", 0),
    ("step:kill@7", 4),
    ("ckpt:after_shard@4", 0),
    ("ckpt:after_shard@8", 4),
    ("ckpt:before_marker@8", 4),
    ("ckpt:after_marker@8", 8),
    ("ckpt:after_shard@12", 8),
    ("ckpt:before_marker@12", 8),
    ("ckpt:after_marker@12", 12),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Data, Any, list[torch.Tensor], str]:
    table = Pairs(22)
    data = Data(table, reference_of(tiny_model(), table))
    spec = spec_of(tmp_path_factory.mktemp("whole"))
    done = train(spec, data)
    return data, spec, state_of(done.engine), (Path(spec.folder) / "ledger.jsonl").read_text()


@pytest.mark.parametrize(
    ("fault", "resumed"), nightly(KILLS, lambda fault, resumed: resumed == 4 or fault[-2:] == "12")
)
def test_a_kill_anywhere_changes_no_bit(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch, fault: str, resumed: int
) -> None:
    data, spec, state, ledger = whole
    spec = dataclasses.replace(spec, folder=str(tmp_path))
    monkeypatch.setenv("RATCHET_FAULT", fault)
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    assert run_killed(lambda: train(spec, data)) == signal.SIGKILL
    done = train(spec, data)
    assert done.resumed == resumed
    assert same(state_of(done.engine), state)
    assert (tmp_path / "ledger.jsonl").read_text() == ledger
    assert not list((tmp_path / "checkpoints").glob(".step-*"))
    unfinished = [event for event in done.checkpoints.events if event.code == "checkpoint-unfinished"]
    assert len(unfinished) == (fault.startswith(("ckpt:after_shard", "ckpt:before_marker")))


def test_a_broken_checkpoint_costs_steps_but_no_bit(tmp_path: Path, whole: Any) -> None:
    data, spec, state, ledger = whole
    spec = dataclasses.replace(spec, folder=str(tmp_path))
    train(spec, data)
    flip(tmp_path / "checkpoints/step-000012/state.pt")
    done = train(spec, data)
    assert done.resumed == 8
    assert same(state_of(done.engine), state)
    assert (tmp_path / "ledger.jsonl").read_text() == ledger


def test_what_is_saved_can_be_read_without_running_code(tmp_path: Path, whole: Any) -> None:
    data, spec, *_ = whole
    done = train(changed(spec, folder=str(tmp_path), max_steps=4), data)
    newest_one = done.checkpoints.last
    assert newest_one is not None
    assert set(torch.load(newest_one.path / "state.pt", weights_only=True)) == {"masters", "optimizer"}
    manifest = json.loads((newest_one.path / MANIFEST).read_text())
    assert manifest["attempt"] == done.checkpoints.attempt and manifest["step"] == 4
    assert manifest["facts"]["layout"] == {"engine": "torch", "zero": 0} and manifest["facts"]["workers"] == 1
    assert newest_step(tmp_path) == 4


def test_a_fault_names_a_point_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not faults.due("step:kill", 1, 0)
    monkeypatch.setenv("RATCHET_FAULT", "step:explode@1")
    with pytest.raises(ValueError, match="no point"):
        faults.due("step:kill", 1, 0)
    monkeypatch.setenv("RATCHET_FAULT", "step:nan@3#1")
    assert [faults.due("step:nan", step, rank) for step, rank in [(3, 1), (3, 0), (2, 1)]] == [True, False, False]


def test_keep_one_still_never_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any) -> None:
    data, spec, state, _ = whole
    spec = changed(spec, folder=str(tmp_path), checkpoint=Checkpoint(every=4, keep=1))
    monkeypatch.setenv("RATCHET_FAULT", "ckpt:before_marker@8")
    assert run_killed(lambda: train(spec, data)) == signal.SIGKILL
    monkeypatch.delenv("RATCHET_FAULT")
    done = train(spec, data)
    assert done.resumed == 4 and same(state_of(done.engine), state)
