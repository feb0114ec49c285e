"""What a plan may say. The docstring under each field is its line in the reference page.

`model`, `data` and `stages` say WHAT is made and are in fingerprints; `cluster` and
`track` say WHERE it runs and how it is watched, and are in none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet.plan.base import Name, Strict
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import Source
from ratchet.plan.model import ModelSpec
from ratchet.plan.stages import Stage


class Wandb(Strict):
    """Weights & Biases: one group for the plan, one run for each step."""

    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    tags: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Track(Strict):
    """How a run is watched. `metrics.jsonl` is always written."""

    wandb: Wandb | None = None


class Plan(Strict):
    """One plan: from preference files to aligned models and a report."""

    name: Name
    """Names the run folder, `<storage>/runs/<name>`."""
    model: ModelSpec
    """The start model, which other keys call `base`."""
    data: Annotated[dict[Name, Source], Field(min_length=1)]
    """Sources, by name."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """Stages, by name; they run in the order that `after`, `start`, `reference` and `of` ask for."""
    evaluate: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Suite files (`eval/*.yaml`) that every model of the plan goes through."""
    cluster: Cluster = Cluster()
    track: Track = Track()
