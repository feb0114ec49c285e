"""What tasks know of a plan's held-out prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ratchet.errors import PlanError
from ratchet.evaluate.exact import Question
from ratchet.plan.suite import ExactMatch


def of_a_plan(heldout: Heldout | None) -> Heldout:
    """Return the held-out prompts that a task asks for. Raises PlanError where there is no plan that has them."""
    if heldout is None:
        raise PlanError(
            "asks for a plan's held-out prompts, and there is no plan",
            where="a task of kind exact_match",
            fix="name the suite under `evaluate` of a plan",
        )
    return heldout


@dataclasses.dataclass(frozen=True)
class Heldout:
    """A plan's held-out prompts: those of a task, and what they are known by."""

    questions: Callable[[ExactMatch], Sequence[Question]]
    identity: Callable[[ExactMatch], str]
