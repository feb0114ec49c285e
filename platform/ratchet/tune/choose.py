"""Which trial comes next: those that an earlier call left unfinished, then new ones until the budget is spent.

No Ray here. What is known stands in the trials' folders, so the choice is the same after a restart.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialEnd
from ratchet.plan.space import Space
from ratchet.tune.points import SeededPoint, trials_in_turn
from ratchet.tune.tpe import Known, propose
from ratchet.tune.trial import passing, written_trials


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A trial to run; `number` is its place in the order in which trials were chosen, from 1."""

    trial: SeededPoint
    number: int
    by: str


@dataclasses.dataclass
class Seen:
    """A trial that was chosen, and its end, where it has one."""

    chosen: Chosen
    end: TrialEnd | None


class Chooser:
    """Hands out the trials of a sweep, one at a time; `folder` holds the trials' folders.

    `spent` is the hours that earlier calls took.
    """

    def __init__(self, space: Space, folder: Path, spent: float = 0.0) -> None:
        self.space, self.folder = space, folder
        self._seen: dict[str, Seen] = {}
        for one in written_trials(folder):
            trial = SeededPoint(one.point.point, one.point.seed)
            self._seen[trial.trial_id] = Seen(Chosen(trial, one.point.number, one.point.by), one.end)
        self._left = [seen.chosen for seen in self._seen.values() if seen.end is None or passing(seen.end)]
        self._new = iter(self._list()) if space.search.by != "tpe" else iter(self._proposals())
        hours = space.budget.hours
        # Monotonic: a clock that is set meanwhile neither ends nor prolongs the sweep.
        self._deadline = None if hours is None else time.monotonic() + 3600 * (hours - spent)

    @property
    def ended_before(self) -> list[str]:
        """Names of the trials that have ended."""
        return [name for name, one in self._seen.items() if one.end is not None and not passing(one.end)]

    def next(self) -> Chosen | None:
        """Return the next trial; None where the sweep has no more.

        Those left unfinished come first, also once the hours are used up: they were begun before.
        """
        if self._left:
            return self._left.pop(0)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return None
        return next(self._new, None)

    def ended(self, trial: str, end: TrialEnd) -> None:
        """Take what a trial came to."""
        self._seen[trial].end = end

    def _list(self) -> Iterator[Chosen]:
        for trial in trials_in_turn(self.space):
            if self._spent():
                return
            if trial.trial_id not in self._seen:
                yield self._choose(trial)

    def _proposals(self) -> Iterator[Chosen]:
        seeds: tuple[int | None, ...] = self.space.seeds or (None,)
        while not self._spent():
            point = self._begun(seeds) or propose(self.space, self._known(len(seeds)))
            if point is None:
                return
            for seed in seeds:
                trial = SeededPoint(point, seed)
                if trial.trial_id not in self._seen and not self._spent():
                    yield self._choose(trial)

    def _begun(self, seeds: tuple[int | None, ...]) -> Mapping[str, Any] | None:
        """Return the first point without all seeds: a driver was killed between them, or seeds were added since."""
        for one in self._seen.values():
            point = one.chosen.trial.values
            if any(SeededPoint(point, seed).trial_id not in self._seen for seed in seeds):
                return point
        return None

    def _spent(self) -> bool:
        most = self.space.budget.trials
        return most is not None and len(self._seen) >= most

    def _choose(self, trial: SeededPoint) -> Chosen:
        chosen = Chosen(
            trial, 1 + max((one.chosen.number for one in self._seen.values()), default=0), self.space.search.by
        )
        self._seen[trial.trial_id] = Seen(chosen, None)
        return chosen

    def _known(self, seeds: int) -> list[Known]:
        """What is known of each point, in the order of choice; done once all its seeds have ended."""
        points: dict[str, list[Seen]] = {}
        for one in self._seen.values():
            points.setdefault(one.chosen.trial.point_id, []).append(one)
        return [self._summary(trials, seeds) for trials in points.values()]

    def _summary(self, trials: list[Seen], seeds: int) -> Known:
        """Return what a searcher learns of a point: a mean once all seeds have finished; failed where one did not.

        A trial that is run again, or that lacks an objective that was not asked for then, is as good as under way.
        """
        point = trials[0].chosen.trial.values
        # The plan's own seed may be one of the seeds: a trial without one does not count beside them.
        own = [one for one in trials if one.chosen.trial.seed is not None] or trials
        ends = [one.end for one in own if one.end is not None and not passing(one.end)]
        if len(own) < seeds or len(ends) < len(own):
            return Known(point, "running")
        if any(end.status != "finished" for end in ends):
            return Known(point, "done")
        means = []
        for name in self.space.objectives:
            found = [end.metrics.get(name, Value(None)).value for end in ends]
            values = [value for value in found if value is not None]
            if len(values) < len(ends):
                return Known(point, "running")
            means.append(sum(values) / len(values))
        return Known(point, "done", tuple(means))
