"""Which of the tried orders of sources `easy_to_hard` and `random` would have given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ratchet.documents.trial import TrialEnd
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.plan.stage_kinds import reads_pairs
from ratchet.plan.training import Steps
from ratchet.reference.models import covers_split
from ratchet.reference.partition import difficulty, log_ratio, order_chunks
from ratchet.reference.store import read_all
from ratchet.store.layout import Layout
from ratchet.store.record import sound_record

EASY, RANDOM = "easy to hard", "random"


def order_marks(space: Space, plan: Plan, trials: Sequence[TrialEnd], layout: Layout) -> dict[str, tuple[str, ...]]:
    """Return the marks of points by id. `plan` is the one that is swept, `trials` are those that have ended.

    Easy is what the stage's start model prefers the right way round, on all pairs of a source (sDPO, section 3.2), as
    `steps.order` has it. Its scores were made where it was the reference of the first step. No order is marked as easy
    whose start model never had some source first, or whose stage has `steps.base`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for key, one in space.keys.items():
        stage = plan.stages.get(key.split(".")[1]) if one.row.orders else None
        if stage is None or not reads_pairs(stage) or stage.steps is None:
            continue
        listed = list(stage.shares())
        accuracies = _accuracies(trials, f"{key.split('.')[1]}.1", stage.steps, layout)
        for trial in trials:
            order, start = trial.point[key], _start(trial, f"{key.split('.')[1]}.1")
            known = accuracies.get(start, {})
            marks = [RANDOM] if order == order_chunks("random", listed, {}, stage.seed) else []
            if set(known) == set(listed) and order == order_chunks("easy_to_hard", listed, known, stage.seed):
                marks.insert(0, EASY)
            found[trial.point_id] += [mark for mark in marks if mark not in found[trial.point_id]]
    return {point: tuple(marks) for point, marks in found.items() if marks}


def _start(trial: TrialEnd, first: str) -> str | None:
    """The model that a stage's first step starts from; None is the plan's start model, and where there is no step."""
    return next((step.start for step in trial.steps if step.name == first), None)


def _accuracies(
    trials: Sequence[TrialEnd], first: str, steps: Steps, layout: Layout
) -> dict[str | None, dict[str, float]]:
    """Return how much of each source each start model prefers rightly, from the passes of first steps."""
    found: dict[str | None, dict[str, float]] = defaultdict(dict)
    for trial in trials:
        for step in trial.steps:
            if step.name != first or step.chunk in found[step.start] or steps.base is not None:
                continue
            for scored in step.references:
                record = sound_record(folder := layout.logps(scored))
                # Scores of a sample or of one part do not say how hard the source is.
                if record is not None and covers_split(record.identity, "train"):
                    ratios = log_ratio(read_all(folder), length_normalised=steps.length_normalised)
                    found[step.start][step.chunk] = difficulty(step.chunk, ratios).accuracy
    return found
