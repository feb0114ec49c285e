"""The losses, one free function each, as their papers print them, and what is logged beside them.

Legend: _B pairs. π(y|x) is the SUM of the log-probabilities of an answer's tokens, in nats.

    h_w = logπ_θ(w|x) − logπ_ref(w|x)      h_l = logπ_θ(l|x) − logπ_ref(l|x)      d = h_w − h_l
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from ratchet.errors import TrainingError
from ratchet.losses.sensitivity import Gain, dpo_gain, dpop_gain, ipo_gain
from ratchet.plan.stage_kinds import ADDED_LOSSES, PLUGINS, stage_kind
from ratchet.plan.stages import BUILT_IN, StageKind


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
        """The fall of the chosen answer below the reference, p = max(0, −h_w)."""
        # relu, because training starts on its kink. Its subgradient there is 0, so the first DPOP gradient is the first
        # DPO gradient; clamp's would be 1 and maximum's ½.
        return F.relu(-self.chosen_ratio_B)


def dpo(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return −(1−ε) logσ(β d) − ε logσ(−β d), shape (B,).

    Rafailov et al. 2023, Eq. 7; ε is `label_smoothing` (conservative DPO).
    """
    margin_B = beta * (logps.chosen_ratio_B - logps.rejected_ratio_B)
    # Not log(sigmoid): in float32 that is −∞ from about −104 nats on, and its slope is not a number.
    loss_B = -F.logsigmoid(margin_B)
    # Left out at 0: 0 times a term that is not finite would be no number.
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


def simpo(logps: PairLogps, *, beta: float, gamma: float) -> Tensor:
    """Return −logσ(β logπ_θ(w)/|w| − β logπ_θ(l)/|l| − γ), shape (B,).

    Meng et al. 2024, Eq. 6; reads no reference.
    """
    chosen_B = logps.policy_chosen_B / logps.chosen_tokens_B
    rejected_B = logps.policy_rejected_B / logps.rejected_tokens_B
    return -F.logsigmoid(beta * (chosen_B - rejected_B) - gamma)


