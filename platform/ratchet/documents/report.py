"""What a report is made of: `report.json`, as frozen dataclasses.

Log-probabilities are in nats, times in seconds, accuracies from 0 to 1; a number that does not
exist is None. `record` is the path, relative to the storage root, of the file or folder that holds a
row's numbers. Fields stand in the order of the keys in the file; a field with a default may be absent there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.heldout import Gamma, ModelEvaluation, SampledPrompt
from ratchet.documents.passport import Passport, Reach
from ratchet.documents.scores import SuiteScores
from ratchet.documents.sources import LOW_EDIT_DISTANCE, SourceOverlap, SourceSummary
from ratchet.documents.token_use import TokenUse
from ratchet.plan.stage_kinds import stage_kind
from ratchet.plan.stages import StageKind
from ratchet.store.codec import from_values, read_document

NAME = "report.json"
ABSENT = "give such a folder: <storage>/runs/<plan> or <storage>/sweeps/<sweep>"
"""What to do where a folder has neither document."""
_KEYS = "documents.report says what each key holds"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The machine of the run. `memory_gb` is in GiB; `gpus` are names, one a device."""

    cpu: str
    cores: int
    memory_gb: float
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkDifficulty:
    """Reward accuracy of a chunk under the stage's start model; `position` is its turn, from 1.

    `accuracy_low` and `accuracy_high` are the ends of its exact 95 % interval.
    """

    stage: str
    source: str
    accuracy: float | None
    standard_error: float | None
    pairs: int
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    position: int | None = None
    record: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """What publishing kept of a step: mean margin and chosen log-probability as trained and as published, in nats.

    `kept` is a share of the margin, None where there is too little to tell; `lost`: less than it should, beyond chance.
    """

    of: str
    pairs: int
    margin_trained: float | None = None
    margin_published: float | None = None
    chosen_trained: float | None = None
    chosen_published: float | None = None
    kept: float | None
    lost: bool = False  # reports of before this was measured say nothing of it


@dataclasses.dataclass(frozen=True)
class SideAgreement:
    """How far another engine's scores of one side are from the trainer's, in nats: mean, deviation, worst pair."""

    bias: float
    deviation: float
    worst: float
    worst_pair: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison of another engine with the trainer showed: see `reference.calibrate.Calibration`."""

    pairs: int
    chosen: SideAgreement
    rejected: SideAgreement
    shift: float
    bound: float
    worst_shift: float | None = None  # absent from records of a version that looked at the mean alone
    worst_bound: float | None = None
    first_loss: float | None
    passed: bool
    noise: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSummary:
    """One training or merging step. `stage` is the plan's stage that it belongs to; its model lies in `folder`.

    `history` are the lines of its metrics.jsonl. `options` are the settings that decide its numbers (beta, penalty,
    learning_rate, batch …; a merge has `of` and `weights`). `chunk` are the sources of its pairs, `start` and
    `reference` names of models (`base` or a step). `seconds` is the whole step, with the reference pass where the step
    made it itself (`reference_reused` is false); `rehearsal_seconds` trying it before, `train_seconds` its optimiser
    steps, `start_seconds` what processes took to begin and end, and groups of workers that ended before;
    `reference_seconds` what scoring the reference took when it was done, `reference_start_seconds` its processes, None
    where none was needed; `reference_in_training`: the workers that trained the reference scored, in no step's time;
    `reference_agreement` is what a comparison of another engine with the trainer's showed (`reference.calibrate`),
    where one was; `effect` what publishing kept. Rates are of training. A merge has None for what only training has.
    """

    name: str
    stage: str
    kind: str
    chunk: tuple[str, ...] = ()
    start: str | None = None
    reference: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    record: str = ""
    folder: str = ""
    trust_remote_code: bool = False
    history: tuple[Mapping[str, Any], ...] = ()
    pairs: int | None = None
    epochs: float | None = None
    steps: int | None = None
    workers: int | None = None
    rehearsal_seconds: float | None = None
    train_seconds: float | None = None
    start_seconds: float | None = None
    pairs_per_second: float | None = None
    tokens_per_second: float | None = None
    peak_memory_mb: float | None = None
    first_loss: float | None = None
    first_loss_expected: float | None = None
    first_loss_tolerance: float | None = None
    effect: Effect | None = None
    reach: Reach | None = None
    resumed_from: int | None = None
    reference_seconds: float | None = None
    reference_start_seconds: float | None = None
    reference_pairs: int | None = None
    reference_reused: bool | None = None
    reference_in_training: bool = False
    reference_engine: str | None = None
    reference_agreement: Agreement | None = None

    @property
    def does(self) -> StageKind:
        """What a stage of its kind does."""
        return stage_kind(self.kind)

    def series(self, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of one metric, without the lines that lack it."""
        return [
            (line["step"], float(value))
            for line in self.history
            if isinstance(value := line.get(key), int | float) and math.isfinite(value)
        ]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What the figures say of a run, by its name in `diagnoses.RULES`: of which part, in words, and what to do next.

    A `grave` one says that a model, or what is concluded from it, is not to be used.
    """

    name: str
    of: str
    grave: bool
    says: str
    do: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All of report.json. `seconds` is the whole run; `resolved` and `plan_text` are the plan.

    `scores` is what models scored on suites: the whole of scores.json. A report of an evaluation
    alone has nothing else: no steps, no sources.
    """

    plan: str
    title: str = ""
    created: str
    ratchet: str
    commit: str
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan_text: str = ""
    hardware: Hardware | None = None
    base: Passport | None = None
    seconds: float
    sources: tuple[SourceSummary, ...] = ()
    token_use: tuple[TokenUse, ...] = ()
    overlap: tuple[SourceOverlap, ...] = ()
    difficulty: tuple[ChunkDifficulty, ...] = ()
    steps: tuple[StepSummary, ...] = ()
    evaluation: tuple[ModelEvaluation, ...] = ()
    gamma: tuple[Gamma, ...] = ()
    warnings: tuple[str, ...] = ()
    scores: SuiteScores | None = None
    samples: tuple[SampledPrompt, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def stages(self) -> list[str]:
        """Stage names in the order of their first step."""
        return list(dict.fromkeys(step.stage for step in self.steps))

    def steps_of(self, stage: str) -> list[StepSummary]:
        return [step for step in self.steps if step.stage == stage]

    def last_step(self, name: str) -> str:
        """Return the step that a step or stage name ends with; any other name as it is."""
        names = [step.name for step in self.steps if step.stage == name]
        return names[-1] if names else name

    @property
    def final_models(self) -> list[str]:
        """What each stage ended with, without the models that other steps start from."""
        starts = {step.start for step in self.steps if step.does.trains}
        return [name for stage in self.stages if (name := self.last_step(stage)) not in starts]

    @property
    def low_distance(self) -> list[tuple[StepSummary, SourceSummary]]:
        """Plain dpo steps and the low-distance sources that they train on."""
        sources = {source.name: source for source in self.sources}
        found = []
        for step in self.steps:
            for name in step.chunk if step.does.warns_of_near_twins else ():
                distance = sources[name].edit_distance if name in sources else None
                if distance and distance.median is not None and distance.median < LOW_EDIT_DISTANCE:
                    found.append((step, sources[name]))
        return found


def load_report(path: Path) -> Report:
    """Read a report.json. Raises DataError where it is absent, not JSON, or not a report."""
    return read_document(Report, path, absent=ABSENT, fix=_KEYS)


def read_report(values: Any, *, where: str = NAME) -> Report:
    """Return JSON values as a Report. Raises DataError naming the dotted key that is wrong."""
    return from_values(Report, values, where=where, fix=_KEYS)
