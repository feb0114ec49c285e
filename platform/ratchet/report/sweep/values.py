"""Values of a sweep's keys, as text and as places on an axis; what belongs together in its document."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ratchet.documents.sweep import Key, Objective, ObjectiveResult, Point, SweepOutcome, TrialOutcome
from ratchet.plan.distributions import DISTRIBUTIONS
from ratchet.report import figures as fig
from ratchet.report.figures import cut

LONGEST = 60
"""Characters of a value or a name in a table."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from 0 to 1. `low` and `high` are its ends, as log10 where it is `log`; `names` are its categories."""

    name: str
    scale: Literal["line", "log", "names"]
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = ()
    whole: bool = False
    places: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def place(self, value: Any) -> float | None:
        """Return a value's place from 0 to 1; None where it has none on this axis."""
        if self.scale == "names":
            found = self.places.get(_same(value))
            return None if found is None else (found + 0.5) / len(self.names)
        if not _is_number(value) or (self.scale == "log" and value <= 0):
            return None
        return ((math.log10(value) if self.scale == "log" else value) - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return (place, label) of round values inside the ends; of all categories."""
        if self.scale == "names":
            return [((index + 0.5) / len(self.names), name) for index, name in enumerate(self.names)]
        values = _round_logs(self.low, self.high, most) if self.scale == "log" else self._round(most)
        return [(self.place(value) or 0.0, shown(value)) for value in values]

    def _round(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        # A little less than `rough` will do, as a power of ten is rounded.
        step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
        # Between whole numbers there is nothing to mark.
        step = max(1.0, step) if self.whole else step
        # 0.3 / 0.1 is 2.9999…96: without the room a tick at an end would be lost.
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _round_logs(low: float, high: float, most: int) -> list[float]:
    # From fine to coarse: the first that leaves room for the labels.
    for factors in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        found = [factor * 10.0**power for power in powers for factor in factors]
        inside = [value for value in found if low - 1e-9 <= math.log10(value) <= high + 1e-9]
        if len(inside) <= most:
            break
    ends = [10**low, 10 ** ((low + high) / 2), 10**high]
    return inside[:: -(-len(inside) // most)] if len(inside) > 1 else ends


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(value: Any) -> str:
    """Return the same text for the same value: 1 and 1.0 are one, true is another."""
    # Python says that True == 1, and YAML that 1 and 1.0 differ; a plan means neither.
    return repr(float(value)) if _is_number(value) else json.dumps(value, sort_keys=True, default=str)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values of a plan are one: 1 and 1.0 are, 1 and true are not."""
    return _same(one) == _same(other)


def shown(value: Any, kind: str = "", most: int = LONGEST) -> str:
    """Return a value as text, numbers to four digits, an order with arrows; a dash for none."""
    if value is None:
        return fig.NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.4g}"
        return f"{text.replace('e-0', 'e-').replace('e+0', 'e').replace('e+', 'e').replace('-', '−')}"
    if kind == "permutation" and isinstance(value, list | tuple):
        names = [str(one) for one in value]
        room = max(3, (most - 3 * (len(names) - 1)) // max(1, len(names)))
        whole = sum(map(len, names)) + 3 * (len(names) - 1) <= most
        return cut(" → ".join(names if whole else [cut(one, room) for one in names]), most)
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), most)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each dotted key's last part, with as many before it as make it the only one of its name."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = (end for end in ends if sum(other == end or other.endswith(f".{end}") for other in keys) == 1)
        found[key] = cut(next(alone, key), LONGEST)
    return found


def axis_of(sweep: SweepOutcome, key: Key, values: Iterable[Any], most: int = 24) -> Axis:
    """Return the axis of a key that `values` lie on: its own scale, wide enough for all of them."""
    name, values = short_names([one.key for one in sweep.keys])[key.key], list(values)
    numbers = [value for value in [*key.values, *values] if _is_number(value)]
    scale = DISTRIBUTIONS[key.kind].range
    if scale and scale.log and any(value > 0 for value in numbers):
        logs = [math.log10(value) for value in numbers if value > 0]
        return Axis(name, "log", *_apart(min(logs), max(logs), 0.3))
    if scale and numbers:
        return Axis(name, "line", *_apart(min(numbers), max(numbers), 0.5), whole=scale.whole)
    kinds = {_same(value): value for value in [*key.values, *values]}
    names = tuple(shown(value, key.kind, most) for value in kinds.values())
    return Axis(name, "names", names=names, places={one: index for index, one in enumerate(kinds)})


