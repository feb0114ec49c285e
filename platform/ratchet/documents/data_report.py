"""What `ratchet data` finds out of a plan's data, or of files, before anything is trained: `--json` writes it.

Shares are from 0 to 1. Lengths are in `unit` of their source: tokens, or characters where no tokenizer is at hand.
`file:row` is where a row stands, as `skipped.parquet` names it; rows count from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from ratchet.documents.sources import EditDistance, SourceOverlap
from ratchet.documents.token_use import TokenUse

Gravity = Literal["stops", "warns", "notes"]
"""`stops`: a run would end there. `warns`: a person should decide before money is spent. `notes`: worth knowing."""
GRAVITIES: tuple[Gravity, ...] = ("stops", "warns", "notes")
"""The worst first."""
Unit = Literal["tokens", "characters"]
TokenKind = Literal["template", "text", "thoughts", "prefix"]
"""What a shown token is of: the chat template, a turn's text, an answer's thoughts, or an answer's given prefix."""


@dataclasses.dataclass(frozen=True)
class DataPlace:
    """A row by which a person can see what is meant; `text` is short."""

    file: str
    row: int
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataAnalysis:
    """One thing that was looked for in a source, and what came of it.

    `code` is stable, such as `near-twins`. `count` of `of` `counted` (pairs, prompts, items) show it. `says` and `do`
    are sentences without their full stop; `do` is empty where nothing is to be done. `figures` are further numbers by
    name, `distances` a histogram where there is one.
    """

    code: str
    gravity: Gravity
    count: int
    of: int
    counted: str
    says: str
    do: str = ""
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    distances: EditDistance | None = None
    places: tuple[DataPlace, ...] = ()


DRAWN = frozenset({"twins-in-characters"})
"""Codes of analyses that say no more than their histogram."""
_ALWAYS = frozenset({"near-twins", "length-bias", "prompts", "languages"})
"""Codes of analyses that say something of any data."""


def told(analyses: Sequence[DataAnalysis]) -> tuple[list[DataAnalysis], list[str]]:
    """Return the analyses that say something and are no verdict, and the codes of what was not found."""
    notes = [one for one in analyses if one.of and one.gravity == "notes" and one.code not in DRAWN]
    found = [one for one in notes if one.count or one.code in _ALWAYS]
    return found, [one.code for one in notes if one not in found]


@dataclasses.dataclass(frozen=True)
class DataVerdict:
    """A line of the head of the report; `source` is empty where it is of the plan as a whole."""

    gravity: Gravity
    code: str
    source: str
    says: str
    do: str = ""
    places: tuple[DataPlace, ...] = ()


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """Lengths of a part of the pairs: the least, quantiles, and the most."""

    least: int
    p50: int
    p90: int
    p95: int
    p99: int
    most: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthLimit:
    """What the `max_length` of some stages costs a source: pairs lost and trimmed, and the share that may be lost."""

    stages: tuple[str, ...]
    max_length: int
    overlong: Literal["drop", "trim_prompt"]
    lost: int
    trimmed: int
    of: int
    allowed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceLengths:
    """Lengths of the pairs that can be written: prompt, chosen, rejected (absent for demonstrations) and total.

    The total of a pair is its prompt and its longer answer, which is what `max_length` counts. `to_lose` has, for the
    shares 0, 1 % and 5 % of pairs to lose, the `max_length` that it takes. `counts` is a histogram of totals over
    `edges`, which has one more.
    """

    parts: Mapping[str, Quantiles]
    limits: tuple[LengthLimit, ...] = ()
    to_lose: Mapping[str, int] = dataclasses.field(default_factory=dict)
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


def room_in_words(lengths: SourceLengths, unit: Unit) -> str:
    """Return which lengths hold every pair, and all but a few."""
    room = [f"{length:,}{f' all but {said}' if '%' in said else ''}" for said, length in lengths.to_lose.items()]
    return f"{room[0]} {unit} hold every pair, {', '.join(room[1:])} (prompt and longer answer)"


@dataclasses.dataclass(frozen=True)
class ShownToken:
    """A token as text, or a whole text where there is no tokenizer; `scored`: the loss counts it."""

    text: str
    kind: TokenKind
    scored: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownPart:
    """A prompt or answer, token by token; `left_out` tokens between `head` and `tail` are not shown."""

    name: str
    head: tuple[ShownToken, ...]
    left_out: int = 0
    tail: tuple[ShownToken, ...] = ()
    length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair as it is trained. `refused` says why it cannot be; `texts_alone`: its texts by turn, not its tokens."""

    place: DataPlace
    parts: tuple[ShownPart, ...]
    texts_alone: bool
    refused: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceData:
    """One source: read = kept + skipped, kept = train + heldout, as a run counts them.

    `read_columns` are what its layout takes, `unread_columns` what stands in the rows beside them. `refused` counts
    pairs that the chat template or tokenizer cannot write, by reason. `problem` says why nothing was read.
    """

    name: str
    where: str
    layout: str = ""
    demonstrations: bool = False
    read_columns: tuple[str, ...] = ()
    unread_columns: tuple[str, ...] = ()
    read: int = 0
    kept: int = 0
    train: int = 0
    heldout: int = 0
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    first_skipped: tuple[DataPlace, ...] = ()
    whole: bool = True
    unit: Unit = "characters"
    lengths: SourceLengths | None = None
    refused: Mapping[str, int] = dataclasses.field(default_factory=dict)
    first_refused: tuple[DataPlace, ...] = ()
    shown: tuple[ShownPair, ...] = ()
    analyses: tuple[DataAnalysis, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataReport:
    """All of it. `tokenizer` says how texts became tokens, or why they did not; `created` is UTC, ISO 8601.

    `overlaps` are sources that share pairs or prompts, harmless or not; those that do harm are verdicts, too.
    """

    title: str
    ratchet: str
    created: str
    tokenizer: str
    verdicts: tuple[DataVerdict, ...]
    sources: tuple[SourceData, ...]
    overlaps: tuple[SourceOverlap, ...] = ()
    token_use: tuple[TokenUse, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether a run would end for its data."""
        return any(one.gravity == "stops" for one in self.verdicts)

    @property
    def outcome(self) -> str:
        """What a run would make of the data, in a line without its full stop."""
        stops, warns = (sum(one.gravity == gravity for one in self.verdicts) for gravity in ("stops", "warns"))
        said = "nothing here would stop a run"
        if stops:
            said = f"a run would stop, for {stops} reason{'s' * (stops > 1)}"
        return f"{said}; {warns} thing{'s' * (warns > 1)} to decide on" if warns else said
