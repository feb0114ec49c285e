"""The losses a second way: their papers' formulas in numpy, none of the library's code, and values that numpy gave.

To add a loss: its formula in `FORMULAS`, and cases with what the formula gives on `GOLDEN` in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
FIELDS = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
GOLDEN: dict[str, list[float]] = {
    "policy_chosen": [-42.5, -10.0, -130.25, -7.75, -55.0],
    "policy_rejected": [-50.0, -9.5, -120.0, -8.25, -55.0],
    "reference_chosen": [-45.0, -8.0, -128.0, -7.75, -60.5],
    "reference_rejected": [-49.0, -9.0, -125.5, -8.0, -52.25],
    "chosen_tokens": [30, 8, 96, 5, 40],
    "rejected_tokens": [33, 8, 90, 6, 38],
}
"""Five pairs: summed log-probabilities in nats, and the answers' tokens."""


def nls(x: Any) -> Any:
    """Return −logσ(x)."""
    return np.logaddexp(0, -x)


def dpo_formula(case: Mapping[str, Any], pc: Array, pr: Array, rc: Array, rr: Array, nc: Array, nr: Array) -> Any:
    z, eps = case["beta"] * (pc - rc - pr + rr), case.get("label_smoothing", 0.0)
    return (1 - eps) * nls(z) + eps * nls(-z)


def dpop_formula(case: Mapping[str, Any], pc: Array, pr: Array, rc: Array, rr: Array, nc: Array, nr: Array) -> Any:
    d, p = pc - rc - pr + rr, np.where(pc < rc, rc - pc, 0.0)
    if case.get("penalty_position", "inside") == "inside":
        return nls(case["beta"] * (d - case["penalty"] * p))
    return nls(case["beta"] * d) + case["penalty"] * p


def ipo_formula(case: Mapping[str, Any], pc: Array, pr: Array, rc: Array, rr: Array, nc: Array, nr: Array) -> Any:
    hw, hl = pc - rc, pr - rr
    if case["length_normalised"]:
        hw, hl = hw / nc, hl / nr
    return (hw - hl - 0.5 / case["beta"]) ** 2


def cpo_formula(case: Mapping[str, Any], pc: Array, pr: Array, rc: Array, rr: Array, nc: Array, nr: Array) -> Any:
    return nls(case["beta"] * (pc - pr)) - case["nll_weight"] * pc / nc


def simpo_formula(case: Mapping[str, Any], pc: Array, pr: Array, rc: Array, rr: Array, nc: Array, nr: Array) -> Any:
    return nls(case["beta"] * pc / nc - case["beta"] * pr / nr - case["gamma"])


