"""What a sweep writes down of a trial: `point.json` when it is chosen, and `trial.json` when it ends.

Times are in seconds; a number that does not exist is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ratchet.documents.sweep import Status, Value

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TrialPoint:
    """A trial as it was chosen: values by dotted key of the plan, a seed (None: the plan's own), and when.

    `number` is its place in the order in which trials were chosen, from 1; `by` is the search, or `agent`.
    """

    trial: str
    number: int
    point: Mapping[str, Any]
    point_id: str
    seed: int | None
    by: str
    at: str


@dataclasses.dataclass(frozen=True)
class TrialStep:
    """A finished step of a trial; `id` is its fingerprint, `start` that of the step before (None: the start model).

    `made_by` is the plan, or `<sweep>/<trial>`, that trained it. `pairs` are pairs trained, over all epochs;
    `references` the passes in which its reference was scored, by their names in the store.
    """

    id: str
    name: str
    kind: str
    chunk: str
    start: str | None
    made_by: str
    started: str
    pairs: int
    seconds: float
    references: tuple[str, ...] = ()
    reference_pairs: int = 0
    reference_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrialEnd:
    """How a trial ended. `reason` says why one did not finish, as `errors.error_values` does; `wandb` is its run there.

    `metrics` are by name, and `steps` in the order in which they build on one another.
    """

    format: int
    trial: str
    number: int
    point: Mapping[str, Any]
    point_id: str
    seed: int | None
    status: Status
    reason: Mapping[str, str] | None = None
    metrics: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    steps: tuple[TrialStep, ...] = ()
    started: str = ""
    seconds: float = 0.0
    wandb: str | None = None

    @property
    def why(self) -> str:
        """What kept it from finishing, on one line; empty where nothing did."""
        return self.reason["what"] if self.reason else ""
