"""Every kind of stage that a plan may ask for, and what is asked about a stage: the rows of `plan.stages` answer.

Nothing else looks at a stage's class or compares its kind with a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field
from typing_extensions import TypeIs

from ratchet.plan.plugins import Plugin, table_of
from ratchet.plan.stages import BUILT_IN, AddedLoss, Sft, Stage, StageKind
from ratchet.plan.training import PreferenceStage, ReferringStage, TrainingStage

_KINDS = table_of("ratchet.losses", "stage", BUILT_IN)
PLUGINS = _KINDS.added


def _added(plugin: Plugin) -> AddedLoss:
    added = plugin.load(AddedLoss)
    if not added.stage.reads_pairs:
        raise plugin.unusable(f"{added.stage.settings.__name__} extends neither PreferenceStage nor ReferringStage")
    # The union of a plan's stages goes by the settings, and the table by the entry point: they must agree.
    if added.stage.name != plugin.kind:
        raise plugin.unusable(f"the `kind` of {added.stage.settings.__name__} is {added.stage.name!r}")
    return added


ADDED_LOSSES: Mapping[str, AddedLoss] = _KINDS.rows(_added)
"""What other packages add, by the name of its kind."""

STAGE_KINDS: Mapping[str, StageKind] = {**BUILT_IN, **{kind: added.stage for kind, added in ADDED_LOSSES.items()}}
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
        raise _KINDS.unknown(kind)
    return STAGE_KINDS[kind]


def release_of(kind: str) -> str | None:
    """Return the package that adds a kind, with its version; None for a kind of Ratchet's own. Raises PlanError."""
    return _KINDS.release_of(kind)


def may_train(stage: Mapping[str, Any]) -> bool:
    """Whether a stage as a file writes it may train; also where its kind is unknown."""
    row = STAGE_KINDS.get(str(stage.get("kind")))
    # `explain` has said that the kind is unknown; what a training stage must have is still worth saying.
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
