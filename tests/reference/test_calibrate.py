"""The calibration gate: what another engine's error does to a loss, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.losses.sensitivity import MOST, dpo_gain, dpop_gain, ipo_gain
from ratchet.reference.calibrate import Calibration, calibrate
from ratchet.reference.store import Logps

N = 256
IDS = [f"pair-{i:03d}" for i in range(N)]
DPOP = {"beta": 0.3, "penalty": 50.0}


def scores(seed: int = 0) -> Logps:
    random = np.random.default_rng(seed)
    tokens = random.integers(20, 200, (2, N)).astype(np.int32)
    return Logps(-tokens[0] * 0.7, -tokens[1] * 0.9, tokens[0], tokens[1])


def noisy(own: Logps, sigma: float, bias: float = 0.0, seed: int = 1) -> Logps:
    random = np.random.default_rng(seed)
    off_w, off_l = random.normal(bias, sigma, (2, N))
    return Logps(own.chosen + off_w, own.rejected + off_l, own.chosen_tokens, own.rejected_tokens)


def gate(kind: str, options: dict[str, float], sigma: float, bias: float = 0.0) -> Calibration:
    return calibrate(kind, options, IDS, scores(), noisy(scores(), sigma, bias))


def test_dpop_refuses_half_a_nat_and_dpo_bears_a_twentieth() -> None:
    refused, borne = gate("dpop", DPOP, 0.0, bias=0.5), gate("dpo", {"beta": 0.1}, 0.05)
    assert not refused.passed and borne.passed
    # both sides half a nat too high: β(1 + λ) · 0.5 by the chosen one, less β · 0.5 by the rejected one
    assert refused.shift == pytest.approx(0.3 * 51 * 0.5 - 0.3 * 0.5)
    assert borne.shift == pytest.approx(0.1 * 0.05 * math.sqrt(2), rel=0.1)
    assert not gate("dpop", DPOP, 0.5).passed and gate("dpo", {"beta": 0.1}, 0.0, bias=0.05).passed


@pytest.mark.parametrize(("sigma", "first"), [(0.05, 0.88), (0.2, 1.65), (0.5, 3.43)])
def test_the_first_loss_of_dpop_is_the_known_one(sigma: float, first: float) -> None:
    runs = [calibrate("dpop", DPOP, IDS, scores(), noisy(scores(), sigma, seed=seed)) for seed in range(40)]
    losses = [run.first_loss for run in runs]  # the known figures are expectations
    assert np.mean(losses) == pytest.approx(first, rel=0.04)  # type: ignore[arg-type]


def test_equal_scores_pass_every_loss() -> None:
    for kind in ("dpo", "dpop", "ipo"):
        found = calibrate(kind, {"beta": 0.5}, IDS, scores(), scores())
        assert found.passed and found.shift == 0.0 and found.noise == 0.0
        assert found.first_loss == (pytest.approx(math.log(2)) if kind in {"dpo", "dpop"} else None)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("cpo", "training.no-reference"),
        ("sft", "training.no-loss"),
        ("sppo", "plan.kind"),
        ("robust", "plan.kind"),
        ("", "plan.kind"),
    ],
)
def test_a_loss_that_reads_no_reference_or_is_not_known_opens_no_gate(kind: str, code: str) -> None:
    with raises(code):
        gate(kind, {"beta": 0.1}, 0.0)


def test_the_figures_name_the_worst_pair() -> None:
    foreign = scores()
    foreign.chosen[17] -= 3.0
    foreign.rejected[40] += 2.0
    found = calibrate("dpo", {"beta": 0.1}, IDS, scores(), foreign)
    assert (found.chosen.worst_pair, found.chosen.worst) == ("pair-017", pytest.approx(-3.0))
    assert (found.rejected.worst_pair, found.rejected.worst) == ("pair-040", pytest.approx(2.0))
    assert found.chosen.bias == pytest.approx(-3.0 / N)
    assert found.chosen.deviation == pytest.approx(math.sqrt(9 / N - (3 / N) ** 2))
    assert found.noise == pytest.approx(3.0) and found.pairs == N
    assert "pair-017" in found.figures() and "-3" in found.figures()


def test_errors_that_add_up_are_told_from_errors_that_cancel() -> None:
    own, tokens = scores(), scores()
    apart = Logps(own.chosen + 1.4, own.rejected - 1.4, tokens.chosen_tokens, tokens.rejected_tokens)
    together = Logps(own.chosen + 1.4, own.rejected + 1.4, tokens.chosen_tokens, tokens.rejected_tokens)
    assert calibrate("dpo", {"beta": 0.1}, IDS, own, apart).shift == pytest.approx(0.28)
    assert calibrate("dpo", {"beta": 0.1}, IDS, own, together).shift == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("kind", "options", "off"), [("dpo", {"beta": 0.1}, 30.0), ("dpop", DPOP, 0.2)])
def test_one_pair_that_is_far_off_is_enough_to_refuse(kind: str, options: dict[str, float], off: float) -> None:
    foreign = scores()
    foreign.chosen[17] -= off
    found = calibrate(kind, options, IDS, scores(), foreign)
    assert found.shift <= found.bound and not found.passed and "pair-017" in found.figures()


@given(st.floats(0.01, 2.0), st.floats(0.0, 100.0), st.floats(1e-4, 1.0))
def test_dpop_gains_as_its_slope_does(beta: float, penalty: float, off: float) -> None:
    """z(h_w) = β (h_w − λ relu(−h_w)) by finite differences, below the kink, where it is steepest."""

    def z(h_w: float) -> float:
        return beta * (h_w - penalty * max(0.0, -h_w))

    slope = (z(-off) - z(-2 * off)) / off
    assert dpop_gain({"beta": beta, "penalty": penalty}).chosen == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_bound_is_a_tenth_of_a_pair_s_weight(smoothing: float) -> None:
    by = dpo_gain({"beta": 0.1, "label_smoothing": smoothing})
    off = 1e-4  # nats, small enough for the first order

    def weight(d: float) -> float:
        sigma = 1 / (1 + math.exp(0.1 * d))
        return (1 - smoothing) * sigma - smoothing * (1 - sigma)

    change = abs(weight(off) - weight(0.0)) / weight(0.0)
    assert change == pytest.approx(by.chosen * off / 2, rel=1e-4)
    assert MOST / 2 == 0.1


def test_ipo_s_weight_changes_as_its_gain_says() -> None:
    beta, off = 0.2, 1e-4
    by = ipo_gain({"beta": beta})
    assert by.per_token and not ipo_gain({"beta": beta, "length_normalised": False}).per_token
    change = abs((off - 1 / (2 * beta)) / (-1 / (2 * beta)) - 1)
    assert change == pytest.approx(by.chosen * off / 2, rel=1e-9)
    assert gate("ipo", {"beta": 0.1}, 5.0).shift < gate("ipo", {"beta": 0.1, "length_normalised": False}, 5.0).shift
