"""The check of the first step in bfloat16: it lets rounding pass, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import train_bench
from nightly import nightly
from raised import raises
from ratchet.errors import TrainingError
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import keep_rotary_in_float32
from ratchet.model.noise import Noise, combine_noise, measure_noise, routes
from ratchet.pairs.pair import TokenisedPair
from ratchet.train import first_step
from ratchet.train.engine import TorchEngine
from ratchet.train.first_step import Figures, Side
from ratchet.train.objective import Data, Reference
from train_bench import CPU, Pairs, lines_of, spec_of, tiny_model, train

pytestmark = pytest.mark.heavy

BF16 = torch.bfloat16
ENDED = Pairs(22)
ENDED.rows = [
    TokenisedPair(pair.pair_id, pair.prompt, *(np.append(side, np.int32(2)) for side in (pair.chosen, pair.rejected)))
    for pair in ENDED.rows
]
ENDED.lengths_N3 = ENDED.lengths_N3 + np.array([0, 1, 1], np.int32)


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_bench, "tiny_model", lambda seed=0: tiny_model(seed, BF16))


def spec(folder: Path, **changes: Any) -> Any:
    made: dict[str, Any] = {"kind": "dpop", "options": {"beta": 0.3, "penalty": 50.0}, "dtype": "bfloat16"}
    return spec_of(folder, **{**made, "max_steps": 1, "batch": 22, **changes})


@torch.no_grad()
def scored(model: Any, rows: list[TokenisedPair]) -> Reference:
    """As the reference's own process does: one pair at a time."""
    sides = [score(PairScorer(model), [pair], CPU) for pair in rows]
    chosen, rejected = ([float(getattr(side, name)) for side in sides] for name in ("chosen_B", "rejected_B"))
    return Reference(np.array(chosen), np.array(rejected))


def updated(rate: float) -> Any:
    """The model one optimiser step later."""
    engine = TorchEngine(spec_of(Path("unused"), dtype="bfloat16"), PairScorer(tiny_model(dtype=BF16)), CPU)
    sides = score(engine, ENDED.rows, CPU)
    engine.backward((sides.rejected_B - sides.chosen_B).mean(), last=True)
    engine.step(rate, float(engine.finish_gradient()))
    return engine.scorer.causal


def test_the_right_reference_passes_within_what_was_measured(tmp_path: Path) -> None:
    bench = train(spec(tmp_path), Data(ENDED, scored(tiny_model(dtype=BF16), ENDED.rows)))
    assert bench.result is not None and bench.result.first is not None
    first = bench.result.first
    assert first["off"] == 0 and first["answers"] == 44
    assert abs(first["loss"] - math.log(2)) <= first["loss_tolerance"] <= 0.1
    assert 1e-4 < first["noise"] < 1e-2 and first["h_tolerance"] < 0.2  # 16 units of the precision would make 0.38
    assert lines_of(tmp_path)[0]["first/h_tolerance"] == first["h_tolerance"]


def test_a_reference_that_is_one_small_step_old_is_refused(tmp_path: Path) -> None:
    stale = scored(updated(3e-4), ENDED.rows)
    fresh = scored(tiny_model(dtype=BF16), ENDED.rows)
    assert np.abs(stale.chosen_N - fresh.chosen_N).max() < 1.0
    with raises("training.first-step") as raised:
        train(spec(tmp_path), Data(ENDED, stale))
    assert "most pairs are off" in raised.value.fix


@pytest.mark.parametrize("kind", nightly(["dpo", "dpop", "ipo"], lambda kind: kind == "dpop"))
def test_a_reference_without_the_end_of_answers_is_refused(tmp_path: Path, kind: str) -> None:
    options = {"beta": 0.3} | ({"penalty": 50.0} if kind == "dpop" else {})
    cut = [dataclasses.replace(pair, chosen=pair.chosen[:-1], rejected=pair.rejected[:-1]) for pair in ENDED.rows]
    with raises("training.first-step"):
        train(spec(tmp_path, kind=kind, options=options), Data(ENDED, scored(tiny_model(dtype=BF16), cut)))


