"""The nodes that training runs on: which of them are being taken away, and how many workers there is room for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet.store.record import read_json_or_none
from ratchet.train.notice import Notice
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import WORKERS

LOOKS = 25
"""How often in a row, a second apart, there must be room: Ray counts nodes anew every 20 s when it begins workers, and
what is free for a moment between two tasks is no room.
"""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Nodes that are alive, by id: what they have in all and free now, by kind; and which are being taken away."""

    total: Mapping[str, Mapping[str, float]]
    free: Mapping[str, Mapping[str, float]]
    leaving: frozenset[str]


def seen() -> Nodes:
    """Ask Ray. Its drain state has no public function; Ray Train's own watcher asks for it in the same way."""
    import ray
    from ray._private.state import available_resources_per_node, state

    total = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return Nodes(total, available_resources_per_node(), frozenset(state.get_draining_nodes() or {}))


def on_nodes(step_folder: Path) -> list[str]:
    """Return the ids of the nodes that a step's workers are on, by rank; none where they have not begun."""
    found = read_json_or_none(step_folder / WORKERS)
    return [] if found is None else list(found["nodes"])


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


class Watch:
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
        """Take note that so many workers ended to begin anew: where no more come, they are not asked to again."""
        self._roomy = 0
        if kind == "grow":
            self._hoped = (workers, frozenset(nodes.total))
