"""What a training step is told while it trains, and how it ends on that.

The driver writes a notice into the step's folder. Worker 0 looks for one in each step, and its word goes
along in the sum that all workers form anyway: so they end together, after the same step.

Worker 0 writes down which nodes the workers are on, and the driver watches those.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ratchet.store.files import write_json
from ratchet.store.record import read_json_or_none

NAME = "notice.json"
WORKERS = "workers.json"
"""The file of a step that names the nodes its workers are on."""

Kind = Literal["drop", "grow", "leave", "stop", "known"]
CODES: dict[Kind, int] = {"drop": 1, "grow": 2, "leave": 3, "stop": 4, "known": 5}
"""How a kind travels in a sum of numbers; 0 is no notice."""


@dataclasses.dataclass(frozen=True)
class Notice:
    """`drop`: end after this step, nobody goes on; `known` does so too: what was asked is known.

    `grow`: end at the next checkpoint, more workers go on from it.

    `leave`: save now and end, those workers that are left go on. `stop`: save now and end. `why` is for people.
    """

    kind: Kind
    why: str

    @property
    def saves(self) -> bool:
        """Whether there is a checkpoint after this very step."""
        return self.kind in {"leave", "stop"}


@dataclasses.dataclass(frozen=True)
class WorkerNodes:
    """The ids of the nodes that a step's workers are on, by rank."""

    nodes: tuple[str, ...]


class Ended(Exception):  # noqa: N818  no error: the step goes on later, from a checkpoint
    """Training ended after `step` because of `notice`, on all workers alike."""

    def __init__(self, notice: Notice, step: int) -> None:
        super().__init__(notice, step)
        self.notice, self.step = notice, step


def write_notice(step_folder: Path, notice: Notice | None) -> None:
    """Tell the workers of a step, or take the last word back. Raises StorageError."""
    # The file is there always: a network disk keeps in mind for long that a name does not exist.
    write_json(step_folder / NAME, None if notice is None else dataclasses.asdict(notice))


def read_notice(step_folder: Path, stop_file: str | None) -> Notice | None:
    """Return what the workers are told now. `stop_file` is a sweep's, whose presence drops the trial."""
    if stop_file is not None and Path(stop_file).exists():
        return Notice("drop", f"see {stop_file}")
    found = read_json_or_none(step_folder / NAME)
    return None if found is None else Notice(**found)
