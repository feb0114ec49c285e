"""What two sources share, as it harms a plan's stages: in a run's warnings, and in `ratchet data` before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ratchet.documents.sources import SourceOverlap
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs


def harm_of(plan: Plan, overlaps: Iterable[SourceOverlap]) -> Iterator[tuple[SourceOverlap, str]]:
    """Yield, with what is wrong, each two sources that one stage reads, or of which one holds out what the other has.

    Other overlaps are harmless: one stage after another may well see the same prompts.
    """
    stages = [set(stage.shares()) for stage in plan.stages.values() if reads_pairs(stage)]
    for one in overlaps:
        shared = f"{one.pairs:,} pairs and {one.prompts:,} prompts"
        if one.held_out:
            yield one, f"{one.left} trains on {shared} that {one.right} holds out: its held-out figures flatter"
        elif any({one.left, one.right} <= names for names in stages):
            yield one, f"{one.left} and {one.right} share {shared}: gains on one may be memory of the other"
