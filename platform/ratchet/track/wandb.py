"""The door to wandb: the only module that imports it.

wandb may be down, slow, refusing or broken. Everything that touches it happens in one background
thread behind a bounded queue: the training thread only puts, never waits, and drops what does not
fit. The first failure is reported once; from then on only JSON lines are written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet import redact
from ratchet.documents.scores import SuiteScores

_QUEUE = 50_000  # lines: some 150 MB where wandb is stuck; steps of a trial that are there already come all at once
_FINISH_SECONDS = 20.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class WandbRun:
    """One wandb run: one step of a plan, which is its group, or one trial of a sweep.

    A restart with the same `run_id` goes on in the same run. `config` may be nested: it is shown
    with dotted keys. wandb's files lie in `folder` where that is called `wandb`, else in
    `<folder>/wandb`. `init_timeout` is in seconds. `mode` is `online`, `offline`, or another of
    wandb's. `from_start` tells that a restart logs again from the first step: the service passes
    over the steps that it has, and offline files are written as of a new run, since `wandb sync`
    would give the lines of a resumed one new steps, behind those that are there; so they take the
    place of what was sent before.
    """

    project: str
    name: str
    run_id: str
    group: str
    job_type: str
    config: Mapping[str, Any]
    folder: str
    mode: str = "online"
    entity: str | None = None
    tags: tuple[str, ...] | list[str] = ()
    init_timeout: float = 60.0
    from_start: bool = False

    @property
    def path(self) -> str:
        """Where it is found: `<project>/<run id>`."""
        return f"{self.project}/{self.run_id}"


def flatten(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; lists become JSON text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{at}{key}.")
        else:
            flat[f"{at}{key}"] = json.dumps(value) if isinstance(value, list | tuple | Mapping) else value
    return flat


@dataclasses.dataclass(frozen=True)
class _Item:
    step: int | None
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Table:
    name: str
    columns: list[str]
    rows: list[list[Any]]


class WandbTracker:
    """Sends metrics to wandb from a thread of its own.

    Raises nothing and waits for nothing, but for `close`, which gives an unfinished upload
    `_FINISH_SECONDS` and then leaves it: offline files and JSON lines are complete all the same.
    """

    def __init__(self, run: WandbRun) -> None:
        self._run = run
        self._queue: queue.Queue[_Item | _Table | None] = queue.Queue(_QUEUE)
        self._over = threading.Event()
        self._dropped = 0
        self._exit_code = 0
        self._thread = threading.Thread(target=self._work, name="ratchet-wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._put(_Item(step, dict(metrics)))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._put(_Item(None, dict(values)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table, beside the newest step: each row has a value for each column, a column values of one type."""
        self._put(_Table(name, list(columns), [list(row) for row in rows]))

    def close(self, exit_code: int = 0) -> None:
        """End the run: as failed where `exit_code` is not 0."""
        self._exit_code = exit_code
        deadline = time.monotonic() + _FINISH_SECONDS + 5.0
        while not self._over.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=0.1)
                break
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._dropped:
            _log.warning("wandb was too slow: %d lines did not reach it; metrics.jsonl has all", self._dropped)
        if self._thread.is_alive() and not self._over.is_set():
            self._over.set()
            _log.warning("wandb had not finished after %.0f s and was left; metrics.jsonl is complete", _FINISH_SECONDS)

    def _put(self, item: _Item | _Table) -> None:
        if self._over.is_set():
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        # Telemetry of wandb's own would keep the process from ending while the server hangs, and
        # its login prints before a run's settings count: both are decided by the environment.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        os.environ["WANDB_SILENT"] = "true"
        try:
            self._send()
        except Exception as error:
            if not self._over.is_set():
                _log.warning("wandb is off for the rest of this step (%s); metrics.jsonl goes on", _first_line(error))
        finally:
            self._over.set()
            _teardown()

    def _send(self) -> None:
        import wandb

        folder = Path(self._run.folder)
        modes: dict[str, Any] = {"mode": self._run.mode}  # what WANDB_MODE says may be any text
        run = wandb.init(
            project=self._run.project,
            entity=self._run.entity,
            id=self._run.run_id,
            **modes,
            resume=None if self._run.from_start and self._run.mode == "offline" else "allow",
            name=self._run.name,
            group=self._run.group,
            job_type=self._run.job_type,
            tags=list(self._run.tags),
            config=redact.tree(flatten(self._run.config)),
            dir=str(folder.parent if folder.name == "wandb" else folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                symlink=False,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_save_requirements=False,
                x_transaction_log_flush_interval=1.0,  # what a killed process may lose of its offline file
                init_timeout=self._run.init_timeout,
                finish_timeout=_FINISH_SECONDS,
                login_timeout=self._run.init_timeout,
                stop_fn=_refuse_to_stop,
            ),
        )
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Table):
                table = wandb.Table(columns=item.columns, data=item.rows)
                run.log({item.name: table}, step=run.step)  # without a step it would take the next one for itself
            elif item.step is None:
                run.summary.update(item.values)
            else:
                run.log(item.values, step=item.step)
        run.finish(exit_code=self._exit_code)