def _apart(low: float, high: float, by: float) -> tuple[float, float]:
    # Of one value alone an axis would have no length.
    return (low, high) if high > low else (low - by, high + by)


def objective_axis(sweep: SweepOutcome, place: int, *, errors: bool = False) -> Axis:
    """Return the axis of an objective, with room around its values (and their errors)."""
    found = [one.results[place] for one in with_values(sweep, place)]
    ends = [(one.value or 0.0, *(reach(one) if errors else (0.0, 0.0))) for one in found] or [(0.0, 0.0, 0.0)]
    low, high = min(value - down for value, down, _ in ends), max(value + up for value, _, up in ends)
    # All values may be one, and that one may be 0.
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    if sweep.objectives[place].share:
        low, high = max(0.0, low), min(1.0, high)  # room beyond what a share can be would promise values
    return Axis(sweep.objectives[place].metric, "line", low, high)


def reach(found: ObjectiveResult) -> tuple[float, float]:
    """Return how far a result's bar goes below and above it: a share's interval, else its error, else nothing."""
    if found.value is not None and found.low is not None and found.high is not None:
        return found.value - found.low, found.high - found.value
    return (found.standard_error or 0.0,) * 2


def result_of(point: Point, place: int) -> ObjectiveResult | None:
    """Return a point's result for the objective of that place, where it has a value."""
    found = point.results[place] if place < len(point.results) else None
    return found if found is not None and found.value is not None else None


def with_values(sweep: SweepOutcome, *places: int) -> list[Point]:
    """Return the points with a value of each of these objectives, best first."""
    return [point for point in ordered(sweep) if all(result_of(point, place) for place in places)]


def ordered(sweep: SweepOutcome) -> list[Point]:
    """Return all points: by rank; with several objectives the front first, each part by the first objective."""

    def key(point: Point) -> tuple[float, bool, bool, float]:
        first = result_of(point, 0)
        value = 0.0 if first is None or first.value is None else first.value
        signed = -value if sweep.objectives and sweep.objectives[0].mode == "max" else value
        return (math.inf if point.rank is None else point.rank, not point.front, first is None, signed)

    return sorted(sweep.points, key=key)


def goodness(axis: Axis, objective: Objective, value: float) -> float:
    """Return where a value lies between the worst (0) and the best (1) of its axis."""
    place = axis.place(value) or 0.0
    return place if objective.mode == "max" else 1 - place


def decimals(sweep: SweepOutcome, place: int) -> int:
    """Return how many decimals tell an objective's values apart."""
    values = [found.value for one in sweep.points if (found := result_of(one, place)) and found.value is not None]
    spread = (max(values) - min(values) if values else 0.0) or max(map(abs, values), default=0.0) or 1.0
    # A digit more than the spread needs, so that neighbours differ too.
    return min(6, max(2, fig.decimals_of(spread) + 1))


def trials_of(sweep: SweepOutcome) -> dict[str, list[TrialOutcome]]:
    """Return each point's trials, in the order in which they were chosen."""
    found: dict[str, list[TrialOutcome]] = {point.id: [] for point in sweep.points}
    for trial in sorted(sweep.trials, key=lambda one: one.number):
        found.setdefault(trial.point, []).append(trial)
    return found


def records(sweep: SweepOutcome, points: Sequence[Point], most: int = 12) -> tuple[str, ...]:
    """Return the trial folders that points' numbers come from; the sweep's document where they are many."""
    mine = trials_of(sweep)
    found = [trial.run for point in points for trial in mine[point.id] if trial.status in {"finished", "stopped"}]
    return tuple(dict.fromkeys(found)) if 0 < len(found) <= most else (document(sweep),)


def document(sweep: SweepOutcome) -> str:
    """Return the path of the sweep's own document, which all numbers stand in."""
    return f"sweeps/{sweep.name}/sweep.json"


def leaders(sweep: SweepOutcome) -> frozenset[str]:
    """Return the ids of the best point, or of those of the front."""
    return frozenset([sweep.best] if sweep.best else [*sweep.tied, *(one.id for one in sweep.points if one.front)])


def leading(sweep: SweepOutcome) -> str:
    """Say what the leaders are."""
    return "the best point" if sweep.best else "the points of the tie" if sweep.tied else "the Pareto front"
