"""Which weights are decayed, held against transformers' Trainer; and the scale of a float16 loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from raised import raises
from ratchet.model.forward import PairScorer, score
from ratchet.plan.cluster import DeepSpeed
from ratchet.train.engine import TorchEngine
from ratchet.train.optimiser import LossScale, coming_bytes, trained_by
from tiny_models import CONFIGS, tiny
from train_bench import CPU, Pairs, spec_of, tiny_model


@pytest.mark.parametrize("family", [*CONFIGS, "bloom", "mamba"])
def test_the_weights_that_are_decayed_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model = tiny(family)
    theirs = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]  # it reads nothing of itself
    names = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    found = trained_by(spec_of(tmp_path), model)
    assert {names[id(weight)] for weight in found.decayed} == theirs & set(names.values())
    assert {names[id(weight)] for weight in found.others} == set(names.values()) - theirs
    assert found.others or family == "hrm-text"  # whose norms have no weights
    every = trained_by(spec_of(tmp_path, decay_norms=True), model)
    assert not every.others and len(every.decayed) == len(found.all)


@pytest.mark.parametrize(
    ("zero", "offload", "device", "each"),
    [
        (1, False, "cuda", 8 / 4 + 4 + 4 / 4),  # whole gradients, a fourth of moments and of the update's copy
        (2, False, "cuda", 16 / 4),
        (3, False, "cuda", 16 / 4),
        (1, True, "cuda", 4),
        (2, True, "cuda", 0),
        (3, True, "cuda", 0),
        (3, True, "cpu", 16 / 4),  # where offload goes to the same memory
    ],
)
def test_what_is_offloaded_takes_nothing_of_the_device(
    tmp_path: Path, zero: int, offload: bool, device: str, each: float
) -> None:
    spec = spec_of(tmp_path, deepspeed=DeepSpeed(zero=zero, offload_optimizer=offload))
    assert coming_bytes(spec, 1000, 4, device) == 1000 * each


@pytest.mark.parametrize("everywhere", [False, True])
def test_weight_decay_falls_on_norms_where_the_stage_asks_for_it(tmp_path: Path, everywhere: bool) -> None:
    """Without a gradient AdamW only decays: by learning rate times weight decay."""
    spec = spec_of(tmp_path, weight_decay=0.5, decay_norms=everywhere)
    engine = TorchEngine(spec, PairScorer(tiny_model()), CPU)
    before = {name: weight.detach().clone() for name, weight in engine.scorer.named_parameters()}
    engine.step(0.1, 0.0)
    for name, weight in engine.scorer.named_parameters():
        shrunk = 1.0 if "norm" in name and not everywhere else 0.95
        torch.testing.assert_close(weight.detach(), before[name] * shrunk, msg=name)


def test_a_weight_that_no_pass_of_a_step_reaches_has_gradient_0_there(tmp_path: Path) -> None:
    engine, table = TorchEngine(spec_of(tmp_path), PairScorer(tiny_model()), CPU), Pairs(8)
    engine.backward(score(engine, table.rows, CPU).chosen_B.sum(), last=True)
    assert all(total.any() for total in engine.sums)
    engine.step(0.0, float(engine.finish_gradient()))
    for last in (False, True):  # two passes add up
        engine.backward(engine.trained[0].sum(), last=last)
    assert float(engine.finish_gradient()) == pytest.approx(2 * math.sqrt(engine.trained[0].numel()))
    assert [float(total.sum()) for total in engine.sums] == [2 * engine.trained[0].numel(), *[0] * len(engine.sums[1:])]


def test_what_does_not_train_is_in_no_group(tmp_path: Path) -> None:
    model = tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    found = trained_by(spec_of(tmp_path), model)
    assert len(found.all) == len(list(model.parameters())) - 1
    assert all(weight.requires_grad for weight in found.all)


def test_a_float16_loss_is_scaled_so_that_an_overflow_costs_a_step(tmp_path: Path) -> None:
    table = Pairs(8)
    scorer = PairScorer(tiny_model(dtype=torch.float16))
    engine = TorchEngine(spec_of(tmp_path, dtype="float16"), scorer, CPU)

    def step(times: float) -> tuple[bool, float]:
        sides = score(engine, table.rows, CPU)
        engine.backward((sides.chosen_B - sides.rejected_B).mean() * times, last=True)
        done = engine.step(1e-3, float(engine.finish_gradient()))
        return done.applied, done.grad_norm

    exact = PairScorer(tiny_model(dtype=torch.float16).double())
    sides = score(exact, table.rows, CPU)
    (sides.chosen_B - sides.rejected_B).mean().backward()
    norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in exact.parameters()))
    before = [weight.detach().clone() for weight in engine.trained]
    applied, seen = step(1e5)
    assert not applied and not math.isfinite(seen)
    assert all(torch.equal(weight, old) for weight, old in zip(engine.trained, before, strict=True))
    assert engine.scale is not None and engine.scale.value == 2.0**11
    applied, seen = step(1.0)
    assert applied and seen == pytest.approx(norm, rel=2e-2)
    folder = tmp_path / "saved"
    folder.mkdir()
    engine.save(folder)
    again = TorchEngine(spec_of(tmp_path, dtype="float16"), PairScorer(tiny_model(dtype=torch.float16)), CPU)
    again.load(folder, 1)
    assert again.scale is not None and vars(again.scale) == vars(engine.scale)


def test_a_scale_doubles_after_a_while_and_ends_at_1() -> None:
    scale = LossScale()
    for _ in range(1000):
        scale.seen(finite=True)
    assert scale.value == 2.0**13
    for _ in range(13):
        scale.seen(finite=False)
    assert scale.value == 1.0
    with raises("training.loss-scale"):
        scale.seen(finite=False)
