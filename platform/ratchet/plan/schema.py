"""What a plan may say. The docstring under each field is its line in the reference page.

`model`, `data`, `stages` and `reference` say WHAT is made and are in fingerprints; `cluster` and
`track` say WHERE it runs and how it is watched, and are in none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Strict, local, wrong
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import Source
from ratchet.plan.model import ModelSpec
from ratchet.plan.stage_kinds import PlannedStage


class ReferenceScores(Strict):
    """Who scores the reference. Part of what is made: another engine rounds otherwise."""

    engine: Literal["trainer", "vllm", "auto"] = "trainer"
    """`trainer`: the trainer's own forward pass. `vllm`: vLLM, once its scores agree.
    `auto`: vLLM where it is installed, takes the model and agrees, else the trainer."""
    quantisation: str | None = None
    """How vLLM holds the weights (its `quantization`, such as fp8); left out: as they are."""
    sample: Annotated[int, Field(ge=16)] = 256
    """Pairs of each source that both engines score, for the comparison."""
    otherwise: Literal["refuse", "rescore"] = "refuse"
    """Where vLLM's scores differ by more than the stage's loss tolerates: stop with the figures, or
    score with the trainer's own forward pass. `auto` always does that."""

    @model_validator(mode="after")
    def _quantises_vllm(self) -> ReferenceScores:
        if self.quantisation is not None and self.engine == "trainer":
            raise wrong("quantisation", "is for vLLM, and the engine is trainer: set engine to vllm or auto", "engine")
        return self


class Wandb(Strict):
    """Weights & Biases: one group for the plan, one run for each step."""

    project: str
    """Project to log to."""
    entity: str | None = None
    """User or team; left out: the default of the account."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to disk; `wandb sync` sends it later."""
    tags: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tags of every run of the plan."""


class Track(Strict):
    """How a run is watched. `metrics.jsonl` is always written."""

    wandb: Wandb | None = None
    """Log to Weights & Biases too."""


class Evaluation(Strict):
    """A suite that the plan's models go through, with values of its own."""

    suite: str
    """Suite file (`eval/*.yaml`)."""
    models: Literal["all", "final"] = "all"
    """Every model of the plan, or the start model and what no other stage starts from."""
    when: Literal["stage", "end"] = "stage"
    """As soon as a model is there, beside the next stage's training where the cluster has room for both;
    or after all training."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values of the suite by dotted key, such as `data_root: data/mirror`."""

    @model_validator(mode="after")
    def _is_a_file(self) -> Evaluation:
        local(self, "suite")
        return self


class Plan(Strict):
    """One plan: from preference files to aligned models and a report."""

    name: Name
    """Names the run folder, `<storage>/runs/<name>`."""
    model: ModelSpec
    """The start model, which other keys call `base`."""
    data: Annotated[dict[Name, Source], Field(min_length=1)]
    """Sources, by name."""
    stages: Annotated[dict[Name, PlannedStage], Field(min_length=1)]
    """Stages, by name; they run in the order that `after`, `start`, `reference` and `of` ask for."""
    reference: ReferenceScores = ReferenceScores()
    """How reference models are scored."""
    evaluate: Annotated[tuple[str | Evaluation, ...], Field(strict=False)] = ()
    """Suites that the plan's models go through: files (`eval/*.yaml`), or files with values of their own."""
    cluster: Cluster = Cluster()
    """Where the plan runs."""
    track: Track = Track()
    """How the run is watched."""

    @model_validator(mode="after")
    def _are_files(self) -> Plan:
        local(self, "evaluate")
        return self
