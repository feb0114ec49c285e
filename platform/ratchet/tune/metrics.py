"""Metrics of a finished trial: which there are, and where its run folder keeps them.

A metric's name is `<stage>/<group>/<rest>`: `align/heldout/accuracy/slips`, `align/score/gsm8k`,
`align/train/heldout/loss`. All are of the stage's last model. Naming them takes neither torch nor Ray.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ratchet.documents.heldout import Estimate, HeldOutRow, ModelScores
from ratchet.documents.scores import NAME, Average, Score, SuiteScores
from ratchet.errors import CorruptError
from ratchet.pipeline.graph import final_model, preference_sources, steps_of
from ratchet.plan.load import PlannedSuite, planned_suites
from ratchet.plan.references import stage_order, start_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs, reads_reference, stage_kind, supervised, trains
from ratchet.plan.training import TrainingStage
from ratchet.reference.share import error_of, exact_interval
from ratchet.store.codec import from_values
from ratchet.store.layout import Layout
from ratchet.store.record import read_json_or_none
from ratchet.track.jsonl import read_metrics

T = TypeVar("T")
Found = tuple[float | None, float | None]
"""A value and its standard error, each None where it is unknown."""

NOTHING: Found = (None, None)
HELD_OUT = ("accuracy", "margin", "chosen_delta", "rejected_delta", "chosen_per_token")
"""What held-out pairs say of a model against another one."""
EVERY_STEP = ("epoch", "loss", "tokens_computed", "grad_norm", "learning_rate", "pairs_per_second", "tokens_per_second")
PREFERENCE = (
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected"),
)
REFERRING = ("logps/chosen_delta", "logps/rejected_delta")
"""Keys of metrics.jsonl. The check of the first step (`first/…`) is none: it says nothing of where a stage ends."""


def metric_names(plan: Plan) -> list[str]:
    """Return every metric that a run of the plan can report, stage by stage.

    Raises PlanError where a suite of the plan cannot be read.
    """
    scores = _scores(planned_suites(plan))
    found = []
    for name in stage_order(plan):
        stage = plan.stages[name]
        found += [f"{name}/heldout/{rest}" for rest in _heldout_names(plan, name)]
        found += [f"{name}/score/{rest}" for rest, one in scores.items() if _goes_through(plan, name, one.suite)]
        if trains(stage):
            found += [f"{name}/train/{key}" for key in training_keys(plan, stage)]
    return found


def training_keys(plan: Plan, stage: TrainingStage) -> list[str]:
    """Return the keys that the last line of a stage's metrics.jsonl has."""
    keys = [*EVERY_STEP]
    keys += PREFERENCE if reads_pairs(stage) else ()
    keys += stage_kind(stage.kind).metrics
    keys += REFERRING if reads_reference(stage) else ()
    if any(plan.data[source].held_out for source in stage.shares()):
        keys += ["heldout/loss", "heldout/accuracy"] if reads_pairs(stage) else ["heldout/loss"]
    return keys


def read_metrics_of(folder: Path, plan: Plan, names: Iterable[str]) -> dict[str, Found]:
    """Return metrics of a finished run of `plan` in its run folder, each with its standard error.

    A metric that is not there, or whose value is null, is (None, None). Scores stay in their own unit (shares,
    points, percent). The last value of a training key has no error. Raises CorruptError for a file that is broken.
    """
    files = RunFiles(folder, plan)
    found = {}
    for name in names:
        stage, _, inner = name.partition("/")
        group, _, rest = inner.partition("/")
        read = files.groups.get(group) if stage in plan.stages else None
        found[name] = read(stage, rest) if read else NOTHING
    return found