def test_one_stale_row_is_refused_and_named(tmp_path: Path) -> None:
    reference = scored(tiny_model(dtype=BF16), ENDED.rows)
    reference.chosen_N[13] += 0.3
    with raises("training.first-step", "1 of 44", ENDED.pair_id(13)) as raised:
        train(spec(tmp_path, kind="dpo", options={"beta": 0.1}), Data(ENDED, reference))
    assert "a few pairs are off" in raised.value.fix


def test_dropout_is_not_taken_for_rounding(tmp_path: Path) -> None:
    """What rounding does is measured without it, so it cannot widen its own tolerance."""

    def dropping(seed: int = 0) -> Any:
        model = tiny_model(seed, BF16)
        for layer in model.model.layers:
            layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.1))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_bench, "tiny_model", dropping)
        with raises("training.first-step"):
            train(spec(tmp_path), Data(ENDED, scored(tiny_model(dtype=BF16), ENDED.rows)))


def figures(h: float, count: int, *, routes: bool, noise: float = 1e-3) -> Figures:
    """44 answers of 16 tokens, of which `count` are off by `h`, where rounding does `noise` a token."""
    sides = [Side(f"p{i // 2}", h if i < count else 1e-4, -20.0, 16) for i in range(44)]
    return Figures(tuple(sides), Noise(noise**2 * 160, 160), routes)


@pytest.mark.parametrize(
    ("h", "count", "routes", "passes"),
    [
        (0.03, 5, False, True),  # within ten times what rounding does to 16 tokens: 0.04
        (0.05, 1, False, False),
        (0.05, 1, True, True),  # a turned choice of an expert
        (0.8, 4, True, True),
        (0.8, 5, True, False),  # more than a tenth
        (0.02, 44, False, False),  # each within its tolerance, but all of them off
        (0.02, 44, True, False),
        (float("nan"), 1, False, False),
    ],
)
def test_answers_that_are_off_are_counted(tmp_path: Path, h: float, count: int, routes: bool, passes: bool) -> None:
    asked = lambda: first_step.check(spec(tmp_path, kind="dpo"), figures(h, count, routes=routes), math.log(2), 22)  # noqa: E731
    if passes:
        found = asked()
        assert found.off == (count if h > 0.04 else 0) and found.h_tolerance == pytest.approx(0.04, rel=1e-2)
    else:
        with raises("training.first-step"):
            asked()


