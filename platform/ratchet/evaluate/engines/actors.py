"""Processes that each hold one engine, and compute units until none is left. A thin Ray shell."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ratchet.errors import ClusterError, DataError, RatchetError, some
from ratchet.evaluate.engines.pool import Unit
from ratchet.reference.processes import family, wait_until_gone
from ratchet.serving.requests import Answer, Engine, request_words
from ratchet.store import warned
from ratchet.store.machine import keep_to_threads

_log = logging.getLogger(__name__)
# Processes that may die over one unit.
_MOST_DEATHS = 2
# Units that a process has at a time, so that it never waits for the driver.
_AHEAD = 2
# How often `look` is called while nothing comes.
_LOOK_SECONDS = 1.0


class _Worker:
    """One process. Its engine is made with the first unit, so that an error of loading is an answer too."""

    def __init__(self, make: Callable[[], Engine], warnings: str | None) -> None:
        warned.send(warnings)
        keep_to_threads()
        self.make = make
        self.engine: Engine | None = None

    def processes(self) -> list[tuple[str, int]]:
        """Return the node and the pid of this process and of all that descend from it."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return [(node, pid) for pid in family(os.getpid())]

    def answer(self, unit: Unit) -> tuple[list[tuple[str, int]], list[Answer] | RatchetError]:
        """Return these processes, and the unit's answers or the error that explains why there are none."""
        found: list[Answer] | RatchetError
        try:
            if self.engine is None:
                self.engine = self.make()
            found = self.engine.answer(unit)
        except RatchetError as error:
            found = error
        return self.processes(), found


class Actors:
    """A pool of processes, started with the first units and kept until `close`.

    `make` makes an engine in a process of its own, `count` says how many there are at most, and each
    takes `cpus` and `gpus`; one that finds no room yet is given no work. A process that dies is
    replaced and its units computed again. `look` is called again and again meanwhile; what it raises ends the work.
    `start_seconds` counts what was waited for until one was ready.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        count: int,
        cpus: float = 1,
        gpus: float = 0,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.look = look
        self.make, self.count, self.cpus, self.gpus = make, count, cpus, gpus
        self.start_seconds = 0.0
        self._ready: list[Any] = []
        self._stillborn = 0
        self._starting: dict[Any, Any] = {}
        self._known: dict[tuple[str, int], None] = {}

    def compute(self, units: Sequence[Unit]) -> Iterator[tuple[int, list[Answer]]]:
        """Yield (place, answers) of each unit as it is done.

        After an error no unit is begun, and those under way are yielded first. Raises what the engine
        raised; DataError for a unit that every process dies over.
        """
        import ray

        waiting, deaths = deque(range(len(units))), [0] * len(units)
        running: dict[Any, tuple[int, Any]] = {}
        while len(self._ready) + len(self._starting) < min(self.count, len(units)):
            self._start()
        failure: RatchetError | None = None
        clock = time.monotonic()
        while running or (waiting and failure is None):
            if failure is None:
                self._hand_out(units, waiting, running)
            ended: list[Any] = []
            while not ended:
                self.look()
                # With a limit, so that `look` ends it where the evaluation is stopped.
                ended, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=_LOOK_SECONDS)
            [done] = ended
            try:
                found = ray.get(done)
            except ray.exceptions.RayActorError as error:
                worker = self._starting.pop(done) if done in self._starting else running[done][1]
                _log.warning("a process of the evaluation ended: %s", (str(error).splitlines() or [""])[0])
                self._replace(worker, units, waiting, running, deaths)
                continue
            if done in self._starting:
                self.start_seconds += 0.0 if self._ready else time.monotonic() - clock
                self._ready.append(self._starting.pop(done))
                self._stillborn = 0
                self._known.update(dict.fromkeys(found))
                continue
            place, _ = running.pop(done)
            self._known.update(dict.fromkeys(found[0]))
            if isinstance(found[1], RatchetError):
                failure = failure or found[1]
            else:
                yield place, found[1]
        if failure is not None:
            raise failure

    def _hand_out(self, units: Sequence[Unit], waiting: deque[int], running: dict[Any, tuple[int, Any]]) -> None:
        # In rounds, so that no process gets a second unit while another has none.
        for depth in range(1, _AHEAD + 1):
            for worker in self._ready:
                if waiting and sum(owner is worker for _, owner in running.values()) < depth:
                    place = waiting.popleft()
                    running[worker.answer.remote(units[place])] = place, worker

    def _replace(
        self,
        worker: Any,
        units: Sequence[Unit],
        waiting: deque[int],
        running: dict[Any, tuple[int, Any]],
        deaths: list[int],
    ) -> None:
        """Start another process in the place of a dead one; its units wait again."""
        lost = {ref: place for ref, (place, owner) in running.items() if owner is worker}
        for ref in lost:
            del running[ref]
        waiting.extendleft(reversed(lost.values()))
        self._ready = [one for one in self._ready if one is not worker]
        if not lost:
            self._stillborn += 1
            if self._stillborn > _MOST_DEATHS:
                raise ClusterError(
                    f"{self._stillborn} processes of the evaluation in a row did not start",
                    fix="look at the logs of Ray, and at free memory",
                )
            self._start()
            return
        # A process computes units in the order they were sent, so it died over the first.
        over = next(iter(lost.values()))
        deaths[over] += 1
        if deaths[over] >= _MOST_DEATHS:
            requests = some([request_words(one) for one in units[over]])
            raise DataError(
                f"{deaths[over]} processes died over the same requests: {requests}",
                fix="if memory ran out (see the kernel's log), lower batch_tokens or the number of processes",
                code="data.deadly",
            )
        self._start()

    def _start(self) -> None:
        import ray

        # DEFAULT: a trial of a sweep is itself in a placement group, which has no room for them.
        kind = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus or None, max_restarts=0, scheduling_strategy="DEFAULT"
        )(_Worker)
        worker = kind.remote(self.make, warned.destination())
        self._starting[worker.processes.remote()] = worker

    def close(self) -> None:
        """End the processes, and wait until they and the memory they held are gone. Raises ClusterError."""
        import ray

        for worker in (*self._ready, *self._starting.values()):
            ray.kill(worker)
        self._ready, self._starting = [], {}
        wait_until_gone(self._known)
        self._known = {}