def ends_of(folder: Path, plan: Plan, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the exact 95 % intervals of the metrics of a finished run that are shares of pairs or of items.

    Of a task's score that is where all items agree: elsewhere its error says more, as items may come in clusters.
    """
    files = RunFiles(folder, plan)
    found = {}
    for name in names:
        stage, _, inner = name.partition("/")
        group, _, rest = inner.partition("/")
        count = files.counted(stage, group, rest) if stage in plan.stages else None
        if count is not None and count[1]:
            found[name] = exact_interval(*count)
    return found


def pooled_over_sources(parts: Sequence[tuple[float, float | None, int]]) -> Found:
    """Return the mean over all items of several sources, from each one's (mean, standard error, count).

    Σ n m / N with the error √(Σ (n/N)² se²): each source is a stratum of its own size (Cochran 1977, eq. 5.3 and 5.6).
    So how far sources lie apart adds nothing. No error where one has none.
    """
    items = sum(count for _, _, count in parts)
    if not items:
        return NOTHING
    mean = sum(value * count for value, _, count in parts) / items
    errors = [(error, count / items) for _, error, count in parts if count]
    if any(error is None for error, _ in errors):
        return mean, None
    return mean, math.sqrt(sum((error * share) ** 2 for error, share in errors if error is not None))


@dataclasses.dataclass(frozen=True)
class _Score:
    """A task or an average of a suite, as scores.json calls it."""

    suite: PlannedSuite
    name: str
    average: bool


def _heldout_names(plan: Plan, name: str) -> list[str]:
    if supervised(plan.stages[name]):
        return []
    sources = [source for source in preference_sources(plan) if plan.data[source].held_out]
    wholes = list(HELD_OUT) if sources else []
    return wholes + [f"{key}/{source}" for key in HELD_OUT for source in sources]


def _scores(suites: Sequence[PlannedSuite]) -> dict[str, _Score]:
    """Return tasks and averages by the last part of their metric's name: alone, or behind their suite's.

    A suite's name is its file's stem, or its whole path where two files have that. Where an average has the
    name of a task beside it, the name is the task's.
    """
    stems = Counter(PurePosixPath(one.name).stem for one in suites)
    found: dict[tuple[str, str], _Score] = {}
    for one in suites:
        known = [(task, False) for task in one.suite.tasks] + [(key, True) for key in one.suite.averages]
        for name, average in known:
            found.setdefault((one.name, name), _Score(one, name, average))
    times = Counter(name for _, name in found)
    named = {}
    for (suite, name), score in found.items():
        stem = PurePosixPath(suite).stem
        before = stem if stems[stem] == 1 else suite
        named[name if times[name] == 1 else f"{before}.{name}"] = score
    return named


def _goes_through(plan: Plan, name: str, suite: PlannedSuite) -> bool:
    """Whether a stage's last model is put through a suite: one for final models leaves out what others start from."""
    trained = [other for other, stage in plan.stages.items() if trains(stage)]
    return not suite.final or all(start_of(plan, other) != name for other in trained)


def _opponent(plan: Plan, name: str) -> str | None:
    """The model that a stage's last model is held against: where the stage starts."""
    stage = plan.stages[name]
    if not trains(stage):
        return steps_of(plan, name, ())[0].start
    return final_model(plan, start_of(plan, name)) if reads_pairs(stage) else None


class RunFiles:
    """A run folder whose files are read once, when the first metric asks for them."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.groups: Mapping[str, Callable[[str, str], Found]] = {
            "heldout": self.heldout,
            "score": self.score,
            "train": self.train,
        }
        # Of the run folders alone, from where they are: those of plans and of trials lie at different depths.
        self._layout = Layout(folder.parent.parent, folder.parent.name)
        self._read: dict[Path, Any] = {}
        self._scores: dict[str, _Score] | None = None

    def opposed(self, stage: str) -> dict[str, HeldOutRow]:
        """Return the held-out rows of a stage's last model against where the stage starts, by source."""
        path = self._layout.scores(self.folder.name, final_model(self.plan, stage))
        document, opponent = self._document(ModelScores, path), _opponent(self.plan, stage)
        if document is None or opponent is None:
            return {}
        # An outside reference may have a stage's name; the stage's start comes after it.
        return {row.source: row for row in document.heldout if row.against == opponent}

    def heldout(self, stage: str, rest: str) -> Found:
        """Return a held-out figure of one source, or of all of them together."""
        key, _, source = rest.partition("/")
        if key not in HELD_OUT:
            return NOTHING
        rows: list[Estimate] = [
            found
            for of, row in self.opposed(stage).items()
            if (not source or of == source) and (found := getattr(row, key)) is not None
        ]
        parts = [(one.mean, one.standard_error, one.count) for one in rows]
        mean, error = pooled_over_sources(parts)
        if error is None and key == "accuracy" and mean is not None:  # one source's pairs may all agree
            error = error_of(mean, sum(count for _, _, count in parts))
        return _finite(mean, error)

    def counted(self, stage: str, group: str, rest: str) -> tuple[int, int] | None:
        """Return a share as how many of how many; None for a metric that is none."""
        key, _, source = rest.partition("/")
        if group == "heldout" and key == "accuracy":
            rows = [row.accuracy for of, row in self.opposed(stage).items() if not source or of == source]
            return sum(round(one.mean * one.count) for one in rows), sum(one.count for one in rows)
        score = self._score(stage, rest) if group == "score" else None
        if not isinstance(score, Score) or score.unit != "share" or score.standard_error != 0:
            return None
        return (round(score.value * score.count), score.count) if score.value is not None and score.count else None

    def score(self, stage: str, rest: str) -> Found:
        """Return what stands for a task, or an average; items of a share that all agree tell no error."""
        score = self._score(stage, rest)
        if score is None:
            return NOTHING
        unanimous = self.counted(stage, "score", rest) is not None
        return _finite(score.value, None if unanimous else score.standard_error)

    def _score(self, stage: str, rest: str) -> Score | Average | None:
        """Return a task's headline score, or an average, as scores.json has it."""
        if self._scores is None:
            self._scores = _scores(planned_suites(self.plan))
        path, asked = self.folder / NAME, self._scores.get(rest)
        document = self._document(SuiteScores, path)
        if document is None or asked is None:
            return None
        model = final_model(self.plan, stage)
        if asked.average:
            return document.average(model, asked.suite.name, asked.name)
        result = document.of(asked.suite.name, asked.name).get(model)
        return result.headline if result else None

    def train(self, stage: str, rest: str) -> Found:
        """Return the last value of a key of the stage's last step."""
        from ratchet.pipeline.step_folder import unchanged  # which loads torch

        path = self._layout.step(self.folder.name, final_model(self.plan, stage)) / "metrics.jsonl"
        if path not in self._read:
            self._read[path] = read_metrics(path) if unchanged(path) else []
        lines = self._read[path]
        return _finite(lines[-1].get(rest), None) if lines else NOTHING

    def _document(self, kind: type[T], path: Path) -> T | None:
        if path not in self._read:
            values = read_json_or_none(path)
            fix = "delete the file; it will be made again"
            self._read[path] = (
                None if values is None else from_values(kind, values, where=str(path), fix=fix, error=CorruptError)
            )
        found: T | None = self._read[path]
        return found


def _finite(value: float | None, error: float | None) -> Found:
    if value is None or not math.isfinite(value):
        return NOTHING
    return float(value), float(error) if error is not None and math.isfinite(error) else None