@pytest.mark.parametrize("routes", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_no_loss_far_from_ln2_is_accepted_whatever_rounding_explains(
    tmp_path: Path, routes: bool, noise: float
) -> None:
    seen = figures(0.0, 0, routes=routes, noise=noise)
    assert first_step.check(spec(tmp_path), seen, math.log(2), 22).loss_tolerance <= 0.1
    for loss in (math.log(2) + 0.11, math.log(2) - 0.11):
        with raises("training.first-step"):
            first_step.check(spec(tmp_path), seen, loss, 22)
    with pytest.raises(TrainingError) as raised:
        first_step.check(spec(tmp_path), seen, 0.9, 22)
    assert "float32" in raised.value.fix and "first_loss" in raised.value.fix


def test_a_stage_may_allow_what_rounding_alone_does_to_its_loss(tmp_path: Path) -> None:
    """No further than rounding explains, and answers are held to their own rounding as before."""
    made = spec(tmp_path, first_loss=0.5)
    passed = first_step.check(made, figures(0.0, 0, routes=False, noise=0.01), math.log(2) + 0.4, 22)
    assert passed.loss_tolerance == 0.5
    for seen, loss in (
        (figures(0.0, 0, routes=False, noise=0.01), math.log(2) + 0.51),
        (figures(0.0, 0, routes=False, noise=1e-5), math.log(2) + 0.4),
        (figures(0.5, 1, routes=False, noise=0.01), math.log(2) + 0.4),
    ):
        with raises("training.first-step"):
            first_step.check(made, seen, loss, 22)


def test_turned_choices_are_told_with_their_count(tmp_path: Path, caplog: Any) -> None:
    found = first_step.check(spec(tmp_path, kind="dpo"), figures(0.8, 3, routes=True), math.log(2), 22)
    first_step.warn_of_turned("align", found)
    assert "3 of 44 answers" in caplog.text and "0.8 nats" in caplog.text and "choices of experts" in caplog.text
    caplog.clear()
    first_step.warn_of_turned("align", dataclasses.replace(found, off=0))
    assert not caplog.text


def test_rounding_is_measured_on_the_model_itself() -> None:
    """By its float64 value: what each layout is off by is of the size that is measured between two."""
    model = tiny_model(dtype=BF16)
    scorer = PairScorer(model)
    with torch.no_grad():
        sides = score(scorer, ENDED.rows, CPU)
    found = measure_noise(scorer, ENDED.rows, sides, CPU)
    assert found.tokens == ENDED.lengths_N3[:, 1:].sum()
    exact = scored(tiny_model(dtype=BF16).double(), ENDED.rows)
    off = np.concatenate([sides.chosen_B.numpy() - exact.chosen_N, sides.rejected_B.numpy() - exact.rejected_N])
    size = float(np.sqrt((off**2).sum() / found.tokens))
    assert size / 20 < found.a_token(BF16) < 2 * size
    assert combine_noise([found, Noise()]) == found and Noise().a_token(BF16) > 0
    single = PairScorer(tiny_model())
    with torch.no_grad():
        exactly = measure_noise(single, ENDED.rows, score(single, ENDED.rows, CPU), CPU)
    assert exactly.a_token(torch.float32) < 1e-5


def test_a_model_with_experts_is_known_as_one(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, sliding_window=None, **sizes)
    assert routes(config) and not routes(tiny_model().config)
    model = MixtralForCausalLM(config).to(BF16)
    assert TorchEngine(spec(tmp_path), PairScorer(model), CPU).routes


class Unshared(LlamaForCausalLM):
    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False


def unshared(seed: int) -> Any:
    """A model whose sequences are padded, so that each pass rounds a few answers otherwise, and most not."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=64, max_position_embeddings=256, initializer_range=0.2, **sizes)
    model = Unshared(config).to(BF16)
    keep_rotary_in_float32(model)
    return model


@pytest.mark.parametrize("seed", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_a_reference_that_was_scored_in_other_passes_is_not_called_stale(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    table = Pairs(24, seed)
    rows = [
        TokenisedPair(pair.pair_id, *(draw.integers(3, 64, draw.integers(60, 100)).astype(np.int32) for _ in range(3)))
        for pair in table.rows
    ]
    table.rows = rows
    table.lengths_N3 = np.array([(len(p.prompt), len(p.chosen), len(p.rejected)) for p in rows], np.int32)
    model = unshared(seed)
    scorer = PairScorer(model).eval()
    assert scorer.packing.why_padded
    by_length = sorted(range(24), key=lambda row: len(rows[row].chosen))
    columns = np.zeros((2, 24))
    with torch.no_grad():
        for some in (by_length[at : at + 5] for at in range(0, 24, 5)):
            sides = score(scorer, [rows[row] for row in some], CPU)
            columns[:, some] = np.stack([sides.chosen_B.numpy(), sides.rejected_B.numpy()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_bench, "tiny_model", lambda _: unshared(seed))
        made = spec(tmp_path, kind="dpo", options={"beta": 0.1}, batch=24, token_budget=1400)
        bench = train(made, Data(table, Reference(*columns)))
    assert bench.result is not None and bench.result.first is not None
    assert 0.0 < bench.result.first["largest_h"] < bench.result.first["h_tolerance"]
