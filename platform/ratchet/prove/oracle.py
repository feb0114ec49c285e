"""A plain trainer: one sequence at a time, nothing shared with `ratchet.train`, `losses` or `model`. Read it in full.

It states on its own what an update is: log-probabilities, losses, gradient, clipping, schedule, weight decay, AdamW
and adapters. Run in float64 it says what the update should be. Run once more in the plan's own precision it shows how
far that precision alone may lead from it. No import of Ratchet belongs here; a test forbids it.

transformers computes some norms and rotations in float32 whatever the model's precision, so about seven
digits of a float64 result are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = dict[str, Tensor]
Scores = dict[str, tuple[float, float]]
"""Log-probabilities of chosen and rejected answer under a reference, by pair id, nats."""
Options = Mapping[str, Any]
Sides = Sequence[Tensor]
Floats = Sequence[float]
Counts = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and its answers (a demonstration's `rejected` is empty), and what is added to the
    reference's log-probabilities of chosen and rejected, nats.
    """

    pair_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    moved: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Low-rank adapters on the linear layers whose name ends in one of `targets`; `all-linear`: on all but the head."""

    rank: int
    alpha: float
    targets: tuple[str, ...] | str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a stage asks for. `steps` are those of the whole stage, which the schedule needs; `options` the loss's.

    `loss` is the kind of preference loss, one of `PLAIN_LOSSES`; None asks for the supervised loss.
    """

    loss: str | None
    options: Mapping[str, Any]
    learning_rate: float
    schedule: str
    warmup: float
    steps: int
    weight_decay: float
    decay_all: bool
    betas: tuple[float, float]
    epsilon: float
    clip: float | None
    adapters: Adapters | None = None


@dataclasses.dataclass(frozen=True)
class PlainUpdate:
    """One update: learning rate, loss, the log-probabilities that it is made of and its slopes along these, the
    gradient before clipping, and the weights after the update, by name, which the next one changes in place.
    """

    learning_rate: float
    loss: float
    logps_S: Tensor
    slopes_S: Tensor
    gradient: Weights
    weights: Weights

    @property
    def norm(self) -> float:
        return math.sqrt(sum(float(grad.double().square().sum()) for grad in self.gradient.values()))


class LowRank(nn.Module):
    """A linear layer with an adapter (Hu et al. 2021, Eq. 3): W x + (alpha / rank) B A x."""

    def __init__(self, linear: nn.Linear, adapters: Adapters) -> None:
        super().__init__()
        self.linear, self.scale = linear, adapters.alpha / adapters.rank
        # Zeros for both: where they start is the draw of the trainer that is proved.
        self.lora_A = nn.Parameter(linear.weight.new_zeros(adapters.rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, adapters.rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)  # type: ignore[no-any-return]


def adapt(model: Any, adapters: Adapters) -> None:
    """Put adapters on a model in place; they alone train."""
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    for name, linear in [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]:
        own = linear is not head if adapters.targets == "all-linear" else name.split(".")[-1] in adapters.targets
        if own:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LowRank(linear, adapters))


def answer_logp(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Return the summed log-probability of an answer's tokens, nats, a scalar with its gradient."""
    ids_1T = torch.tensor([[*prompt, *answer]], device=model.device)
    # One to the left: the logits of a position predict the token after it.
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt) - 1 : -1]
    wide = torch.promote_types(logits_TV.dtype, torch.float32)
    logps_TV = torch.log_softmax(logits_TV.to(wide), dim=-1)
    return logps_TV.gather(1, ids_1T[0, len(prompt) :, None]).double().sum()


def plain_dpo(options: Options, policy: Sides, ref: Floats, n: Counts) -> Any:
    """Rafailov et al. 2023, Eq. 7; label smoothing: Mitchell 2023, Eq. 3."""
    smooth, z = options["label_smoothing"], options["beta"] * ((policy[0] - ref[0]) - (policy[1] - ref[1]))
    return -(1 - smooth) * F.logsigmoid(z) - smooth * F.logsigmoid(-z)


def plain_dpop(options: Options, policy: Sides, ref: Floats, n: Counts) -> Any:
    """Pal et al. 2024: section 3, and Eq. 3 as first printed."""
    h_w, h_l = policy[0] - ref[0], policy[1] - ref[1]
    beta, fall = options["beta"], torch.relu(-h_w)
    if options["penalty_position"] == "inside":
        return -F.logsigmoid(beta * (h_w - h_l - options["penalty"] * fall))
    return -F.logsigmoid(beta * (h_w - h_l)) + options["penalty"] * fall


def plain_ipo(options: Options, policy: Sides, ref: Floats, n: Counts) -> Any:
    """Azar et al. 2023, Eq. 17."""
    h_w, h_l = policy[0] - ref[0], policy[1] - ref[1]
    w, l = (h_w / n[0], h_l / n[1]) if options["length_normalised"] else (h_w, h_l)  # noqa: E741  the paper's
    return (w - l - 1 / (2 * options["beta"])) ** 2


