"""Losses against the golden vectors, a second computation in numpy, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_losses import CASES, FIELDS, FORMULAS, GOLDEN, numpy_loss
from raised import raises
from ratchet.losses.preference import LOSSES, PairLogps, dpo, dpop, pair_metrics, preference_loss, sft
from ratchet.plan.stage_kinds import STAGE_KINDS
from ratchet.train.objective import metric_sums


def name(case: dict[str, Any]) -> str:
    return "-".join(f"{value}" for key, value in case.items() if key not in {"loss", "mean"})


def golden_logps(dtype: torch.dtype) -> PairLogps:
    sides = [torch.tensor(GOLDEN[field], dtype=dtype) for field in FIELDS]
    return PairLogps(*sides, torch.tensor(GOLDEN["chosen_tokens"]), torch.tensor(GOLDEN["rejected_tokens"]))


def options(case: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key not in {"kind", "loss", "mean"}}


@pytest.mark.parametrize("case", CASES, ids=name)
def test_golden_in_float64_and_float32(case: dict[str, Any]) -> None:
    exact = preference_loss(case["kind"], golden_logps(torch.float64), options(case))
    np.testing.assert_allclose(exact.numpy(), case["loss"], rtol=0, atol=1e-12)
    assert exact.mean().item() == pytest.approx(case["mean"], abs=1e-11)
    single = preference_loss(case["kind"], golden_logps(torch.float32), options(case))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), case["loss"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_equals_numpy_on_random_pairs(case: dict[str, Any]) -> None:
    random = np.random.default_rng(7)
    sides = [random.uniform(-200, -1, 400) for _ in FIELDS]
    tokens = [random.integers(1, 90, 400).astype(float) for _ in range(2)]
    logps = PairLogps(*(torch.tensor(side) for side in [*sides, *tokens]))
    ours = preference_loss(case["kind"], logps, options(case)).numpy()
    np.testing.assert_allclose(ours, numpy_loss(case, sides, tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_gradients_equal_finite_differences(case: dict[str, Any]) -> None:
    logps = golden_logps(torch.float64)
    keep = torch.tensor([0, 1, 2, 4])  # pair 3 has h_w = 0: the kink has a test of its own
    sides = [getattr(logps, f"{field}_B")[keep].clone().requires_grad_() for field in FIELDS]
    tokens = (logps.chosen_tokens_B[keep], logps.rejected_tokens_B[keep])
    assert torch.autograd.gradcheck(
        lambda *s: preference_loss(case["kind"], PairLogps(*s, *tokens), options(case)), sides, eps=1e-6, atol=1e-6
    )


def single(h_w: float, h_l: float, *, grad: bool = False) -> PairLogps:
    one = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    policy = one(-40 + h_w).requires_grad_(grad)
    count = torch.tensor([10])
    return PairLogps(policy, one(-50 + h_l), one(-40.0), one(-50.0), count, count)


def slope(loss: torch.Tensor, logps: PairLogps) -> float:
    return float(torch.autograd.grad(loss.sum(), logps.policy_chosen_B)[0])


ratios = st.floats(-30, 30).map(lambda x: round(x, 3))


@given(ratios, ratios, st.floats(0.01, 1), st.floats(0, 60))
def test_dpop_is_dpo_with_a_heavier_fall(h_w: float, h_l: float, beta: float, penalty: float) -> None:
    heavier = h_w * (1 + penalty) if h_w < 0 else h_w
    ours = dpop(single(h_w, h_l), beta=beta, penalty=penalty)
    torch.testing.assert_close(ours, dpo(single(heavier, h_l), beta=beta), rtol=1e-9, atol=1e-9)
    for position in ("inside", "outside"):
        plain = dpop(single(h_w, h_l), beta=beta, penalty=0, penalty_position=position)
        assert torch.equal(plain, dpo(single(h_w, h_l), beta=beta))
    assert (dpop(single(h_w, h_l), beta=beta, penalty=penalty, penalty_position="outside") >= plain).all()


@given(ratios, ratios)
def test_chosen_slope_pushes_up_and_harder_below_the_reference(h_w: float, h_l: float) -> None:
    logps = single(h_w, h_l, grad=True)
    plain = slope(dpo(logps, beta=0.3), logps)
    assert plain < 0
    for position in ("inside", "outside"):
        positive = slope(dpop(logps, beta=0.3, penalty=50, penalty_position=position), logps)
        assert positive < plain if h_w < 0 else positive == pytest.approx(plain, rel=1e-12)
    outside = slope(dpop(logps, beta=0.3, penalty=50, penalty_position="outside"), logps)
    assert outside - plain == pytest.approx(-50 if h_w < 0 else 0, abs=1e-9)


@given(ratios, ratios)
def test_dpo_does_not_see_a_fall_that_both_sides_share(h_w: float, h_l: float) -> None:
    """The failure that DPOP is about: only the margin matters to DPO."""
    torch.testing.assert_close(dpo(single(h_w, h_l), beta=0.3), dpo(single(h_w - 9, h_l - 9), beta=0.3))
    assert (dpop(single(h_w - 60, h_l - 60), beta=0.3) > dpo(single(h_w - 60, h_l - 60), beta=0.3)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_step_is_ln2_and_on_the_kink_dpop_moves_as_dpo(dtype: torch.dtype) -> None:
    side = torch.linspace(-90, -3, 7, dtype=dtype)
    tokens = torch.arange(1, 8)

    def start() -> tuple[PairLogps, list[torch.Tensor]]:
        policy = [side.clone().requires_grad_(), side.flip(0).clone().requires_grad_()]
        return PairLogps(*policy, side, side.flip(0), tokens, tokens), policy

    gradients = []
    for kind, extra in (("dpo", {}), ("dpo", {"label_smoothing": 0.2}), ("dpop", {}), ("dpop", {"penalty": 5.0})):
        logps, policy = start()
        loss = preference_loss(kind, logps, {"beta": 0.3, **extra})
        torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
        assert LOSSES[kind].start == math.log(2)
        gradients.append(torch.autograd.grad(loss.sum(), policy))
    for position in ("inside", "outside"):
        logps, policy = start()
        options = {"beta": 0.3, "penalty": 50.0, "penalty_position": position}
        gradients.append(torch.autograd.grad(preference_loss("dpop", logps, options).sum(), policy))
    for k in (2, 3, 4, 5):
        assert torch.equal(gradients[0][0], gradients[k][0]) and torch.equal(gradients[0][1], gradients[k][1])


@given(st.lists(st.tuples(ratios, ratios), min_size=1, max_size=8))
def test_sums_of_parts_are_the_sums_of_the_whole(pairs: list[tuple[float, float]]) -> None:
    whole = [single(*pair) for pair in pairs]
    sums = torch.zeros(10, dtype=torch.float64)
    for logps in whole:
        metrics = pair_metrics("dpop", logps, dpop(logps, beta=0.3), 0.3)
        sums += metric_sums(metrics)
    means = dict(zip(metrics, (sums / len(pairs)).tolist(), strict=True))
    h_w = np.array([pair[0] for pair in pairs])
    h_l = np.array([pair[1] for pair in pairs])
    assert means["rewards/chosen"] == pytest.approx(0.3 * h_w.mean(), abs=1e-9)
    assert means["rewards/margins"] == pytest.approx(0.3 * (h_w - h_l).mean(), abs=1e-9)
    assert means["logps/chosen_delta"] == pytest.approx(h_w.mean(), abs=1e-9)
    assert means["logps/rejected"] == pytest.approx(h_l.mean() - 50, abs=1e-9)
    ours = np.mean([float(dpop(logps, beta=0.3)) for logps in whole])
    assert means["loss"] == pytest.approx(ours, rel=1e-12)


def test_shares_count_pairs() -> None:
    logps = golden_logps(torch.float32)
    metrics = pair_metrics("dpop", logps, dpop(logps, beta=0.3), 0.3)
    means = dict(zip(metrics, (metric_sums(metrics) / 5).tolist(), strict=True))
    assert means["rewards/accuracies"] == pytest.approx(3 / 5)  # d = 3.5, -1.5, -7.75, 0.25, 8.25
    assert means["dpop/active"] == pytest.approx(2 / 5)  # h_w = 2.5, -2, -2.25, 0, 5.5
    assert "dpop/active" not in pair_metrics("dpo", logps, dpo(logps, beta=0.3), 0.3)


@pytest.mark.parametrize("kind", LOSSES)
def test_answers_of_equal_reward_are_not_in_the_right_order(kind: str) -> None:
    """At a first step every reward is 0, and an accuracy of 100 % would be a fable."""
    even = PairLogps(*(torch.full((3,), -2.0) for _ in range(4)), *(torch.full((3,), 4) for _ in range(2)))
    accuracies_B = pair_metrics(kind, even, torch.zeros(3), 0.3)["rewards/accuracies"]
    assert accuracies_B.tolist() == [False, False, False]


def test_every_kind_takes_the_options_of_its_stage() -> None:
    assert {case["kind"] for case in CASES} == FORMULAS.keys() == LOSSES.keys()
    for kind in LOSSES:
        spec = STAGE_KINDS[kind].settings.model_validate({"kind": kind, "data": ["a"]})
        ours = preference_loss(kind, golden_logps(torch.float64), spec.model_dump())
        sides = [np.array(GOLDEN[field]) for field in FIELDS]
        tokens = [np.array(GOLDEN[f"{side}_tokens"], float) for side in ("chosen", "rejected")]
        np.testing.assert_allclose(ours.numpy(), numpy_loss(spec.model_dump(), sides, tokens), rtol=1e-12)


def test_sft_is_the_negative_log_likelihood_and_an_unknown_kind_is_refused() -> None:
    assert sft(torch.tensor([-1.5, -2.0])).tolist() == [1.5, 2.0]
    with raises("plan.kind", "sppo"):
        preference_loss("sppo", golden_logps(torch.float32), {"beta": 0.1})
