"""What the steps of one run share."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from ratchet.pairs.chat import ChatTemplate
from ratchet.pipeline.graph import Step
from ratchet.pipeline.stop import Stop
from ratchet.plan.schema import Plan
from ratchet.plan.training import Overlong
from ratchet.reference.calibrate import Calibration
from ratchet.reference.models import EngineChoice, Model
from ratchet.reference.partition import Difficulty
from ratchet.store.layout import Layout
from ratchet.store.lease import Lease, Wait
from ratchet.track.progress import Console


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one source under one length policy."""

    source: str
    fingerprint: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class Order:
    """The chunks of a stepwise stage as they are trained, how hard each is, and its rows where the union is cut."""

    chunks: tuple[str, ...]
    difficulties: tuple[Difficulty, ...]
    rows: tuple[tuple[int, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """Which engine scores a stage's reference, and what the comparison that decided it showed."""

    engine: EngineChoice
    calibration: Calibration | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What makes a run one of a sweep's trials: its steps are shared with the others.

    `watch(step name, step folder)` is entered while a step is made, awaited or found, and may follow
    its metrics; `console` has the lines that a run writes for people. Once `stop_file` is there, training
    ends with the optimiser step that it is at, and `check` raises whatever ends the run. `asked` says why the
    whole sweep was asked to stop, if it was: then the step is saved, and the trial goes on later.
    """

    sweep: str
    watch: Callable[[str, Path], contextlib.AbstractContextManager[None]]
    console: Console
    stop_file: Path
    check: Callable[[], None]
    asked: Callable[[], str | None] = lambda: None


@dataclasses.dataclass
class Run:
    """The state of a run: what the plan says, where things lie, and what has been made so far."""

    plan: Plan
    layout: Layout
    console: Console
    fresh: bool
    chat_template: ChatTemplate | None
    trial: Trial | None = None
    stop: Stop = dataclasses.field(default_factory=Stop)
    lease: Lease | None = None
    """The run's own on its folder, once it has begun; a trial's run has none that workers must know of."""
    pairs: dict[str, tuple[str, Path]] = dataclasses.field(default_factory=dict)
    tokens: dict[tuple[str, int, Overlong], Tokens] = dataclasses.field(default_factory=dict)
    models: dict[str, Model] = dataclasses.field(default_factory=dict)
    orders: dict[str, Order] = dataclasses.field(default_factory=dict)
    external: dict[str, Model] = dataclasses.field(default_factory=dict)
    scored: set[Path] = dataclasses.field(default_factory=set)
    """Where the scores lie that the run has asked for, whenever they were made."""
    scored_now: set[str] = dataclasses.field(default_factory=set)
    foreign: EngineChoice | None = None
    gates: dict[tuple[str, str, str], Gate] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    here: bool = False
    """Whether all of it happens in this process, without a Ray."""

    @property
    def wait(self) -> Wait:
        """How the run waits for other processes."""
        return Wait(self.console.say, self.stop.check)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.layout.run(self.plan.name)

    def rows_of(self, step: Step) -> tuple[int, ...] | None:
        """Return the rows of its stage's table that a step trains on, or None for all of its sources' rows."""
        order = self.orders.get(step.stage)
        return order.rows[step.chunk.part - 1] if order and order.rows else None
