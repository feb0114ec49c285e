"""The loop: what a step's gradient is, what a run leaves behind, and how it goes on."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nightly import nightly
from ratchet.losses.preference import PairLogps, preference_loss
from ratchet.model.forward import PairScorer
from ratchet.train import ledger
from ratchet.train.batches import GlobalBatch
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from ratchet.train.data import course_of
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, run, seed_step, works_of
from ratchet.train.objective import Data
from ratchet.train.spec import TrainSpec
from train_bench import (
    CPU,
    Pairs,
    changed,
    lines_of,
    reference_of,
    same,
    spec_of,
    state_of,
    timeless,
    tiny_model,
    train,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def data() -> Data:
    table = Pairs(22)
    return Data(table, reference_of(tiny_model(), table))


def test_training_learns_and_says_so(tmp_path: Path, data: Data) -> None:
    heldout = Data(Pairs(9, seed=5), None)
    heldout = dataclasses.replace(heldout, reference=reference_of(tiny_model(), heldout.table))  # type: ignore[arg-type]
    spec = spec_of(tmp_path)
    bench = train(spec, data, heldout=heldout)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < 0.35
    assert lines[-1]["rewards/margins"] > 1.0
    assert lines[-1]["rewards/margins"] == pytest.approx(lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"])
    assert [line["step"] for line in lines if "heldout/loss" in line] == [4, 8, 12]
    assert lines[-1]["heldout/accuracy"] > 0.7
    assert lines[2]["epoch"] == 1.0
    assert bench.result is not None and bench.result.first is not None
    assert bench.result.first["largest_h"] <= bench.result.first["h_tolerance"] < 1e-3
    wanted = {"grad_norm", "learning_rate", "pairs_per_second", "tokens_per_second", "tokens_computed"}
    assert all(wanted <= line.keys() and None not in line.values() for line in lines)
    assert ledger.prove_ledger(tmp_path / "ledger.jsonl", course_of(spec, 22))["pairs_seen"] == 88


class Worker(Alone):
    """One of several workers, whose gradients the test adds up itself."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def gradient(
    spec: TrainSpec, data: Data, rows: np.ndarray, world: int, budget: int, folder: Path
) -> tuple[float, torch.Tensor]:
    """The loss and flat gradient of one global batch, summed over `world` workers."""
    total, loss = None, 0.0
    for rank in range(world):
        split = changed(spec, workers=world, token_budget=budget)
        engine = TorchEngine(split, PairScorer(tiny_model()), CPU)
        communicator = Worker(rank, world)
        parts = Parts(engine, data, None, budget, communicator, Checkpoints(folder, Alone(), 1), None, None)
        tally = accumulate(split, parts, GlobalBatch(2, 1, rows, 0.0), works_of(split, parts, rows))
        sums = {id(weight): total for weight, total in zip(engine.trained, engine.sums, strict=True)}
        flat = torch.cat([sums[id(weight)].double().flatten() for weight in engine.scorer.parameters()])
        total = flat if total is None else total + flat
        loss += float(tally.sums[0])
    assert total is not None
    return loss, total


@pytest.mark.parametrize(
    ("kind", "size"),
    nightly([("dpo", 8), ("dpo", 5), ("sft", 8), ("sft", 5)], lambda kind, size: (kind == "dpo") == (size == 5)),
)
def test_no_split_of_a_batch_changes_its_gradient(tmp_path: Path, kind: str, size: int) -> None:
    table = Pairs(22, seed=3, demonstrations=kind == "sft")
    # Another model is the reference: the log-ratios, and so the weights of the pairs, differ.
    data = Data(table, None if kind == "sft" else reference_of(tiny_model(1), table))
    rows = np.array([3, 19, 7, 0, 11, 12, 20, 5])[:size]
    spec = spec_of(tmp_path, kind=kind, starts_at_reference=False, clip=None)
    loss, whole = gradient(spec, data, rows, 1, 1000, tmp_path)
    for world, budget in [(1, 1), (1, 60), (2, 1), (2, 100), (3, 40), (4, 30), (8, 1)]:
        again, parts = gradient(spec, data, rows, world, budget, tmp_path)
        assert again == pytest.approx(loss, rel=1e-6)
        assert float((parts - whole).norm() / whole.norm()) < 1e-6, (world, budget)


