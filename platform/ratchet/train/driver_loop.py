"""The driver's side of training: while Ray Train runs, it tells workers what they must know, and people the news.

Workers must know that they should stop, that a node is being taken away, or that there is room for more of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from ratchet.documents.events import events_of
from ratchet.errors import CorruptError, StoppedError, StorageError, TrainingError
from ratchet.store.codec import from_values
from ratchet.store.record import read_json_or_none
from ratchet.train.notice import WORKERS, Notice, WorkerNodes, write_notice
from ratchet.train.spec import TrainSpec

LOOKS = 25
"""How often in a row, a second apart, there must be room: Ray counts nodes again every 20 s when it begins workers, and
what is free for a moment between two tasks is no room.
"""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Nodes that are alive, by id: what they have in all and free now, by kind; and which are being taken away."""

    total: Mapping[str, Mapping[str, float]]
    free: Mapping[str, Mapping[str, float]]
    leaving: frozenset[str]


def live_nodes() -> Nodes:
    """Ask Ray which nodes live, what is free on them, and which are drained."""
    import ray
    from ray._private.state import available_resources_per_node, state

    total = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    # The drain state has no public function; Ray Train's own watcher asks for it in the same way.
    return Nodes(total, available_resources_per_node(), frozenset(state.get_draining_nodes() or {}))


def on_nodes(step_folder: Path) -> list[str]:
    """Return the ids of the nodes that a step's workers are on, by rank; none where they have not begun."""
    path = step_folder / WORKERS
    values = read_json_or_none(path)
    if values is None:
        return []
    return list(from_values(WorkerNodes, values, where=str(path), fix="run again", error=CorruptError).nodes)


def room(nodes: Nodes, used: Sequence[str], each: Mapping[str, float]) -> int:
    """Return how many workers there is room for where `used` have one each already, nodes that leave left out."""
    count = 0
    for node in nodes.total:
        if node in nodes.leaving:
            continue
        have = nodes.free.get(node, {})
        free = min(int(have.get(kind, 0.0) / need + 1e-6) for kind, need in each.items() if need)
        count += free + used.count(node)
    return count


class NodeWatch:
    """Decides what a step's workers must be told of its nodes."""

    def __init__(self, spec: TrainSpec, each: Mapping[str, float]) -> None:
        self.spec, self.each = spec, each
        self.refused: frozenset[str] | None = None
        """The nodes on which more workers were hoped for, and did not come; None once there was no room for more."""
        self._hoped: tuple[int, frozenset[str]] | None = None
        self._roomy = 0

    def notice(self, nodes: Nodes) -> Notice | None:
        """Return what to tell the workers now; None where all may go on as it is."""
        used = on_nodes(Path(self.spec.folder))
        if not used:
            return None
        alive = frozenset(nodes.total)
        if self._hoped is not None:
            before, on = self._hoped
            self.refused = on if len(used) <= before else None
            self._hoped = None
        if leaving := sorted(nodes.leaving & set(used)):
            names = ", ".join(node[:8] for node in leaving)
            return Notice("leave", f"node {names} is being taken away")
        fewest, most = self.spec.cluster.fewest_workers, self.spec.cluster.most_workers
        if fewest == most or len(used) >= most:
            return None
        possible = min(most, room(nodes, used, self.each))
        self._roomy = self._roomy + 1 if possible > len(used) else 0
        if not self._roomy:
            self.refused = None
        if self._roomy < LOOKS or alive == self.refused:
            return None
        return Notice("grow", f"there is room for {possible} workers in place of {len(used)}")

    def regrouped(self, kind: str, workers: int, nodes: Nodes) -> None:
        """Take note that so many workers ended to begin again: where no more come, they are asked only once."""
        self._roomy = 0
        if kind == "grow":
            self._hoped = (workers, frozenset(nodes.total))


LOOK_SECONDS = 1.0
"""How often the driver looks at the cluster, and at whether it was asked to stop."""
_WAITS, _GONE = 60, 30
"""Looks in a row without workers after which that is said, and after which they are not waited for any more."""


class Told:
    """Says what happens to a step as it happens, and nothing of an earlier call."""

    def __init__(self, spec: TrainSpec, say: Callable[[str], None]) -> None:
        self.spec, self._say = spec, say
        self._heard = len(events_of(Path(spec.folder)))

    def say(self, text: str) -> None:
        """Say a line about the step."""
        self._say(f"{self.spec.step:<20} {text}")

    def news(self) -> None:
        """Say what is new."""
        events = events_of(Path(self.spec.folder))
        for event in events[self._heard :]:
            self.say(event.what)
        self._heard = len(events)


def watched(
    spec: TrainSpec,
    fitted: Future[Mapping[str, Any]],
    watch: NodeWatch,
    stop: Callable[[], str | None],
    tell: Told,
) -> Mapping[str, Any]:
    """Return what comes of training, which another thread puts into `fitted`, and tell workers and people meanwhile.

    Raises StoppedError where there are no workers that could be told to end; else what training raised.
    """
    folder, told, begun, without = Path(spec.folder), None, False, 0
    while not fitted.done():
        why, here = stop(), bool(on_nodes(folder))
        begun, without = begun or here, 0 if here else without + 1
        if without == _WAITS:
            tell.say(f"waits for room for {spec.cluster.fewest_workers} workers on the cluster")
        # Workers that are gone for a moment have ended, or come back: only then is it known what they left. A trial
        # that is dropped waits for its workers, which end: slots that nobody waits for stay taken until Ray's job ends.
        if why is not None and not here and (not begun or without >= _GONE):
            with contextlib.suppress(StorageError):  # for those that begin before Ray is told: they lose nothing else
                write_notice(folder, Notice("stop", why))
            raise _stopped_without_workers(spec, why)
        found = Notice("stop", why) if why is not None else _of_nodes(watch)
        if found != told:
            write_notice(folder, found)
            told = found
        tell.news()
        wait([fitted], LOOK_SECONDS)
    tell.news()
    return fitted.result()


def _of_nodes(watch: NodeWatch) -> Notice | None:
    try:
        seen = live_nodes()
    except Exception:  # the cluster does not answer for a moment; if it is gone, `fit` tells
        return None
    return watch.notice(seen)


def refuse_stopped(spec: TrainSpec, why: str | None) -> None:
    """Raise StoppedError where a run is asked to stop, or a dropped trial's TrainingError, before workers begin."""
    if why is not None:
        raise _stopped_without_workers(spec, why)
    if spec.stop_file is not None and Path(spec.stop_file).exists():
        raise TrainingError(
            "ended while it had no workers, as it was told to",
            where=f"step {spec.step}",
            fix=f"see {spec.stop_file}",
            code="training.dropped",
        )


def _stopped_without_workers(spec: TrainSpec, why: str) -> StoppedError:
    return StoppedError(
        f"{why}: stopped while there were no workers",
        where=f"step {spec.step}",
        fix="run again: it goes on",
        code="stopped.without-workers",
    )
