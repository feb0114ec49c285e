"""A sweep as it is asked for: a plan, a space that fits it, and what each trial of it is. No torch, no Ray."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import SweepOutcome
from ratchet.errors import PlanError
from ratchet.pipeline.answered import Question, keep_answer, plan_question
from ratchet.pipeline.paths import path_problems
from ratchet.plan.document import Document, Problem, fail
from ratchet.plan.load import plan_of, read_plan, read_space, space_of
from ratchet.plan.naming import NAMING
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.store.layout import layout_at, root_of
from ratchet.store.record import NAME as RECORD
from ratchet.tune.check import check_space
from ratchet.tune.choose import Chosen
from ratchet.tune.metrics import metric_names
from ratchet.tune.trial import TrialTask, passing, written_trials
from ratchet.tune.trial_plan import base_document, trial_document
from ratchet.tune.yaml_text import in_yaml_block

_WHERE = {"cluster", "track", "name"}
TRIALS = "trials"
_DOCUMENTS = ("*.json", "*.yaml", "sweep.*", f"{TRIALS}/*/*.json")
"""What a sweep writes into its folder, and its trials into theirs."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A plan and a space that is known to fit it, as documents and as values, and their texts as written.

    `plan` has what the space sets and leaves out for all trials, `document` has not.
    """

    plan: Plan
    document: Document
    plan_text: str
    space: Space
    written: Document
    space_text: str

    @property
    def name(self) -> str:
        """Names the sweep's folder, and its group in wandb."""
        return f"{self.plan.name}-{self.space.name}"

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return layout_at(self.plan.cluster.storage).sweep(self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What its trials depend on. What is wanted, how it is searched and for how long may change between calls."""
        plan = {key: value for key, value in self.document.data.items() if key not in _WHERE}
        space = self.space.model_dump(mode="json", include={"keys", "set", "unset"})
        return {"plan": plan, "space": space}

    def task(self, chosen: Chosen) -> TrialTask:
        """Return what the process of a chosen trial gets. Raises PlanError where the plan does not allow its values."""
        trial = chosen.trial
        made = trial_document(self.document, self.space, trial.values, trial.seed, self.written)
        made = dataclasses.replace(made, data={**made.data, "name": trial.trial_id})
        return self._task(chosen, plan_of(made), in_yaml_block(made.data))

    def impossible(self, chosen: Chosen) -> TrialTask:
        """Return the task of a trial whose values the plan does not allow: it has a folder, and is not to be run."""
        return self._task(chosen, self.plan.model_copy(update={"name": chosen.trial.trial_id}), "")

    def _task(self, chosen: Chosen, plan: Plan, text: str) -> TrialTask:
        trial = chosen.trial
        # Absolute: a trial's process starts in a folder of Ray's.
        storage = str(root_of(plan.cluster.storage))
        return TrialTask(
            sweep=self.name,
            name=trial.trial_id,
            number=chosen.number,
            point=trial.values,
            point_id=trial.point_id,
            seed=trial.seed,
            by=chosen.by,
            plan=plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"storage": storage})}),
            text=text,
            home=str(Path.cwd()),
            objectives=tuple(self.space.objectives),
            scheduled=self.space.scheduler.metric if self.space.scheduler else None,
        )


def open_sweep(plan_path: Path, space_path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a plan, with `dotted.key=value` overrides, and a space, and hold them against each other.

    Raises PlanError, whose `what` has one line for each problem.
    """
    document = read_plan(plan_path, overrides)
    plan = plan_of(document, path_problems)
    written = read_space(space_path)
    space = space_of(written)
    check_space(document, written, space, metric_names)
    fail(_path_problems(document, written, space))
    with contextlib.suppress(PlanError):  # by itself it may lack what every trial has
        plan = plan_of(base_document(document, space, written))
    # `report.sweep.words` reads these lines back, for the command that repeats the sweep.
    head = "".join(f"# --set {one}\n" for one in overrides)
    return Sweep(
        plan,
        document,
        head + plan_path.read_text(encoding="utf-8"),
        space,
        written,
        space_path.read_text(encoding="utf-8"),
    )


def sweep_question(sweep: Sweep) -> Question | None:
    """Return what a sweep is asked; None where its trials read other files than its plan."""
    naming = {key for some in NAMING.values() for key in some}
    if any(key.rpartition(".")[2] in naming for key in sweep.space.keys):
        return None
    # The texts have what was set on the command line, how the space is searched, and for how long.
    return plan_question("sweep", sweep.plan, f"{sweep.plan_text}\n---\n{sweep.space_text}", here=False)


def keep_answer_of_sweep(sweep: Sweep, asked: Question | None, page: Path, outcome: SweepOutcome) -> None:
    """Keep the page as the answer to a question, with what trials made, where no input was written to meanwhile.

    No answer is kept of a sweep that came to nothing: each call says so again. Nor is one kept where the machine made a
    trial fail: the next call repeats that trial. Raises CorruptError, StorageError.
    """
    if asked is None or asked != sweep_question(sweep) or any(one.grave for one in outcome.diagnoses):
        return
    if any(one.end is None or passing(one.end) for one in written_trials(sweep.folder / TRIALS)):
        return
    steps = [record.parent for record in sorted(sweep.folder.glob(f"{TRIALS}/*/steps/*/{RECORD}"))]
    documents = [path for pattern in _DOCUMENTS for path in sorted(sweep.folder.glob(pattern))]
    keep_answer(layout_at(sweep.plan.cluster.storage), asked, {"report": str(page)}, steps, documents)


def _path_problems(document: Document, written: Document, space: Space) -> Iterator[Problem]:
    """Yield what is wrong with the paths that a space puts into its trials' plans."""
    yield from path_problems(base_document(document, space, written), Plan)
    keys = {key for some in NAMING.values() for key in some}
    for key, one in space.keys.items():
        if key.rpartition(".")[2] in keys:
            for value in one.row.tried(one.given):
                yield from path_problems(trial_document(document, space, {key: value}, None, written), Plan)