def sft(logps_B: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of each answer's tokens, shape (B,), in nats."""
    # Sums, not means: the loss of a step is their sum over the GLOBAL batch divided by its answer tokens. So no way of
    # dividing the batch changes it.
    return -logps_B


def log_ratio_reward(policy: Any, reference: Any, tokens: Any) -> Any:
    """Return logπ_θ(y|x) − logπ_ref(y|x): DPO's implicit reward of an answer over β, in nats, of arrays of any kind."""
    return policy - reference


def likelihood_reward(policy: Any, reference: Any, tokens: Any) -> Any:
    """Return logπ_θ(y|x), whatever the reference says: CPO's reward of an answer over β (Xu et al. 2024, Eq. 5)."""
    return policy


def mean_likelihood_reward(policy: Any, reference: Any, tokens: Any) -> Any:
    """Return logπ_θ(y|x)/|y|: SimPO's reward of an answer over β, in nats a token (Meng et al. 2024, Eq. 4)."""
    return policy / tokens


Reward = Callable[[Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """A row of the table of losses: what any part may ask about one where torch is loaded. No column has a default.

    `options` are the plan keys that the function takes. `reads_reference` says whether the reference's
    log-probabilities change it; nothing is scored for a kind that reads none. `start` is its value where the policy
    equals its reference, whatever the options and answers, or None where there is no such value. `gain` says how much
    an error of the reference matters; None for a kind that reads none. `reward` gives an answer's reward over β from
    the policy's and the reference's log-probability and the answer's tokens. `metrics` are those that no other kind
    has, one value a pair. `kink` says that the loss has one where the policy equals its reference, so that rounding
    decides its first slope. Raises ValueError where columns contradict each other.
    """

    function: Callable[..., Tensor]
    options: tuple[str, ...]
    reads_reference: bool
    start: float | None
    gain: Callable[[Mapping[str, Any]], Gain] | None
    reward: Reward
    metrics: Mapping[str, Callable[[PairLogps], Tensor]]
    kink: bool

    def __post_init__(self) -> None:
        if self.reads_reference != (self.gain is not None):
            raise ValueError("a loss has a gain where it reads a reference, and only there")
        if self.start is not None and not self.reads_reference:
            raise ValueError("a loss that reads no reference has no value where the policy equals it")


LOSSES: Mapping[str, Loss] = {
    "dpo": Loss(
        function=dpo,
        options=("beta", "label_smoothing"),
        reads_reference=True,
        start=math.log(2),
        gain=dpo_gain,
        reward=log_ratio_reward,
        metrics={},
        kink=False,
    ),
    "dpop": Loss(
        function=dpop,
        options=("beta", "penalty", "penalty_position"),
        reads_reference=True,
        start=math.log(2),
        gain=dpop_gain,
        reward=log_ratio_reward,
        metrics={"dpop/active": lambda logps: logps.fall_B > 0},
        kink=True,
    ),
    "ipo": Loss(
        function=ipo,
        options=("beta", "length_normalised"),
        reads_reference=True,
        start=None,
        gain=ipo_gain,
        reward=log_ratio_reward,
        metrics={},
        kink=False,
    ),
    "cpo": Loss(
        function=cpo,
        options=("beta", "nll_weight"),
        reads_reference=False,
        start=None,
        gain=None,
        reward=likelihood_reward,
        metrics={},
        kink=False,
    ),
    "simpo": Loss(
        function=simpo,
        options=("beta", "gamma"),
        reads_reference=False,
        start=None,
        gain=None,
        reward=mean_likelihood_reward,
        metrics={},
        kink=False,
    ),
}


def disagreement(row: StageKind, loss: Loss) -> str | None:
    """Return in what the row of a stage's kind and that of its loss contradict each other, or None."""
    keys = row.settings.model_fields.keys()
    if row.reads_reference != loss.reads_reference:
        return "one reads a reference, and the other none"
    if set(row.metrics) != set(loss.metrics):
        return f"metrics {sorted(row.metrics)} and {sorted(loss.metrics)}"
    if missing := set(loss.options) - keys:
        return f"the stage has no key {', '.join(sorted(missing))}"
    if ("first_loss" in keys) != (loss.start is not None):
        return "a stage has the key first_loss where its loss has a start, and only there"
    return None


# When it is imported: half a kind would else be noticed only where a plan that uses it trains.
if LOSSES.keys() != {name for name, row in BUILT_IN.items() if row.reads_pairs}:
    raise TypeError("plan.stages and losses.preference do not have the same kinds")
for _kind, _loss in LOSSES.items():
    if _wrong := disagreement(BUILT_IN[_kind], _loss):
        raise TypeError(f"plan.stages and losses.preference say different things of {_kind}: {_wrong}")


def loss_of(kind: str) -> Loss:
    """Return the row of a kind. Raises PlanError on an unknown one, TrainingError on one that has no such loss."""
    if not stage_kind(kind).reads_pairs:
        raise TrainingError(f"a stage of kind {kind} has no preference loss", code="training.no-loss")
    return _added_loss(kind) if kind in ADDED_LOSSES else LOSSES[kind]


@functools.cache
def _added_loss(kind: str) -> Loss:
    """Load the row of a loss that another package adds. Raises PlanError where it cannot be used."""
    plugin, added = PLUGINS[kind], ADDED_LOSSES[kind]
    module, _, name = added.loss.partition(":")
    try:
        loss = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise plugin.unusable(f"{added.loss} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(loss, Loss):
        raise plugin.unusable(f"{added.loss} is of type {type(loss).__name__}, not Loss")
    if wrong := disagreement(added.stage, loss):
        raise plugin.unusable(wrong)
    return loss


def bound_loss(kind: str, options: Mapping[str, Any]) -> Callable[[PairLogps], Tensor]:
    """Return a kind's function with its options: it takes log-probabilities, and returns each pair's loss, (B,).

    `options` may hold more keys than the loss takes (a whole stage, say): the table says which it
    reads. Raises as `loss_of` does.
    """
    loss = loss_of(kind)
    return functools.partial(loss.function, **{key: options[key] for key in loss.options if key in options})


def preference_loss(kind: str, logps: PairLogps, options: Mapping[str, Any]) -> Tensor:
    """Return the loss of each pair, shape (B,), as `bound_loss` gives it."""
    return bound_loss(kind, options)(logps)


def rewards_of(kind: str, logps: PairLogps) -> tuple[Tensor, Tensor]:
    """Return the rewards of chosen and rejected answers over β, each (B,), in nats. Raises as `loss_of` does."""
    reward = loss_of(kind).reward
    return (
        reward(logps.policy_chosen_B, logps.reference_chosen_B, logps.chosen_tokens_B),
        reward(logps.policy_rejected_B, logps.reference_rejected_B, logps.rejected_tokens_B),
    )


def pair_metrics(kind: str, logps: PairLogps, loss_B: Tensor, beta: float) -> dict[str, Tensor]:
    """Return each metric of each pair, by its name in metrics.jsonl; every tensor is (B,).

    Rewards are β times those of the kind's row, in nats; `accuracies` is 1 where that of the
    chosen answer is the greater. The deltas are h_w and h_l, where there is a reference. Raises as
    `loss_of` does.
    """
    kind_of, (chosen_B, rejected_B) = loss_of(kind), rewards_of(kind, logps)
    metrics = {
        "loss": loss_B,
        "rewards/chosen": beta * chosen_B,
        "rewards/rejected": beta * rejected_B,
        "rewards/margins": beta * (chosen_B - rejected_B),
        # Equal rewards, as in a first step, are no preference.
        "rewards/accuracies": chosen_B > rejected_B,
        "logps/chosen": logps.policy_chosen_B,
        "logps/rejected": logps.policy_rejected_B,
    }
    if kind_of.reads_reference:
        metrics |= {"logps/chosen_delta": logps.chosen_ratio_B, "logps/rejected_delta": logps.rejected_ratio_B}
    return metrics | {name: of(logps) for name, of in kind_of.metrics.items()}
