"""The kinds of stages: their keys, and one row for each. To add a kind: a class, and a row in `BUILT_IN`.

A preference kind also has a row in `losses.preference`, which holds what needs torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Strict, wrong
from ratchet.plan.outline import kind_of
from ratchet.plan.training import PreferenceStage, ReferringStage, TrainingStage

FirstLoss = Annotated[float, Field(gt=0)]


class Sft(TrainingStage):
    """Supervised fine-tuning on the chosen answers: mean token negative log-likelihood."""

    kind: Literal["sft"]
    """What the stage does."""
    # Higher than a preference stage's: there a step moves a model that is already close to where it should be.
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Highest learning rate (AdamW)."""


class Dpo(ReferringStage):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    kind: Literal["dpo"]
    """What the stage does."""
    # At 0.5 both labels are alike, and nothing is learnt.
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of labels taken to be flipped (conservative DPO)."""
    first_loss: FirstLoss = 0.1
    """The most that the first loss may be off ln 2 where the stage starts as its reference. Raise it where rounding
    alone moves a loss further that magnifies log-ratios; each answer is held to its own rounding in any case."""


class Dpop(ReferringStage):
    """DPO-Positive (Pal et al. 2024, Smaug)."""

    kind: Literal["dpop"]
    """What the stage does."""
    beta: Annotated[float, Field(gt=0)] = 0.3
    """Strength of the pull towards the reference."""
    penalty: Annotated[float, Field(ge=0)] = 50.0
    """λ, the weight of a chosen answer's fall below the reference."""
    penalty_position: Literal["inside", "outside"] = "inside"
    """Inside the sigmoid (the paper's July 2024 text), or added to the loss (its Eq. 3 as first printed)."""
    first_loss: FirstLoss = 0.1
    """The most that the first loss may be off ln 2 where the stage starts as its reference. Raise it where rounding
    alone moves a loss further that magnifies log-ratios; each answer is held to its own rounding in any case."""


class Ipo(ReferringStage):
    """Identity preference optimisation (Azar et al. 2023)."""

    kind: Literal["ipo"]
    """What the stage does."""
    length_normalised: bool = True
    """Divide each log-probability by its answer's token count."""


class Cpo(PreferenceStage):
    """Contrastive preference optimisation (Xu et al. 2024); it has no reference, and none is scored for it."""

    kind: Literal["cpo"]
    """What the stage does."""
    nll_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the chosen answer's negative log-likelihood."""


class Simpo(PreferenceStage):
    """Simple preference optimisation (Meng et al. 2024); it has no reference, and none is scored for it."""

    kind: Literal["simpo"]
    """What the stage does."""
    # A mean over tokens is many times smaller than the sum that other kinds scale.
    beta: Annotated[float, Field(gt=0)] = 2.0
    """Scale of the rewards, which are means over an answer's tokens: the paper takes 2 to 10."""
    gamma: Annotated[float, Field(ge=0)] = 0.5
    """γ, the margin that the chosen answer's reward should have over the rejected one's."""


class Merge(Strict):
    """Weighted average of the weights of models of one architecture."""

    kind: Literal["merge"]
    """What the stage does."""
    of: Annotated[tuple[Name, ...], Field(strict=False, min_length=2)]
    """Stages whose models are averaged; `base` is the plan's start model."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] | None = None
    """One for each model, normalised to 1; left out: equal."""

    def shares(self) -> dict[str, float]:
        """Return no source: a merge reads no data."""
        return {}

    @model_validator(mode="after")
    def _one_weight_each(self) -> Merge:
        if self.weights is not None and len(self.weights) != len(self.of):
            raise wrong("weights", f"{len(self.weights)} weights for {len(self.of)} models", "of")
        return self


Stage = TrainingStage | Merge
"""A stage of any kind; `plan.stage_kinds` says which kinds there are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageKind:
    """A row of the table of kinds: what any part may ask about a stage without torch. No column has a default.

    `settings` are its keys in a plan; what these extend says whether it trains, on what, and against what. `loss_axis`
    names the axis of its loss in charts, and is empty where it has no loss. `metrics` are the keys of metrics.jsonl
    that only this kind has. `warns_of_near_twins` says that the loss may fall while both of two nearly equal answers
    become less likely. Raises TypeError where columns contradict each other.
    """

    settings: type[TrainingStage] | type[Merge]
    loss_axis: str
    metrics: tuple[str, ...]
    warns_of_near_twins: bool

    def __post_init__(self) -> None:
        if not isinstance(kind_of(self.settings), str):
            raise TypeError(f"{self.settings.__name__} needs a key `kind` that is a Literal of one text")
        # A chart without an axis would be drawn empty, and nobody would miss it.
        if self.trains != bool(self.loss_axis):
            raise TypeError(f"{self.settings.__name__} needs a loss_axis where it trains, and only there")

    @property
    def name(self) -> str:
        """The kind, as a plan writes it."""
        return str(kind_of(self.settings))

    @property
    def trains(self) -> bool:
        """Whether it makes its model by training; a merge averages models that are there."""
        return issubclass(self.settings, TrainingStage)

    @property
    def reads_pairs(self) -> bool:
        """Whether it trains on preference pairs."""
        return issubclass(self.settings, PreferenceStage)

    @property
    def supervised(self) -> bool:
        """Whether it trains on chosen answers alone."""
        return self.trains and not self.reads_pairs

    @property
    def reads_reference(self) -> bool:
        """Whether it trains against a reference model."""
        return issubclass(self.settings, ReferringStage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedLoss:
    """What an entry point of the group `ratchet.losses` names: a preference kind that another package adds.

    `stage` is its row here. `loss` says where its row of `losses.preference` is, as `package.module:NAME`: that module
    may load torch, and is loaded where something is trained.
    """

    stage: StageKind
    loss: str


BUILT_IN: Mapping[str, StageKind] = {
    row.name: row
    for row in (
        StageKind(
            settings=Sft,
            loss_axis="nats a token",
            metrics=("perplexity",),
            warns_of_near_twins=False,
        ),
        StageKind(
            settings=Dpo,
            loss_axis="loss",
            metrics=(),
            warns_of_near_twins=True,
        ),
        StageKind(
            settings=Dpop,
            loss_axis="loss",
            metrics=("dpop/active",),
            warns_of_near_twins=False,
        ),
        StageKind(
            settings=Ipo,
            loss_axis="loss",
            metrics=(),
            warns_of_near_twins=False,
        ),
        StageKind(
            settings=Cpo,
            loss_axis="loss",
            metrics=(),
            warns_of_near_twins=False,
        ),
        StageKind(
            settings=Simpo,
            loss_axis="loss",
            metrics=(),
            warns_of_near_twins=True,
        ),
        StageKind(
            settings=Merge,
            loss_axis="",
            metrics=(),
            warns_of_near_twins=False,
        ),
    )
}
"""The kinds that come with Ratchet, in the order in which messages list them."""