def test_the_gradient_is_that_of_the_mean_over_pairs(tmp_path: Path, data: Data) -> None:
    """Worked out another way: float64 weights, full logits, one pair at a time."""
    rows = np.array([4, 9, 13])
    spec = spec_of(tmp_path, clip=None)
    _, ours = gradient(spec, data, rows, 1, 40, tmp_path)
    model = tiny_model().double()
    losses = []
    assert data.reference is not None
    for row in rows:
        pair = data.table[int(row)]
        sums = []
        for answer in (pair.chosen, pair.rejected):
            ids = torch.tensor(np.concatenate([pair.prompt, answer]), dtype=torch.int64)[None]
            logps = model(input_ids=ids).logits[0].log_softmax(-1)
            scored = logps[len(pair.prompt) - 1 : -1].gather(1, ids[0, len(pair.prompt) :, None])
            sums.append(scored.sum()[None])
        one = torch.ones(1)
        ref_c, ref_r = torch.tensor([data.reference.chosen_N[row]]), torch.tensor([data.reference.rejected_N[row]])
        losses.append(preference_loss("dpo", PairLogps(sums[0], sums[1], ref_c, ref_r, one, one), {"beta": 0.5}))
    torch.cat(losses).mean().backward()
    theirs = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_supervised_loss_is_over_the_tokens_of_the_whole_batch(tmp_path: Path) -> None:
    table = Pairs(6, seed=2, demonstrations=True)
    spec = spec_of(tmp_path, kind="sft", options={}, epochs=20, starts_at_reference=False, learning_rate=1e-2)
    first = -reference_of(tiny_model(), table).chosen_N.sum() / table.lengths_N3[:, 1].sum()
    train(spec, Data(table, None), heldout=Data(table, None))
    lines = lines_of(tmp_path)
    assert lines[0]["loss"] == pytest.approx(first, rel=1e-5)
    assert lines[0]["perplexity"] == pytest.approx(math.exp(first), rel=1e-5)
    assert lines[-1]["loss"] < 0.5 * first
    assert lines[-1]["heldout/loss"] < 0.5 * first
    assert not any(name.startswith(("rewards", "logps")) or name == "heldout/accuracy" for name in lines[-1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dpo", {"beta": 0.1, "label_smoothing": 0.2}),
        ("dpop", {"beta": 0.3, "penalty": 50.0}),
        ("dpop", {"beta": 0.3, "penalty": 50.0, "penalty_position": "outside"}),
        ("ipo", {"beta": 0.1}),
        ("cpo", {"beta": 0.1}),
    ],
)
def test_every_loss_trains_and_the_first_step_is_checked(tmp_path: Path, data: Data, kind: str, options: dict) -> None:
    own = Data(data.table, None) if kind == "cpo" else data  # as `open_data` gives it
    spec = spec_of(tmp_path, kind=kind, options=options, max_steps=2, starts_at_reference=kind != "cpo")
    bench = train(spec, own)
    lines = lines_of(tmp_path)
    assert len(lines) == 2 and None not in lines[-1].values()
    assert ("dpop/active" in lines[-1]) == (kind == "dpop")
    assert ("logps/chosen_delta" in lines[-1]) == (kind != "cpo")
    if kind in {"dpo", "dpop"}:
        assert bench.result is not None and bench.result.first is not None
        assert abs(lines[0]["loss"] - math.log(2)) <= bench.result.first["loss_tolerance"]
        assert lines[0]["first/largest_h"] <= lines[0]["first/h_tolerance"]


