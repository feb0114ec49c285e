"""One wandb run for one trial of a sweep: its curves, scores, stages and what it came to.

The group is the sweep. Its config has the resolved plan with dotted keys, and under
`sweep/point/<key>` the values that the trial was given, so that panels of parallel coordinates and
of importance find flat keys; what came of the trial stands in its summary, each objective under
its own name. The facts of stages are in the summary too: in the config they would be taken for
something that was chosen.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialPoint
from ratchet.plan.schema import Wandb
from ratchet.store.fingerprint import fingerprint
from ratchet.track.wandb import WandbRun, WandbTracker

ENDS_SECONDS = 30.0
"""Seconds that wandb has for all ends that are reported from outside, once the last one is known."""

_log = logging.getLogger(__name__)
_COLUMNS = ("step", "kind", "fingerprint", "parent", "made_by", "run", "reused")


@dataclasses.dataclass(frozen=True)
class StageLink:
    """What one step of a trial is, and where it comes from.

    `fingerprint` is its identity in `store/steps`, `parent` that of the step it starts from (None:
    the plan's start model). `made_by` is the trial that trained it and `run` that trial's wandb run
    (`<project>/<run id>`, None where unknown); `reused` says that it was another trial or an earlier call.
    """

    step: str
    kind: str
    fingerprint: str
    parent: str | None
    made_by: str
    run: str | None
    reused: bool


def by_agent() -> bool:
    """Whether a wandb agent started this process for one run of its sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def trial_run_id(sweep: str, chosen: TrialPoint) -> str:
    """Return the id of a trial's wandb run; `chosen` is as its point.json has it.

    It stays the same when the trial goes on after an end, and is another one where the same sweep
    started again elsewhere: an existing wandb run accepts no step twice.
    """
    told = {"sweep": sweep, "trial": chosen.trial, "at": chosen.at}
    return f"{chosen.trial}-{fingerprint(told)[:8]}"


def trial_run(
    wandb: Wandb | None, sweep: str, chosen: TrialPoint, plan: Mapping[str, Any], folder: Path
) -> WandbRun | None:
    """Return the wandb run of a trial, or None where none was asked for.

    `chosen` is as the trial's point.json has it, `plan` its resolved plan and `folder` its run folder. Where a wandb
    agent started this process, the run is the agent's, whether the plan asks for wandb or not: its id, project and
    entity are those of the environment; wandb also locks the keys of the config that the agent has set, under the
    sweep's names. The run is online unless WANDB_MODE says otherwise.
    """
    if wandb is None and not by_agent():
        return None
    facts = {key: getattr(chosen, key) for key in ("trial", "number", "point_id", "seed")}
    config = {
        **plan,
        "sweep/name": sweep,
        **{f"sweep/{key}": value for key, value in facts.items()},
        **{f"sweep/point/{key}": value for key, value in chosen.point.items()},
    }
    run = WandbRun(
        project=wandb.project if wandb else "",
        entity=wandb.entity if wandb else None,
        mode=wandb.mode if wandb else "online",
        tags=wandb.tags if wandb else (),
        name=chosen.trial,
        run_id=trial_run_id(sweep, chosen),
        group=sweep,
        job_type="trial",
        config=config,
        folder=str(folder / "wandb"),
        from_start=True,
    )
    if not by_agent():
        return run
    return dataclasses.replace(
        run,
        # wandb takes these from the environment, whatever else it is given.
        run_id=os.environ["WANDB_RUN_ID"],
        project=os.environ.get("WANDB_PROJECT", run.project),
        entity=os.environ.get("WANDB_ENTITY", run.entity),
        mode=os.environ.get("WANDB_MODE", "online"),
    )


class _Tracker(WandbTracker):
    """Knows whether all that it was given went through."""

    sent = False

    def _send(self) -> None:
        super()._send()
        self.sent = True


class TrialRun:
    """Sends one trial to wandb; None as `run` sends nothing. Raises nothing, and waits in `close` alone.

    A trial that goes on after an end is sent again from its first line; at the service
    nothing is there twice, and the newest offline file holds all. Methods may be called from several threads.
    """

    def __init__(self, run: WandbRun | None) -> None:
        self.path = run.path if run else None
        """`<project>/<run id>`, as trial.json and the stages of other trials name it."""
        self._tracker = _Tracker(run) if run else None
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self._highest = 0
        self._stages: dict[str, StageLink] = {}
        self._exit_code = 0

    def line(self, step: str, line: Mapping[str, Any]) -> None:
        """Take one line of a step's metrics.jsonl, each once and in order; steps one after another.

        Its keys get the step's name before them (`align.1/loss`), its own count too
        (`align.1/step`). wandb's count goes on over the steps of the trial.
        """
        with self._lock:
            offset = self._offsets.setdefault(step, self._highest)
            self._highest = max(self._highest, offset + line["step"])
            if self._tracker:
                self._tracker.log(offset + line["step"], {f"{step}/{key}": value for key, value in line.items()})

    def stage(self, link: StageLink) -> None:
        """Take what a step of the trial is: at once in the summary, and in the table `stages` at the end."""
        with self._lock:
            self._stages[link.step] = link
        named = zip(_COLUMNS[1:], _row(link)[1:], strict=True)
        self.summary({f"stages/{link.step}/{key}": value for key, value in named})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table."""
        if self._tracker:
            self._tracker.table(name, columns, rows)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Send single values."""
        if self._tracker:
            self._tracker.summary(values)

    def finish(self, status: str, metrics: Mapping[str, Value], reason: str = "") -> None:
        """Take what the trial came to, as trial.json has it, or that it is `unfinished` and goes on later.

        `metrics` are by name. Each value stands under the very name of its metric, its standard error under
        `<name>_error`; what has no value is not there.
        """
        # An empty reason too: a trial that goes on has the summary that it was stopped with.
        values: dict[str, Any] = {"status": status, "reason": reason}
        for name, one in metrics.items():
            found = {name: one.value, f"{name}_error": one.standard_error}
            values |= {key: value for key, value in found.items() if value is not None}
        if self._stages:
            self.table("stages", _COLUMNS, [_row(link) for link in self._stages.values()])
        self.summary(values)
        self._exit_code = int(status in {"failed", "unfinished"})

    def close(self) -> None:
        """Finish wandb, after trial.json is written: an upload that hangs is given some 20 seconds."""
        if self._tracker:
            self._tracker.close(self._exit_code)

    @property
    def sent(self) -> bool:
        """Whether all of it went through; known after `close`. Where nothing is sent, it did not."""
        return self._tracker is not None and self._tracker.sent


def tell_end(run: WandbRun, status: str, reason: str) -> bool:
    """Tell a trial's run what became of it where its own process could not; return whether that went through.

    Waits as `TrialRun.close` does. What the trial had sent stays, in offline files too: these go on where the
    run was left.
    """
    trial = TrialRun(dataclasses.replace(run, from_start=False))
    trial.finish(status, {}, reason)
    trial.close()
    return trial.sent


class Ends:
    """Tells wandb of trials that were ended from outside: one after another, as it has one run at a time in a process.

    Raises nothing, and waits in `close` alone, there ENDS_SECONDS for all of them together. The first that hangs or
    fails is the last that is tried: the service would fail the others too. What was not sent is in trial.json.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[tuple[WandbRun, str, str] | None] = queue.Queue()
        self._taken, self._told = 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ratchet-wandb-ends", daemon=True)
        self._thread.start()

    def tell(self, run: WandbRun, status: str, reason: str) -> None:
        """Take the end of a trial, as `tell_end` does, and return at once. To be called from one thread."""
        self._taken += 1
        self._waiting.put((run, status, reason))

    def close(self) -> None:
        """Wait until all is sent, for at most ENDS_SECONDS, and say how many trials' ends were not."""
        self._waiting.put(None)
        self._thread.join(ENDS_SECONDS)
        self._over.set()
        if left := self._taken - self._told:
            _log.warning("wandb did not receive how %d of %d trials ended; trial.json has it", left, self._taken)

    def _work(self) -> None:
        while (end := self._waiting.get()) is not None and not self._over.is_set():
            if not tell_end(*end):
                return
            self._told += 1


def _row(link: StageLink) -> list[Any]:
    return list(dataclasses.astuple(link))
