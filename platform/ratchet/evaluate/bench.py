"""A model as tasks ask it: one pool of processes for each engine and precision that they want."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ratchet.errors import ModelError, StoppedError
from ratchet.evaluate.engines.actors import Actors
from ratchet.evaluate.engines.kinds import Subject, engine_kind, engine_label
from ratchet.evaluate.engines.pool import AnswerPool, Candidate, OneEngine, TokenCount
from ratchet.model.check import check_model
from ratchet.model.folder import digest_code, digest_model, file_marks
from ratchet.pairs.chat import PLAIN, ChatTemplate, handed_of
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.plan.cluster import Cluster
from ratchet.plan.suite import Task, quantise_of
from ratchet.plan.task_parts import Answering
from ratchet.reference.models import Model
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import Answer, Engine, Request
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import Lease, Wait, leased
from ratchet.store.machine import on_ray
from ratchet.track.progress import Console, counted

# Positions of a model that names no limit.
_LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where models are evaluated. `actors` is the number of processes on a Ray; no result depends on it.

    Where `stopped` turns true, the evaluation ends with its next batch; what was answered is kept.
    """

    layout: Layout
    cluster: Cluster
    console: Console
    chat_template: ChatTemplate | None
    actors: int
    stopped: Callable[[], bool] = lambda: False

    @property
    def wait(self) -> Wait:
        """How it waits for other processes."""
        return Wait(self.console.say, self.end_if_stopped)

    def end_if_stopped(self) -> None:
        """Raise StoppedError where the evaluation is to end."""
        if self.stopped():
            raise StoppedError(
                "the evaluation was stopped", fix="run again: it goes on where it was", code="stopped.asked"
            )


