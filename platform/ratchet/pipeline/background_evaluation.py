"""Suites of a plan: each model as soon as it is there, beside the next stage's training where there is room."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

from ratchet.documents.scores import NAME, SuiteScores
from ratchet.errors import StoppedError
from ratchet.evaluate.bench import Bench
from ratchet.evaluate.suites import Scored, score_suite
from ratchet.evaluate.task_run import Heldout
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, Step, final_model
from ratchet.pipeline.heldout_scores import questions_identity, questions_of
from ratchet.pipeline.scores_document import Entry, say_score, suite_scores
from ratchet.pipeline.session import resources
from ratchet.plan.cluster import Cluster
from ratchet.plan.load import PlannedSuite, planned_suites
from ratchet.plan.references import start_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.suite import source_of
from ratchet.reference.models import Model
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.store.machine import has_ray


class Evaluations:
    """Evaluates models in the order they come. Results do not depend on when or beside what that is.

    Use it in a `with`: where the run fails, what is under way ends with its next batch, before Ray does.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.suites = planned_suites(run.plan)
        self.finals = final_models(run.plan)
        self.found: dict[str, list[Scored]] = {}
        self.heldout = Heldout(functools.partial(questions_of, run), functools.partial(questions_identity, run))
        self.actors = run.plan.cluster.score_actors
        self.beside = 0
        self._waiting: queue.Queue[Model | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def made(self, name: str) -> None:
        """Take a model that is there now: evaluate it in the background if the cluster has room, else at once."""
        if not self._some(name, at_end=False):
            return
        for one in self._some(name, at_end=False):
            self._prepare(one)
        # Asked each time, as a Ray is there with the first work; room beside one trial's training is another trial's.
        if self._thread is None and self.run.trial is None:
            self.beside = spare_actors(self.run.plan.cluster)
        if not self.beside:
            self._evaluate(self.run.models[name], self._some(name, at_end=False), self.actors)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ratchet-evaluate", daemon=True)
            self._thread.start()
        self._waiting.put(self.run.models[name])

    def finish(self, names: Sequence[str]) -> dict[str, list[Scored]]:
        """Evaluate what is left and return every model's results. Raises what went wrong in the background."""
        if self._thread is not None:
            # The queue keeps its order, so the thread has every model behind it when it comes to this.
            self._waiting.put(None)
            self._thread.join()
        self.beside = 0  # nothing is trained any more
        if self._failure is not None:
            raise self._failure
        for name in names:
            self._evaluate(self.run.models[name], self._some(name, at_end=True), self.actors)
        return {name: sorted(self.found.get(name, []), key=self._place) for name in names}

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Before the None: so the thread passes over the models that still wait.
        self._stop.set()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _some(self, name: str, *, at_end: bool) -> list[PlannedSuite]:
        return [one for one in self.suites if one.at_end == at_end and (not one.final or name in self.finals)]

    def _place(self, scored: Scored) -> int:
        return [one.name for one in self.suites].index(scored.suite)

    def _prepare(self, planned: PlannedSuite) -> None:
        """Make the tokens that the suite's prompts are read from, here: the background only reads them."""
        for task in planned.suite.tasks.values():
            if (source := source_of(task)) is not None:
                self.heldout.identity(source)

    def _work(self) -> None:
        while (model := self._waiting.get()) is not None:
            if self._failure is not None or self._stop.is_set():
                continue
            try:
                self._evaluate(model, self._some(model.name, at_end=False), self.beside)
            except BaseException as error:  # it is raised by `finish`: training goes on
                self._failure = error
                if not isinstance(error, StoppedError):
                    self.run.console.say(f"the evaluation of {model.name} failed: {error}")

    def _evaluate(self, model: Model, suites: Sequence[PlannedSuite], actors: int) -> None:
        run = self.run
        bench = Bench(run.layout, run.plan.cluster, run.console, run.chat_template, actors, self._ends)
        tell = functools.partial(say_score, run.console)
        for planned in suites:
            scored = score_suite(bench, model, planned.name, planned.suite, tell, self.heldout)
            self.found.setdefault(model.name, []).extend(scored)

    def _ends(self) -> bool:
        """Whether what is under way ends. A run that was asked to stop while it trains leaves its evaluation time."""
        return self._stop.is_set() or (not self.beside and self.run.stop.why() is not None)


def write_scores(
    run: Run,
    models: Sequence[tuple[str, Step | None]],
    scored: Mapping[str, Sequence[Scored]],
    suites: Sequence[PlannedSuite],
) -> SuiteScores | None:
    """Write `scores.json` into the run folder and return it; None for a plan without suites.

    A model is compared with the plan's first, and with the one that it was made from.
    """
    if not suites:
        return None
    names = [name for name, _ in models]
    entries = [
        Entry(
            name,
            run.models[name].weights,
            run.models[name].dtype,
            step.start if step is not None and step.start in names else None,
            tuple(scored[name]),
        )
        for name, step in models
    ]
    made = suite_scores(entries, {one.name: one.suite for one in suites}, run.folder, run.layout.root)
    write_json(run.folder / NAME, to_values(made))
    return made


def spare_actors(cluster: Cluster) -> int:
    """Return how many evaluation processes fit beside training, at most `score_actors`; none while there is no Ray."""
    if not has_ray():
        return 0
    have = resources()
    # An engine that is spread over several GPUs takes them all.
    gpus = cluster.gpus_per_worker and max(cluster.gpus_per_worker, cluster.tensor_parallel)
    rooms = [have.get("CPU", 0.0) - cluster.most_workers * cluster.cpus_per_worker - 1]  # one is Ray Train's own
    if gpus:
        rooms.append((have.get("GPU", 0.0) - cluster.most_workers * cluster.gpus_per_worker) / gpus)
    return max(0, min(cluster.score_actors, int(min(rooms))))


def final_models(plan: Plan) -> set[str]:
    """Return the start model and what each stage ends with, without those that other stages start from."""
    starts = {final_model(plan, start_of(plan, name)) for name, stage in plan.stages.items() if trains(stage)}
    return {BASE} | {final_model(plan, name) for name in plan.stages} - starts