FORMULAS: Mapping[str, Callable[..., Any]] = {
    "dpo": dpo_formula,
    "dpop": dpop_formula,
    "ipo": ipo_formula,
    "cpo": cpo_formula,
    "simpo": simpo_formula,
}
CASES: list[dict[str, Any]] = [
    {
        "kind": "dpo",
        "beta": 0.1,
        "loss": [0.533382155419, 0.77095704779, 1.153918361356, 0.680725303526, 0.363416662127],
        "mean": 0.7004799060431895,
    },
    {
        "kind": "dpo",
        "beta": 0.3,
        "loss": [0.300058479618, 0.943248945997, 2.418293095995, 0.656350140827, 0.08080825173],
        "mean": 0.8797517828335712,
    },
    {
        "kind": "dpo",
        "beta": 1.0,
        "loss": [0.029750418273, 1.701413277983, 7.750430649798, 0.575939419879, 0.000261224435],
        "mean": 2.0115589980734163,
    },
    {
        "kind": "dpo",
        "beta": 0.1,
        "label_smoothing": 0.1,
        "loss": [0.568382155419, 0.75595704779, 1.076418361356, 0.683225303526, 0.445916662127],
        "mean": 0.7059799060431896,
    },
    {
        "kind": "dpo",
        "beta": 0.3,
        "label_smoothing": 0.2,
        "loss": [0.510058479618, 0.853248945997, 1.953293095995, 0.671350140827, 0.57580825173],
        "mean": 0.9127517828335712,
    },
    {
        "kind": "dpop",
        "beta": 0.3,
        "penalty": 50.0,
        "loss": [0.300058479618, 30.45, 36.075, 0.656350140827, 0.08080825173],
        "mean": 13.512443374434994,
    },
    {
        "kind": "dpop",
        "beta": 0.3,
        "penalty": 5.0,
        "loss": [0.300058479618, 3.481252160301, 5.70334038017, 0.656350140827, 0.08080825173],
        "mean": 2.044361882529306,
    },
    {
        "kind": "dpop",
        "beta": 0.1,
        "penalty": 50.0,
        "loss": [0.533382155419, 10.150039075318, 12.025005992493, 0.680725303526, 0.363416662127],
        "mean": 4.750513837776471,
    },
    {
        "kind": "dpop",
        "beta": 0.3,
        "penalty": 0.0,
        "loss": [0.300058479618, 0.943248945997, 2.418293095995, 0.656350140827, 0.08080825173],
        "mean": 0.8797517828335712,
    },
    {
        "kind": "dpop",
        "beta": 0.3,
        "penalty": 50.0,
        "penalty_position": "outside",
        "loss": [0.300058479618, 100.943248945997, 114.918293095995, 0.656350140827, 0.08080825173],
        "mean": 43.37975178283357,
    },
    {
        "kind": "dpop",
        "beta": 0.3,
        "penalty": 5.0,
        "penalty_position": "outside",
        "loss": [0.300058479618, 10.943248945997, 13.668293095995, 0.656350140827, 0.08080825173],
        "mean": 5.129751782833571,
    },
    {
        "kind": "ipo",
        "beta": 0.1,
        "length_normalised": False,
        "loss": [2.25, 42.25, 162.5625, 22.5625, 10.5625],
        "mean": 48.0375,
    },
    {
        "kind": "ipo",
        "beta": 0.3,
        "length_normalised": False,
        "loss": [3.361111111111, 10.027777777778, 88.673611111111, 2.006944444444, 43.340277777778],
        "mean": 29.48194444444444,
    },
    {
        "kind": "ipo",
        "beta": 0.1,
        "length_normalised": True,
        "loss": [23.876549586777, 26.91015625, 25.852634578752, 24.585069444444, 22.945360543629],
        "mean": 24.83395408072041,
    },
    {
        "kind": "ipo",
        "beta": 0.3,
        "length_normalised": True,
        "loss": [2.41190312213, 3.437934027778, 3.066754949122, 2.640625, 2.122261128424],
        "mean": 2.7358956454909213,
    },
    {
        "kind": "cpo",
        "beta": 0.1,
        "nll_weight": 1.0,
        "loss": [1.803537672782, 1.968459648013, 2.688370189373, 2.218459648013, 2.06814718056],
        "mean": 2.149394867748177,
    },
    {
        "kind": "simpo",
        "beta": 2.0,
        "gamma": 0.5,
        "loss": [0.856097101597, 1.053700678277, 1.003511940907, 1.205865068442, 0.886472974026],
        "mean": 1.0011295526497777,
    },
    {
        "kind": "simpo",
        "beta": 2.5,
        "gamma": 1.375,
        "loss": [1.409010989183, 1.727034824599, 1.647454710505, 1.963713953969, 1.458735113340],
        "mean": 1.641189918319112,
    },
    {
        "kind": "simpo",
        "beta": 10.0,
        "gamma": 0.0,
        "loss": [0.317359178077, 1.053700678277, 0.817185476885, 1.910224150438, 0.395389356151],
        "mean": 0.8987717679653849,
    },
]
"""Options of a loss, and its values on `GOLDEN`."""


def numpy_loss(case: Mapping[str, Any], sides: Sequence[Array], tokens: Sequence[Array]) -> Array:
    """Return the loss of each pair: `sides` in the order of `FIELDS`, `tokens` of chosen and rejected answers."""
    return np.asarray(FORMULAS[case["kind"]](case, *sides, *tokens))
