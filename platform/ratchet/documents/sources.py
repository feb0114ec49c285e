"""What documents say of the sources of data: rows read, kept and left out, lengths, and what sources share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

LOW_EDIT_DISTANCE = 0.15
"""Median normalised edit distance below which plain DPO is known to lower the chosen answer too
(Smaug, section 3: about 0.065 on MetaMath pairs, where DPO fails)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceTokens:
    """A source as token ids under one length limit: rows kept and skipped by reason.

    `longest_seen` is the most tokens of any of its pairs, also of those that were left out because of it.
    """

    max_length: int
    longest_seen: int | None = None
    record: str = ""
    read: int | None = None
    train: int | None = None
    heldout: int | None = None
    kept: int
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tokens_train: int | None = None
    tokens_heldout: int | None = None
    trimmed: int = 0
    boundary_moved: int = 0


@dataclasses.dataclass(frozen=True)
class EditDistance:
    """Histogram of normalised token edit distance: `edges` has one more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """One source: read = kept + skipped, kept = train + heldout.

    `contradictions`, `dialogues`, `together` and `divided` are those of `pairs.assemble.Counts`.
    """

    name: str
    layout: str
    read: int
    kept: int
    train: int
    heldout: int
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    contradictions: int = 0
    dialogues: int = 0
    together: int = 0
    divided: int = 0
    record: str = ""
    tokens: tuple[SourceTokens, ...] = ()
    edit_distance: EditDistance | None = None


@dataclasses.dataclass(frozen=True)
class SourceOverlap:
    """Distinct pairs and prompts of `left`'s train part that stand in `right`'s train part (or held-out part) too.

    Prompts count as one where their first user turns have the same wording.
    """

    left: str
    right: str
    pairs: int
    prompts: int
    held_out: bool = False