def test_every_seed_step_and_worker_draws_its_own_numbers(tmp_path: Path) -> None:
    drawn: dict[tuple[int, int, int], float] = {}
    for key in itertools.product((0, 1), (1, 2, 3), (0, 1, 63)):
        seed, step, rank = key
        seed_step(spec_of(tmp_path, seed=seed), step, rank)
        drawn[key] = float(torch.rand((), dtype=torch.float64))
        seed_step(spec_of(tmp_path, seed=seed), step, rank)
        assert float(torch.rand((), dtype=torch.float64)) == drawn[key]
    assert len(set(drawn.values())) == len(drawn)


class EndedError(Exception):
    """Ends a run at its first backward pass."""


class Drawing(TorchEngine):
    """Tells the seed that the first pass draws from, and ends there."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        raise EndedError(torch.initial_seed())


def test_the_loop_seeds_each_worker_by_its_rank(tmp_path: Path, data: Data) -> None:
    """With one seed for all, the workers would drop the same elements of an adapter."""
    seeds = []
    for rank in (0, 1):
        spec = spec_of(tmp_path, workers=2)
        engine, worker = Drawing(spec, PairScorer(tiny_model()), CPU), Worker(rank, 2)
        checkpoints = Checkpoints(tmp_path, Alone(), 2)
        with pytest.raises(EndedError) as ended:
            run(spec, Parts(engine, data, None, 96, worker, checkpoints, None, None))
        seeds += ended.value.args
    assert len(set(seeds)) == 2


def test_bfloat16_keeps_float32_masters(tmp_path: Path, data: Data) -> None:
    """A learning rate far below bfloat16's resolution moves the masters, and in the end the weights."""
    spec = spec_of(tmp_path, dtype="bfloat16", starts_at_reference=False)
    engine = TorchEngine(spec, PairScorer(tiny_model(dtype=torch.bfloat16)), CPU)
    weight, master = engine.trained[1], engine.masters[1]
    before, start = master.clone(), weight.detach().clone()
    for rate, moved in ((1e-6, False), (1e-2, True)):
        engine.backward(weight.sum(), last=True)
        assert engine.step(rate, float(engine.finish_gradient())).applied
        assert not torch.equal(master, before)
        assert torch.equal(weight, start) is not moved
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, master.to(torch.bfloat16))


@pytest.mark.parametrize("stop", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path: Path, data: Data, stop: int) -> None:
    spec = spec_of(tmp_path / "whole", weight_decay=0.1)
    whole = train(spec, data)
    parted = dataclasses.replace(spec, folder=str(tmp_path / "parted"))
    # Same schedule, but interrupted: the run dies in the step after the checkpoint.
    _interrupt(parted, data, stop + 1)
    again = train(parted, data)
    assert again.resumed == stop
    assert same(state_of(again.engine), state_of(whole.engine))
    assert (tmp_path / "parted/ledger.jsonl").read_text() == (tmp_path / "whole/ledger.jsonl").read_text()
    assert timeless(tmp_path / "parted") == timeless(tmp_path / "whole")


def _interrupt(spec: TrainSpec, data: Data, step: int) -> None:
    class StopError(Exception):
        pass

    class Engine(TorchEngine):
        steps = 0

        def step(self, learning_rate: float, norm: float | None):  # type: ignore[no-untyped-def]
            self.steps += 1
            if self.steps == step:
                raise StopError
            return super().step(learning_rate, norm)

    import train_bench

    original = train_bench.TorchEngine
    train_bench.TorchEngine = Engine  # type: ignore[misc]
    try:
        with pytest.raises(StopError):
            train(spec, data)
    finally:
        train_bench.TorchEngine = original  # type: ignore[misc]


def test_a_finished_run_trains_no_further(tmp_path: Path, data: Data) -> None:
    done = train(spec_of(tmp_path), data)
    again = train(spec_of(tmp_path), data)
    assert again.resumed == 12
    assert same(state_of(again.engine), state_of(done.engine))
