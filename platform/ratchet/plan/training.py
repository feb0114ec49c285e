"""Keys that stages of several kinds share: those that train, that read pairs, and that read a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Seed, Share, Strict, wrong
from ratchet.plan.model import ModelSpec
from ratchet.plan.outline import suggest

Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

Overlong = Literal["drop", "trim_prompt"]


class Mix(Strict):
    """In which proportion an epoch has the pairs of its sources, whatever their sizes."""

    weights: Annotated[dict[Name, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """A weight for each source: with 3 and 1 three quarters of an epoch's pairs are the first's."""
    until: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """How long an epoch is. `first_exhausted`: as long as no pair comes twice, so that larger sources are cut.
    `all_exhausted`: until each pair came once, so that smaller sources are repeated."""

    def shares(self, pairs: Mapping[str, float]) -> dict[str, float]:
        """Return how often an epoch sees the pairs of each source, given how many each has; 0 where it has none."""
        total = sum(self.weights.values())
        whole = [pairs[name] * total / weight for name, weight in self.weights.items() if pairs[name]]
        epoch = (min if self.until == "first_exhausted" else max)(whole, default=0.0)
        return {
            name: epoch * weight / total / pairs[name] if pairs[name] else 0.0 for name, weight in self.weights.items()
        }


class Steps(Strict):
    """Stepwise training (sDPO): the model of step t−1 is the reference of step t, and its start."""

    by: Literal["source", "count"] = "source"
    """One chunk for each source, or `count` chunks of the union."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Chunks of equal size, for `by: count`."""
    order: Literal["easy_to_hard", "hard_to_easy", "random", "listed"] = "listed"
    """Order of the chunks. Easy is what the start model already prefers the right way round."""
    target: Literal["previous", "start"] = "previous"
    """Where step t's weights begin: at M_{t−1}, or at the stage's start (sDPO, section 4.5)."""
    length_normalised: bool = False
    """Judge difficulty by mean instead of summed token log-probability."""
    base: ModelSpec | None = None
    """Judge difficulty by the implicit reward against this model instead of by γ."""

    @model_validator(mode="after")
    def _count_fits(self) -> Steps:
        if (self.by == "count") != (self.count is not None):
            raise wrong("count", "goes with `by: count`, and only with it", "by")
        return self


class Lora(Strict):
    """Low-rank adapters (peft) in place of full training."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the two factors."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    targets: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get an adapter, and of parameters that hold all experts of a layer, such as
    `experts.gate_up_proj`."""
    quantise: Literal["4bit", "8bit"] | None = None
    """QLoRA: hold the frozen weights in 4 or 8 bits (bitsandbytes; needs a GPU)."""


class Checkpoint(Strict):
    """When training is saved, and what is kept."""

    every: Annotated[int, Field(ge=1)] = 100
    """Optimiser steps between checkpoints; there is always one at the end."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept while the step trains, and the best one; all are deleted once its model is published."""
    publish: Literal["last", "best"] = "last"
    """Which becomes the stage's model; best is by held-out loss."""


