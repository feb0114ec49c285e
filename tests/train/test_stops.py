"""What stops the loop: a reference that is off, numbers that are not finite, a full disk; and what is left then."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from raised import raises
from ratchet.errors import StorageError, TrainingError
from ratchet.model.forward import PairScorer
from ratchet.plan.training import Checkpoint
from ratchet.train.batches import global_batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from ratchet.train.data import course_of
from ratchet.train.engine import TorchEngine
from ratchet.train.notice import Ended
from ratchet.train.objective import Data
from train_bench import (
    CPU,
    Pairs,
    Reference,
    lines_of,
    reference_of,
    same,
    spec_of,
    tiny_model,
    train,
    weights_of,
)


@pytest.fixture(scope="module")
def data() -> Data:
    table = Pairs(22)
    return Data(table, reference_of(tiny_model(), table))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["dpo", "dpop", "ipo"])
@pytest.mark.parametrize("side", ["chosen_N", "rejected_N"])
def test_a_reference_row_that_is_off_stops_the_first_step(tmp_path: Path, data: Data, kind: str, side: str) -> None:
    spec = spec_of(tmp_path, kind=kind, batch=22, token_budget=96)
    wrong = getattr(data.reference, side).copy()
    wrong[13] += 0.5
    assert data.reference is not None
    bad = Data(data.table, dataclasses.replace(data.reference, **{side: wrong}))
    with pytest.raises(TrainingError) as raised:
        train(spec, bad)
    assert data.table.pair_id(13) in str(raised.value)
    assert "0.5 nats" in str(raised.value)
    assert "a few pairs" in raised.value.fix
    assert not list((tmp_path / "checkpoints").glob("step-*"))
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_a_wrong_reference_model_is_told_apart(tmp_path: Path, data: Data) -> None:
    with raises("training.first-step", "0.693147") as raised:
        train(spec_of(tmp_path), data, model_seed=1)
    assert "most pairs are off" in raised.value.fix


def test_the_first_step_of_a_target_elsewhere_is_not_checked(tmp_path: Path, data: Data) -> None:
    bench = train(spec_of(tmp_path, starts_at_reference=False, max_steps=1), data, model_seed=1)
    assert bench.result is not None and bench.result.first is None


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, data: Data) -> None:
    """A row that step 3 is the first to see; steps 1 and 2 are saved and stay good."""
    assert data.reference is not None
    spec = spec_of(tmp_path, checkpoint=Checkpoint(every=2))
    row = int(next(batch for batch in global_batches(course_of(spec, 22)) if batch.step == 3).rows[1])
    chosen = data.reference.chosen_N.copy()
    chosen[row] = float("nan")
    with raises("training.not-finite", "at step 3", "1 pairs") as raised:
        train(spec, Data(data.table, Reference(chosen, data.reference.rejected_N)))
    assert data.table.pair_id(row) in str(raised.value) and "step-000002" in str(raised.value)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
    last = Checkpoints(tmp_path, Alone(), 2).newest()
    assert last is not None and last.step == 2


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path, data: Data) -> None:
    spec = spec_of(tmp_path)
    engine = TorchEngine(spec, PairScorer(tiny_model()), CPU)
    before = weights_of(engine)
    engine.backward(engine.trained[0].sum() * math.inf, last=True)
    done = engine.step(1e-3, float(engine.finish_gradient()))
    assert not done.applied and not math.isfinite(done.grad_norm)
    assert same(list(before.values()), list(weights_of(engine).values()))


def test_an_infinite_slope_with_a_finite_loss_names_its_pairs(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steep(TorchEngine):
        def backward(self, loss: torch.Tensor, *, last: bool) -> None:
            super().backward(loss * 1e38 * 1e38, last=last)

    monkeypatch.setattr("train_bench.TorchEngine", Steep)
    with raises("training.not-finite", "gradient") as raised:
        train(spec_of(tmp_path), data)
    assert "pair-0-" in str(raised.value) and "last good checkpoint: none" in str(raised.value)


def test_a_full_disk_under_the_metrics_stops_the_run(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ratchet.track.jsonl import JsonLines

    def full(self: JsonLines, step: int, metrics: dict) -> None:
        if step == 2:
            raise StorageError("no space left on the disk", where=str(self.path), code="storage.full")

    monkeypatch.setattr(JsonLines, "log", full)
    with raises("storage.full"):
        train(spec_of(tmp_path), data)


def test_a_run_that_is_told_to_end_keeps_the_checkpoint_that_was_due(tmp_path: Path, data: Data) -> None:
    (tmp_path / "stop.json").write_text("{}")
    spec = spec_of(tmp_path, checkpoint=Checkpoint(every=1), stop_file=str(tmp_path / "stop.json"))
    with pytest.raises(Ended) as ended:
        train(spec, data)
    assert (ended.value.notice.kind, ended.value.step) == ("drop", 1)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000001"]
    assert [line["step"] for line in lines_of(tmp_path)] == [1]


def test_a_run_that_is_told_to_end_at_its_last_step_has_come_to_its_end(tmp_path: Path, data: Data) -> None:
    (tmp_path / "stop.json").write_text("{}")
    bench = train(spec_of(tmp_path, max_steps=1, stop_file=str(tmp_path / "stop.json")), data)
    assert bench.result is not None and bench.result.steps == 1
