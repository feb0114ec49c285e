"""Steps that update nothing, because a number of theirs is not finite: how many there may be, and what is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratchet.documents.events import Event, write_event
from ratchet.errors import SHOWN, TrainingError, some
from ratchet.pairs.assemble import places_of_pairs
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.spec import TrainSpec

WINDOW = 100
"""Steps among which the skipped ones are counted."""

_FIX = "lower the learning rate, set clip or train in bfloat16 or float32; if one pair does it, look at that pair"


class Skips:
    """The skipped steps so far, alike on all workers; a checkpoint keeps `steps`."""

    def __init__(self, spec: TrainSpec, checkpoints: Checkpoints, steps: Sequence[int]) -> None:
        self.spec, self.checkpoints = spec, checkpoints
        self.steps = list(steps)

    def skip(self, step: int, what: str, ids: Sequence[str]) -> None:
        """Count a step as skipped and note it with its pairs. Raises TrainingError where that is one too many."""
        # Of late: a long run may meet a bad pair now and then, and a diverging one meets many in a row.
        lately = [one for one in self.steps if one > step - WINDOW]
        if len(lately) >= self.spec.stage.skip_nonfinite:
            before = f", after steps {', '.join(map(str, lately))} were skipped" if lately else ""
            raise self.stopped(step, f"{what}{before}", ids)
        self.steps.append(step)
        if self.checkpoints.communicator.rank == 0:
            said = f"step {step} was skipped: {what}; pairs {self.named(ids)}"
            write_event(Path(self.spec.folder), Event(code="step-skipped", what=said, step=step))

    def named(self, ids: Sequence[str]) -> str:
        """Return the first pairs by `file:row`, and how many more there are."""
        return some([*places_of_pairs([Path(file) for file in self.spec.pair_files], ids[:SHOWN]), *ids[SHOWN:]])

    def stopped(self, step: int, what: str, ids: Sequence[str]) -> TrainingError:
        """Return the error that ends training before anything that is not finite is saved."""
        last = self.checkpoints.last
        return TrainingError(
            f"at step {step} {what}; pairs {self.named(ids)}; last good checkpoint: {last.path if last else 'none'}",
            where=f"step {self.spec.step}",
            fix=_FIX,
            code="training.not-finite",
        )
