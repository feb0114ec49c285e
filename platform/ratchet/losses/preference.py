"""The preference losses, one free function each, as their papers print them.

Legend: _B pairs. π(y|x) is the SUM of the log-probabilities of an answer's tokens, in nats.

    h_w = logπ_θ(w|x) − logπ_ref(w|x)      h_l = logπ_θ(l|x) − logπ_ref(l|x)      d = h_w − h_l
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from ratchet.errors import TrainingError


@dataclasses.dataclass(frozen=True)
class PairLogps:
    """What a preference loss reads; every tensor is (B,). Log-probabilities are sums in nats."""

    policy_chosen_B: Tensor
    policy_rejected_B: Tensor
    reference_chosen_B: Tensor
    reference_rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        """h_w, the log-ratio of the chosen answer."""
        return self.policy_chosen_B - self.reference_chosen_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        """h_l, the log-ratio of the rejected answer."""
        return self.policy_rejected_B - self.reference_rejected_B

    @property
    def fall_B(self) -> Tensor:
        """The fall of the chosen answer below the reference, p = max(0, −h_w).

        relu, because training starts on its kink: the subgradient there is 0, so that the first DPOP
        gradient is the first DPO gradient (clamp's would be 1 and maximum's ½).
        """
        return F.relu(-self.chosen_ratio_B)


def dpo(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return −(1−ε) logσ(β d) − ε logσ(−β d), shape (B,).

    Rafailov et al. 2023, Eq. 7; ε is `label_smoothing` (conservative DPO).
    """
    margin_B = beta * (logps.chosen_ratio_B - logps.rejected_ratio_B)
    loss_B = -F.logsigmoid(margin_B)
    if label_smoothing:
        loss_B = (1 - label_smoothing) * loss_B - label_smoothing * F.logsigmoid(-margin_B)
    return loss_B


def dpop(
    logps: PairLogps,
    *,
    beta: float,
    penalty: float = 50.0,
    penalty_position: Literal["inside", "outside"] = "inside",
) -> Tensor:
    """Return −logσ(β (d − λ p)), or −logσ(β d) + λ p with the penalty outside; shape (B,).

    Pal et al. 2024 (Smaug). Inside is the reading whose implicit reward is β (h_w − λ p); outside is
    Eq. 3 as first printed. λ is `penalty`, p is `PairLogps.fall_B`.
    """
    margin_B = logps.chosen_ratio_B - logps.rejected_ratio_B
    if penalty_position == "inside":
        return -F.logsigmoid(beta * (margin_B - penalty * logps.fall_B))
    return -F.logsigmoid(beta * margin_B) + penalty * logps.fall_B


def ipo(logps: PairLogps, *, beta: float, length_normalised: bool = True) -> Tensor:
    """Return (d − 1/(2β))², shape (B,); each log-ratio over its answer's tokens where normalised.

    Azar et al. 2023, Eq. 17, with β for their τ.
    """
    chosen_B, rejected_B = logps.chosen_ratio_B, logps.rejected_ratio_B
    if length_normalised:
        chosen_B, rejected_B = chosen_B / logps.chosen_tokens_B, rejected_B / logps.rejected_tokens_B
    return (chosen_B - rejected_B - 1 / (2 * beta)) ** 2


def cpo(logps: PairLogps, *, beta: float, nll_weight: float = 1.0) -> Tensor:
    """Return −logσ(β (logπ_θ(w) − logπ_θ(l))) − weight · logπ_θ(w)/|w|, shape (B,).

    Xu et al. 2024, Eq. 5 and 6; reads no reference. The likelihood term is per token.
    """
    preference_B = -F.logsigmoid(beta * (logps.policy_chosen_B - logps.policy_rejected_B))
    return preference_B - nll_weight * logps.policy_chosen_B / logps.chosen_tokens_B


@dataclasses.dataclass(frozen=True)
class Loss:
    """A row of the table of losses: the function, and the plan keys that it takes as options."""

    function: Callable[..., Tensor]
    options: tuple[str, ...]


LOSSES: Mapping[str, Loss] = {
    "dpo": Loss(dpo, ("beta", "label_smoothing")),
    "dpop": Loss(dpop, ("beta", "penalty", "penalty_position")),
    "ipo": Loss(ipo, ("beta", "length_normalised")),
    "cpo": Loss(cpo, ("beta", "nll_weight")),
}


def preference_loss(kind: str, logps: PairLogps, options: Mapping[str, Any]) -> Tensor:
    """Return the loss of each pair, shape (B,).

    `options` may hold more keys than the loss takes (a whole stage, say): the table says which it
    reads. Raises TrainingError on an unknown kind.
    """
    if kind not in LOSSES:
        raise TrainingError(f"no loss is called {kind!r}", fix=f"use one of {', '.join(LOSSES)}")
    loss = LOSSES[kind]
    return loss.function(logps, **{key: options[key] for key in loss.options if key in options})


def starts_at_ln2(kind: str) -> bool:
    """Whether a policy equal to its reference must have the loss ln 2, whatever the options."""
    return kind in {"dpo", "dpop"}