def _teardown() -> None:
    """End wandb's service now: left to the end of the process, it could hold that up."""
    try:
        import wandb

        wandb.teardown()
    except Exception as error:
        _log.debug("wandb: %s", _first_line(error))


def _refuse_to_stop() -> None:
    _log.warning("a stop was asked for on the wandb page; training goes on: stop the job itself")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}"


Plain = tuple[list[str], list[list[Any]]]
"""Column names, and rows of plain values."""


def wandb_summary(scores: SuiteScores, model: str) -> dict[str, float]:
    """Return a model's headline scores and averages, with their standard errors, in the unit of scores.json.

    `eval/<suite>/<task>` and `eval/<suite>/<task>_error`; what has no value is not there, nor is an error of 0, which
    is that of items that all agree.
    """
    found: dict[str, float] = {}
    heads = [(one.suite, one.task, one.headline) for one in scores.results if one.model == model]
    means = [(one.suite, one.name, one) for one in scores.averages if one.model == model]
    for suite, name, one in (*heads, *means):
        if one is not None and one.value is not None:
            key = f"eval/{scores.suite_name(suite)}/{name}"
            found[key] = one.value
            if one.standard_error:
                found[f"{key}_error"] = one.standard_error
    return found


def wandb_tables(scores: SuiteScores, model: str) -> dict[str, Plain]:
    """Return a model's scores, differences, items without a verdict and answers: (columns, rows) by table name.

    A table without rows is not there.
    """
    made = {
        "eval/scores": _scores(scores, model),
        "eval/differences": _differences(scores, model),
        "eval/problems": _problems(scores, model),
        "eval/answers": _answers(scores, model),
    }
    return {name: table for name, table in made.items() if table[1]}


def _scores(scores: SuiteScores, model: str) -> Plain:
    columns = ["suite", "task", "score", "part", "value", "standard_error", "items", "unit", "note"]
    rows = [
        [one.suite, one.task, it.name, it.group, it.value, it.standard_error, it.count, it.unit, it.note]
        for one in scores.results
        if one.model == model
        for it in one.scores
    ]
    rows += [
        [one.suite, one.name, "average", "", one.value, one.standard_error, None, one.unit, one.note]
        for one in scores.averages
        if one.model == model
    ]
    return columns, rows


def _differences(scores: SuiteScores, model: str) -> Plain:
    numbers = ["difference", "standard_error", "low", "high", "p", "p_holm"]
    rows = [
        [
            *(one.against, one.relation, one.suite, one.task, one.metric),
            *(getattr(one, name) for name in numbers),
            *(one.verdict, one.items, one.clusters, one.note),
        ]
        for one in scores.comparisons
        if one.model == model
    ]
    texts = ["against", "relation", "suite", "task", "metric"]
    return [*texts, *numbers, "verdict", "items", "clusters", "note"], rows


def _problems(scores: SuiteScores, model: str) -> Plain:
    rows = [
        [one.suite, one.task, reason, count]
        for one in scores.results
        if one.model == model
        for reason, count in one.problems.items()
    ]
    return ["suite", "task", "reason", "items"], rows


def _answers(scores: SuiteScores, model: str) -> Plain:
    metrics = list(dict.fromkeys(name for one in scores.answers if model in one.by for name in one.by[model].values))
    rows = [
        [
            *(one.suite, one.task, one.item, one.group, one.question, one.reference),
            *(said.answer, said.problem),
            *(None if (value := said.values.get(name)) is None else float(value) for name in metrics),
        ]
        for one in scores.answers
        if (said := one.by.get(model)) is not None
    ]
    return ["suite", "task", "item", "part", "question", "reference", "answer", "problem", *metrics], rows