def plain_cpo(options: Options, policy: Sides, ref: Floats, n: Counts) -> Any:
    """Xu et al. 2024, Eq. 5 and 6."""
    return -F.logsigmoid(options["beta"] * (policy[0] - policy[1])) - options["nll_weight"] * policy[0] / n[0]


def plain_simpo(options: Options, policy: Sides, ref: Floats, n: Counts) -> Any:
    """Meng et al. 2024, Eq. 6."""
    w, l = options["beta"] / n[0] * policy[0], options["beta"] / n[1] * policy[1]  # noqa: E741  the paper's
    return -F.logsigmoid(w - l - options["gamma"])


PLAIN_LOSSES: Mapping[str, Callable[[Options, Sides, Floats, Counts], Any]] = {
    "dpo": plain_dpo,
    "dpop": plain_dpop,
    "ipo": plain_ipo,
    "cpo": plain_cpo,
    "simpo": plain_simpo,
}
"""The loss of one pair, by its kind: from the log-probabilities of its chosen and rejected answer under the policy and
under the reference, and their counts of tokens."""


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, which counts from 1."""
    peak, rise = recipe.learning_rate, math.ceil(recipe.warmup * recipe.steps)
    if step <= rise:
        return peak * step / rise
    share = (step - 1 - rise) / max(1, recipe.steps - rise)
    courses = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
    return peak * courses[recipe.schedule]


class PlainTrainer:
    """Trains a transformers model by the letter of a recipe.

    `model` computes: in float64, or in the plan's precision. `start` are the optimiser's weights to begin with, by
    name, `held` is the precision that it keeps them in, and `seen` that in which the model sees each.
    `kernel` computes attention over rejected answers where that should be another than over chosen ones.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        start: Weights,
        held: torch.dtype,
        seen: Mapping[str, torch.dtype],
        kernel: str | None = None,
    ) -> None:
        self.recipe, self.model, self.seen, self.step = recipe, model, seen, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: start[name].to(held, copy=True) for name in self.parameters}
        self.first = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.kernels = (model.config._attn_implementation, kernel)
        self.show()

    @torch.no_grad()
    def show(self) -> None:
        """Give the model the optimiser's weights, rounded as the plan's precision rounds them."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name].to(self.seen[name]))

    def update(self, pairs: Sequence[Pair], reference: Scores) -> PlainUpdate:
        """Make one update from a global batch; a loss without a reference has no scores."""
        self.step += 1
        gradient = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        supervised = self.recipe.loss is None
        per = sum(len(pair.chosen) for pair in pairs) if supervised else len(pairs)
        total, scored = 0.0, []
        for pair in pairs:
            sides = self.scores(pair.prompt, (pair.chosen,) if supervised else (pair.chosen, pair.rejected))
            if self.recipe.loss is None:
                loss = -sides[0] / per
            else:
                counts = (len(pair.chosen), len(pair.rejected))
                ref = reference.get(pair.pair_id, (0.0, 0.0))
                loss = PLAIN_LOSSES[self.recipe.loss](self.recipe.options, sides, ref, counts) / per
            loss.backward()  # type: ignore[no-untyped-call]
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    # Added up in the optimiser's precision: in the model's own each addition would round.
                    gradient[name] += parameter.grad.to(gradient[name].dtype)
                    parameter.grad = None
            total += float(loss.detach())
            scored += [(float(side.detach()), 0.0 if side.grad is None else float(side.grad)) for side in sides]
        rate = rate_at(self.recipe, self.step)
        logps_S, slopes_S = torch.tensor(scored, dtype=torch.float64).T
        found = PlainUpdate(rate, total, logps_S, slopes_S, gradient, self.weights)
        self.adamw(gradient, found.norm, rate)
        self.show()
        return found

    def scores(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the log-probabilities of answers, which keep the loss's slopes along them as their `grad`."""
        found = []
        for kernel, answer in zip(self.kernels, answers, strict=False):
            self.model.set_attn_implementation(kernel or self.kernels[0])
            found.append(answer_logp(self.model, prompt, answer))
            found[-1].retain_grad()
        return found

    def adamw(self, gradient: Weights, norm: float, rate: float) -> None:
        """AdamW (Loshchilov and Hutter 2019, algorithm 2) on the clipped gradient; norms and biases do not decay."""
        recipe, (b1, b2), t = self.recipe, self.recipe.betas, self.step
        # 1e-6 as torch's clip_grad_norm_ has it.
        scale = 1.0 if recipe.clip is None else min(1.0, recipe.clip / (norm + 1e-6))
        for name, weight in self.weights.items():
            g, m, v = gradient[name] * scale, self.first[name], self.second[name]
            decays = recipe.decay_all or weight.ndim > 1
            weight.mul_(1 - rate * recipe.weight_decay * decays)
            m.mul_(b1).add_(g, alpha=1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            weight.sub_(rate * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + recipe.epsilon))