class TrainingStage(Strict):
    """Keys of every kind that trains."""

    if TYPE_CHECKING:  # every kind declares its own, so that the page names it once
        kind: str
    data: Names | Annotated[dict[Name, Share], Field(min_length=1)]
    """Sources by name, or a mapping from name to how often an epoch sees its pairs. 0.5 is a seeded half of them,
    3 each of them three times, 1.5 all of them and a seeded half again. Repeats stand far apart."""
    mix: Mix | None = None
    """In which proportion an epoch has the pairs of the sources; without it, as many as there are."""
    after: Name | None = None
    """Start from that stage's model, and refer to it."""
    start: Name | None = None
    """Start from that stage's model (or the plan's `base`), whatever `after` says."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the pairs."""
    # The ledger proves that an epoch is whole only where this does not cut it short.
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimiser steps, even within an epoch."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Pairs in one optimiser step, over all workers."""
    shuffle: Literal["pairs", "prompts"] = "pairs"
    """What is shuffled in each epoch: pairs, or prompts, so that a prompt's pairs come in one batch and share their
    tokens. That is quicker with several pairs a prompt, and batches are less varied. `ratchet check` says how much."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-7
    """Highest learning rate (AdamW)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    # Rounded up, so that any share above 0 has at least one step.
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps, rounded up, in which the learning rate rises in equal parts to its highest. The first
    step has one part, and not 0 as with transformers."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay, on all weights but norms and biases."""
    # A norm's weight is a scale around 1: pulling it to 0 is no regularisation.
    decay_norms: bool = False
    """Let weight decay fall on norms and biases too. Transformers and TRL leave them out."""
    gradients: Literal["float32", "bfloat16"] = "float32"
    """Precision in which gradients are added up over passes and workers. `bfloat16` takes 2 bytes a weight less and
    halves what workers exchange, but rounds each addition. It needs `model.dtype: bfloat16`."""
    # Off, as with LLaMA-Factory and axolotl: the few small steps on preferences hardly move a router, the loss pulls at
    # weights for another reason than the pairs, and the load of experts is measured in any case.
    router_loss: Literal["off", "model"] | Annotated[float, Field(gt=0)] = "off"
    """Weight of the loss that keeps the load of experts even, for models that have it. `model` takes
    `router_aux_loss_coef` of their configuration. It is over the tokens of the whole global batch."""
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    # The norm is that of the whole global batch, so it does not change with the number of workers.
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; `null` does not clip."""
    # Counted over a hundred steps: one bad row may be skipped, a run that diverges may not.
    skip_nonfinite: Annotated[int, Field(ge=0, lt=100)] = 0
    """Steps of any hundred that may be skipped because their loss or gradient is not finite; the next such step
    stops training. A skipped step updates nothing, and is reported with its pairs."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens of prompt and answer together."""
    overlong: Overlong = "drop"
    """A longer pair is dropped, or its prompt is trimmed from the left; answers are never cut."""
    lora: Lora | None = None
    """Train low-rank adapters in place of all weights."""
    checkpoint: Checkpoint = Checkpoint()
    """When training is saved, and what is kept."""
    seed: Seed = 0
    """Seed of the order of the pairs."""

    @model_validator(mode="after")
    def _mixes_its_sources(self) -> TrainingStage:
        if self.mix is None:
            return self
        if isinstance(self.data, dict):
            raise wrong("mix", "says how often each source comes, and so does `data`: list the sources there", "data")
        for name in self.mix.weights:
            if name not in self.data:
                raise wrong(f"mix.weights.{name}", f"no source of the stage{suggest(name, self.data)}", "data")
        if lacking := [name for name in self.data if name not in self.mix.weights]:
            raise wrong("mix.weights", f"has no weight for {', '.join(lacking)}", "data")
        return self

    def shares(self) -> dict[str, float]:
        """Return each source's share as the plan writes it, else 1; `shares_of` knows those of `mix`."""
        return dict(self.data) if isinstance(self.data, dict) else dict.fromkeys(self.data, 1.0)

    def shares_of(self, pairs: Mapping[str, float]) -> dict[str, float]:
        """Return how often an epoch sees each source's pairs, given how many pairs each source has to train on."""
        return self.shares() if self.mix is None else self.mix.shares(pairs)

    @property
    def draws(self) -> bool:
        """Whether the seed decides which pairs of a source an epoch has."""
        return self.mix is not None or any(share % 1 for share in self.shares().values())


class PreferenceStage(TrainingStage):
    """Keys of the kinds that train on preference pairs."""

    steps: Steps | None = None
    """Make the stage stepwise (sDPO)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Scale of the rewards: with a reference, the strength of the pull towards it."""

    @model_validator(mode="after")
    def _mixes_what_is_together(self) -> PreferenceStage:
        if self.mix is not None and self.steps is not None and self.steps.by == "source":
            raise wrong("mix", "steps by source train one source each: leave it out, or step by count", "steps")
        return self


class ReferringStage(PreferenceStage):
    """Keys of the kinds that train against a reference model."""

    reference: Name | ModelSpec | None = None
    """The reference model: a stage, `base`, or another model; left out: where the stage starts.
    On a stepwise stage it is the first step's. Another model must have the same tokenizer."""
