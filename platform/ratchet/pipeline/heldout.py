"""What tasks know of a plan's held-out prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ratchet.evaluate.exact import Question
from ratchet.plan.suite import ExactMatch


@dataclasses.dataclass(frozen=True)
class Heldout:
    """A plan's held-out prompts: those of a task, and what they are known by."""

    questions: Callable[[ExactMatch], Sequence[Question]]
    identity: Callable[[ExactMatch], str]