class Candidates:
    """The candidates of one model. Use it in a `with`: at its end the processes are gone.

    `role` begins the names of journals: a judge has its own, as it may be the model that it judges.
    Raises ModelError where the model cannot be used, RunError where another process evaluates it.
    """

    def __init__(self, bench: Bench, model: Model, role: str = "") -> None:
        self.bench, self.model, self.role = bench, model, role
        self.tokenizer = load_tokenizer(model.folder, bench.chat_template)
        facts = check_model(model.folder, bench.chat_template if self.tokenizer.chat_template else PLAIN)
        self.longest = facts.longest or _LONGEST
        self._marks = file_marks(model.folder)
        # The marks are read before the digest: a file that changes in between differs from them later.
        if digest_model(model.folder) != model.weights:
            raise ModelError(
                f"its weights are not those of {model.name} any more",
                where=str(model.folder),
                fix="run again; something writes to this folder",
                code="model.changed",
            )
        self._actors: dict[tuple[str, str | None], Actors | OneEngine] = {}
        self._journals: dict[str, UnitJournal] = {}
        self._tokens: dict[str, TokenCount] = {}
        self._open = contextlib.ExitStack()

    def identity(self, engine: str, quantise: str | None = None) -> dict[str, Any]:
        """Return all that decides an answer of this model beside its unit's requests."""
        return {
            "weights": self.model.weights,
            "tokenizer": digest_tokenizer(self.model.folder),
            "chat_template": self.tokenizer.chat_template,
            **handed_of(self.tokenizer),
            "dtype": self.model.dtype,
            "quantise": quantise,
            "code": digest_code(self.model.folder) if self.model.trust_remote_code else None,
            "engine": engine_label(engine, gpu=bool(self.bench.cluster.gpus_per_worker)),
        }

    def alone(self, tasks: Iterable[Task | Answering], on_wait: Callable[[str], None]) -> list[Lease]:
        """Wait until no other process asks this model as some of `tasks` do; from then on others wait for this one.

        One process writes a journal of answers, and what stands there is not asked for again. Raises StoppedError
        where the evaluation was stopped while it waited, StorageError.
        """
        leases = [
            leased(
                self.bench.layout.lease(f"answers-{self.role}{name}"),
                what=f"answers of {self.model.name}",
                wait=Wait(on_wait, self.bench.end_if_stopped),
            )
            # In one order for all, so that no two processes wait for each other.
            for name in sorted({fingerprint(self.identity_for(task)) for task in tasks})
        ]
        # Released at the end of the `with`, after the journals, which are opened later, are closed.
        return [self._open.enter_context(lease) for lease in leases]

    def identity_for(self, task: Task | Answering) -> dict[str, Any]:
        """Return all that decides what this model makes of a task, beside the task."""
        engine = task.engine if isinstance(task, Answering) else "trainer"
        return self.identity(engine, quantise_of(task))

    def of(self, task: Answering) -> Candidate:
        """Return the model as a task wants to ask it. Nothing is started before something is asked."""
        quantise = quantise_of(task)
        name = fingerprint(self.identity_for(task))
        longest = engine_kind(task.engine).positions(self.longest)
        pool = AnswerPool(
            functools.partial(self._compute, task.engine, quantise),
            name,
            self.tokenizer,
            self._journal(name),
            task.batch_tokens,
            longest,
            self._on_units,
            self._on_tokens,
        )
        return Candidate(pool, self.tokenizer, longest, name)

    def start_seconds(self) -> float:
        """Return the seconds that were waited for processes of this model until some were ready."""
        return sum(actors.start_seconds for actors in self._actors.values())

    def take_tokens(self) -> dict[str, TokenCount]:
        """Return the tokens of each group of requests that was answered since the last call."""
        taken, self._tokens = self._tokens, {}
        return taken

    def _on_tokens(self, group: str, count: TokenCount) -> None:
        self._tokens[group] = self._tokens.get(group, TokenCount()) + count

    def rest(self) -> None:
        """End the processes, so that others can have what they held. They start again when something is asked."""
        for actors in self._actors.values():
            actors.close()

    def step_back(self, line: str) -> None:
        """Say that there is a wait, and keep no processes meanwhile."""
        # The process that is waited for may need their place.
        self.rest()
        self.bench.console.say(line)

    def _compute(self, engine: str, quantise: str | None, units: Any) -> Iterator[Any]:
        for other, actors in self._actors.items():
            if other != (engine, quantise):  # a GPU holds one engine at a time
                actors.close()
        with counted(f"evaluate {self.model.name}", "batches", self.bench.console) as self._show:
            yield from self._pool(engine, quantise).compute(units)

    def _on_units(self, done: int, total: int) -> None:
        self._show(done, total)

    def _pool(self, engine: str, quantise: str | None) -> Actors | OneEngine:
        if (engine, quantise) not in self._actors:
            make, bench = self._maker(engine, quantise), self.bench
            gpus = engine_kind(engine).gpus(bench.cluster)
            self._actors[engine, quantise] = (
                Actors(make, count=bench.actors, gpus=gpus, look=bench.end_if_stopped)
                if on_ray()
                else OneEngine(make, bench.end_if_stopped)
            )
        return self._actors[engine, quantise]

    def _maker(self, engine: str, quantise: str | None) -> Callable[[], Engine]:
        bench = self.bench
        subject = Subject(self.model, bench.chat_template, self.tokenizer, self.longest, bench.cluster, quantise)
        return functools.partial(_Unchanged, engine_kind(engine).make(subject), self.model.folder, self._marks)

    def _journal(self, name: str) -> UnitJournal:
        if name not in self._journals:
            self._journals[name] = self._open.enter_context(UnitJournal(self.bench.layout.answers(self.role + name)))
        return self._journals[name]

    def __enter__(self) -> Candidates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.rest()
        finally:
            self._open.close()


class _Unchanged:
    """An engine of the model that was digested, and of no other.

    Its files are looked at after every batch: weights are read from them late, and again after a restart.
    """

    def __init__(self, make: Callable[[], Engine], folder: Path, marks: tuple[Any, ...]) -> None:
        self.engine, self.folder, self.marks = make(), folder, marks

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer as the engine does. Raises ModelError where the files changed."""
        answers = self.engine.answer(requests)
        if file_marks(self.folder) != self.marks:
            raise ModelError(
                "its files changed while it was evaluated",
                where=str(self.folder),
                fix="run again once nothing writes to this folder; what was answered before is kept",
                code="model.changed",
            )
        return answers
