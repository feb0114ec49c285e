"""Numbers that are not finite: nothing of them reaches the weights, and a stage may allow some steps to be skipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raised import raises
from ratchet.documents.events import events_of
from ratchet.pairs.assemble import places_of_pairs
from ratchet.plan.training import Checkpoint
from ratchet.train.batches import global_batches
from ratchet.train.checkpoint import newest_step
from ratchet.train.data import course_of
from ratchet.train.engine import TorchEngine
from ratchet.train.objective import Data
from train_bench import Pairs, lines_of, reference_of, same, spec_of, state_of, tiny_model, train


@pytest.fixture(scope="module")
def data() -> Data:
    table = Pairs(22)
    return Data(table, reference_of(tiny_model(), table))


def spoiled(data: Data, folder: Path, *steps: int) -> Data:
    """Reference rows that are no numbers, in the first pair of some steps of the first epochs; those pairs come once
    an epoch, so other steps meet them too: the steps are told beside.
    """
    assert data.reference is not None
    chosen = data.reference.chosen_N.copy()
    for batch in global_batches(course_of(spec_of(folder), 22)):
        if batch.step in steps:
            chosen[int(batch.rows[0])] = float("nan")
    return Data(data.table, dataclasses.replace(data.reference, chosen_N=chosen))


def met(data: Data, folder: Path) -> list[int]:
    """The steps whose batch holds a pair without a number."""
    assert data.reference is not None
    bad = {row for row, value in enumerate(data.reference.chosen_N) if value != value}
    return [batch.step for batch in global_batches(course_of(spec_of(folder), 22)) if bad & set(batch.rows.tolist())]


@pytest.mark.heavy
def test_as_many_steps_as_the_stage_allows_are_skipped_and_told(tmp_path: Path, data: Data) -> None:
    bad = spoiled(data, tmp_path, 2)
    steps = met(bad, tmp_path)
    assert len(steps) == 4  # once an epoch
    bench = train(spec_of(tmp_path, skip_nonfinite=4), bad)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if line.get("update_skipped")] == steps
    told = [event for event in events_of(tmp_path) if event.code == "step-skipped"]
    assert [event.step for event in told] == steps
    row = next(row for row, value in enumerate(bad.reference.chosen_N) if value != value)  # type: ignore[union-attr]
    assert all(data.table.pair_id(row) in event.what for event in told)
    assert all(torch.isfinite(tensor).all() for tensor in state_of(bench.engine))


@pytest.mark.heavy
def test_pairs_are_named_by_their_file_and_row(tmp_path: Path, data: Data) -> None:
    bad = spoiled(data, tmp_path, 2)
    row = next(row for row, value in enumerate(bad.reference.chosen_N) if value != value)  # type: ignore[union-attr]
    table = tmp_path / "train.parquet"
    columns = {
        "pair_id": [data.table.pair_id(row), "another"],
        "file": ["prefs.jsonl"] * 2,
        "row": [17, 18],
        "x": [1, 2],
    }
    pq.write_table(pa.table(columns), table)
    absent = str(tmp_path / "gone.parquet")
    with raises("training.not-finite", "1 pairs", "prefs.jsonl:17;"):
        train(spec_of(tmp_path, pair_files=(absent, str(table))), bad)
    assert places_of_pairs([table], ["another", "unknown"]) == ["prefs.jsonl:18", "unknown"]


@pytest.mark.heavy
def test_a_skipped_step_leaves_weights_and_moments_as_they_were(tmp_path: Path, data: Data) -> None:
    bad = spoiled(data, tmp_path, 2)
    before = train(spec_of(tmp_path / "before", max_steps=1), bad)
    after = train(spec_of(tmp_path / "after", max_steps=2, skip_nonfinite=1), bad)
    assert same(state_of(before.engine), state_of(after.engine))


@pytest.mark.heavy
def test_a_loss_without_a_number_updates_nothing_though_its_gradient_has_one(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flat(TorchEngine):
        """Takes the gradient of a loss of 0 in place of one that is no number."""

        def backward(self, loss: torch.Tensor, *, last: bool) -> None:
            super().backward(torch.nan_to_num(loss, nan=0.0), last=last)

        def finish_gradient(self) -> torch.Tensor:
            return torch.nan_to_num(super().finish_gradient(), nan=1.0)

    monkeypatch.setattr("train_bench.TorchEngine", Flat)
    bad = spoiled(data, tmp_path, 2)
    before = train(spec_of(tmp_path / "before", max_steps=1), bad)
    after = train(spec_of(tmp_path / "after", max_steps=2, skip_nonfinite=1), bad)
    assert same(state_of(before.engine), state_of(after.engine))


@pytest.mark.heavy
def test_one_step_too_many_stops_before_its_update(tmp_path: Path, data: Data) -> None:
    bad = spoiled(data, tmp_path, 2)
    steps = met(bad, tmp_path)
    spec = spec_of(tmp_path, skip_nonfinite=2, checkpoint=Checkpoint(every=1))
    with raises("training.not-finite", f"at step {steps[2]} ", f"after steps {steps[0]}, {steps[1]} "):
        train(spec, bad)
    assert newest_step(tmp_path) == steps[2] - 1
    for path in (tmp_path / "checkpoints").rglob("state.pt"):
        state = torch.load(path, weights_only=True)
        assert all(torch.isfinite(tensor).all() for tensor in state["masters"])


@pytest.mark.heavy
def test_a_run_that_goes_on_remembers_what_was_skipped(tmp_path: Path, data: Data) -> None:
    bad = spoiled(data, tmp_path, 2)
    steps = met(bad, tmp_path)
    spec = spec_of(tmp_path, skip_nonfinite=1, checkpoint=Checkpoint(every=1))
    for _ in range(2):  # called again, it stops at the same step
        with raises("training.not-finite", f"at step {steps[1]} ", f"after steps {steps[0]} "):
            train(spec, bad)


@pytest.mark.heavy
def test_skips_long_ago_do_not_count(tmp_path: Path, data: Data) -> None:
    spec = spec_of(tmp_path, epochs=8, skip_nonfinite=1, checkpoint=Checkpoint(every=5))
    steps = iter([2, 14, 21])
    from ratchet.train import faults, skips

    at = next(steps)

    def due(point: str, step: int, rank: int) -> bool:
        nonlocal at
        if point == "step:nan" and step == at:
            at = next(steps, 10**9)
            return True
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "due", due)
        patch.setattr(skips, "WINDOW", 10)  # of 100 steps, which would take seconds
        with raises("training.not-finite", "at step 21 ", "after steps 14 "):
            train(spec, data)
    assert newest_step(tmp_path) == 20
