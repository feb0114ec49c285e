"""The driver's side of training: while Ray Train runs, it tells workers what they must know, and people the news."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError, StoppedError, StorageError, TrainingError
from ratchet.train import nodes, notice
from ratchet.train.events import events_of
from ratchet.train.notice import Notice
from ratchet.train.spec import TrainSpec

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
    fit: Callable[[], Mapping[str, Any]],
    watch: nodes.Watch,
    stop: Callable[[], str | None],
    tell: Told,
) -> Mapping[str, Any]:
    """Return what `fit` does, in a thread of its own; signals stay the main thread's, which Ray Train would take.

    Raises StoppedError, or a dropped trial's TrainingError, where there are no workers that could be told to end;
    else what `fit` raises.
    """
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = fit()
        except BaseException as error:
            outcome["error"] = error

    folder, told, begun, without = Path(spec.folder), None, False, 0
    if (why := stop()) is not None or _dropped(spec):
        raise _without_workers(spec, why)
    thread = threading.Thread(target=work, name="ratchet-train", daemon=True)
    thread.start()
    while thread.is_alive():
        why, here = stop(), bool(nodes.on_nodes(folder))
        begun, without = begun or here, 0 if here else without + 1
        if without == _WAITS:
            tell.say(f"waits for room for {spec.cluster.fewest_workers} workers on the cluster")
        # Workers that are gone for a moment have ended, or come back: only then is it known what they left. A trial
        # that is dropped waits for its workers, which end: slots that nobody waits for stay taken until Ray's job ends.
        if why is not None and not here and (not begun or without >= _GONE):
            with contextlib.suppress(StorageError):  # for those that begin before Ray is told: they lose nothing else
                notice.write_notice(folder, Notice("stop", why))
            raise _without_workers(spec, why)
        found = Notice("stop", why) if why is not None else _of_nodes(watch)
        if found != told:
            notice.write_notice(folder, found)
            told = found
        tell.news()
        thread.join(LOOK_SECONDS)
    tell.news()
    if "error" in outcome:
        raise outcome["error"]
    value: Mapping[str, Any] = outcome["value"]
    return value


def _of_nodes(watch: nodes.Watch) -> Notice | None:
    try:
        seen = nodes.seen()
    except Exception:  # the cluster does not answer for a moment; if it is gone, `fit` tells
        return None
    return watch.notice(seen)


def _dropped(spec: TrainSpec) -> bool:
    return spec.stop_file is not None and Path(spec.stop_file).exists()


def _without_workers(spec: TrainSpec, why: str | None) -> RatchetError:
    where = f"step {spec.step}"
    if why is None:
        return TrainingError(
            "ended while it had no workers, as it was told to",
            where=where,
            fix=f"see {spec.stop_file}",
            code="training.dropped",
        )
    return StoppedError(
        f"{why}: stopped while there were no workers",
        where=where,
        fix="run again: it goes on",
        code="stopped.without-workers",
    )
