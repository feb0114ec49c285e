"""Every kind of stage that a plan may ask for, and what is asked about a stage: the rows of `plan.stages` answer.

Nothing else looks at a stage's class or compares its kind with a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field
from typing_extensions import TypeIs

from ratchet.errors import PlanError
from ratchet.plan.stages import BUILT_IN, Sft, Stage, StageKind
from ratchet.plan.training import PreferenceStage, ReferringStage, TrainingStage

STAGE_KINDS: Mapping[str, StageKind] = BUILT_IN
"""The rows by the name of their kind."""

if TYPE_CHECKING:
    PlannedStage = Stage
else:
    PlannedStage = Annotated[
        Union[tuple(row.settings for row in STAGE_KINDS.values())],  # noqa: UP007  made at run time
        Field(discriminator="kind"),
    ]
    """A stage as a plan writes it: its `kind` says which keys it has."""


def stage_kind(kind: str) -> StageKind:
    """Return the row of a kind. Raises PlanError on an unknown one."""
    if kind not in STAGE_KINDS:
        raise PlanError(f"no stage is of kind {kind!r}", fix=f"use one of {', '.join(STAGE_KINDS)}")
    return STAGE_KINDS[kind]


def may_train(stage: Mapping[str, Any]) -> bool:
    """Whether a stage as a file writes it may train; also where its kind is not one, which `explain` has said."""
    row = STAGE_KINDS.get(str(stage.get("kind")))
    return row is None or row.trains


def trains(stage: Stage) -> TypeIs[TrainingStage]:
    """Whether a stage trains its model; one that does not is a merge."""
    return stage_kind(stage.kind).trains


def supervised(stage: Stage) -> TypeIs[Sft]:
    """Whether a stage trains on chosen answers alone."""
    return stage_kind(stage.kind).supervised


def reads_pairs(stage: Stage) -> TypeIs[PreferenceStage]:
    """Whether a stage trains on preference pairs."""
    return stage_kind(stage.kind).reads_pairs


def reads_reference(stage: Stage) -> TypeIs[ReferringStage]:
    """Whether a stage trains against a reference model."""
    return stage_kind(stage.kind).reads_reference
