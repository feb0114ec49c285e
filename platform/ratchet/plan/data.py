"""Where preference data comes from, and what is done to its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from ratchet.errors import PlanError
from ratchet.plan.base import Seed, Strict, hub_name, one_of, url_or_local, wrong
from ratchet.plan.columns import Columns, paths_of
from ratchet.plan.conditions import parse_condition
from ratchet.plan.plugins import table_of
from ratchet.plan.signatures.signature import NO_ROWS, not_taken, reader_of
from ratchet.plan.signatures.table import SIGNATURES

LAYOUTS = ("pair", "implicit_prompt", "alpaca", "sharegpt", "scored", "reply", "instruction", "choices", "annotated")
"""The layouts of rows that come with Ratchet; `pairs.layouts` says which keys each looks for."""
BUILDERS = ("arithmetic_corruption", "multiple_choice")
"""The builders of pairs that come with Ratchet; `pairs.build` has them."""
_SIGNATURES = tuple(one.name for one in SIGNATURES)
LAYOUT_KINDS = table_of("ratchet.layouts", "layout", ("auto", *LAYOUTS, *_SIGNATURES))
BUILDER_KINDS = table_of("ratchet.builders", "builder", BUILDERS)

# mypy cannot read a Literal that is made at run time; pydantic can.
if TYPE_CHECKING:
    Layout: TypeAlias = str
    Build: TypeAlias = str
else:
    Layout = Literal[(*LAYOUT_KINDS.built_in, *LAYOUT_KINDS.added)]
    Build = Literal[(*BUILDERS, *BUILDER_KINDS.added)]


def _readable(condition: str) -> str:
    try:
        parse_condition(condition)
    except PlanError as error:
        raise wrong("", f"{error.what}; {error.fix}") from error
    return condition


class Generated(Strict):
    """Rows made here from a seed, for plans that run without any file."""

    kind: Literal["arithmetic", "arithmetic_quiz"]
    """`arithmetic`: step-by-step sums (instruction, output). `arithmetic_quiz`: question, choices, answer."""
    rows: Annotated[int, Field(ge=1)] = 1000
    """Rows to make."""
    steps: Annotated[int, Field(ge=1, le=8)] = 2
    """Calculations in each sum."""
    largest: Annotated[int, Field(ge=2)] = 20
    """Largest operand."""
    seed: Seed = 0
    """Seed of the rows."""


class Hub(Strict):
    """A data set on the Hugging Face hub."""

    name: str
    """Hub name, for example `argilla/dpo-mix-7k`."""
    config: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit, tag or branch; left out: the default branch. Pin a commit: a run keeps the one that it found first."""

    @model_validator(mode="after")
    def _on_the_hub(self) -> Hub:
        hub_name(self, "name", "give it as `path:` of the source")
        return self


class HeldOutRows(Strict):
    """Rows of their own to hold out, read as the source's rows are: files, a split, or both (a split of a folder)."""

    path: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """File, glob, list of them, or folder; left out: that of the source, of which another split is read."""
    split: str | None = None
    """Which split, of what `path:` names or of the source's data set on the hub."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The entries of `path:`, of which each is a path, a pattern or a URL."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @model_validator(mode="after")
    def _something(self) -> HeldOutRows:
        url_or_local(self, "path")
        if self.path is None and self.split is None:
            raise wrong("", "give a path, a split, or both", "path", "split")
        return self


class Source(Strict):
    """Exactly one of `path`, `hub` and `generate`, and what is done to its rows."""

    path: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """File, glob, list of them, or folder: JSON, JSON lines, CSV, TSV, Parquet and Arrow; text may be packed.

    A URL too, where fsspec reads it: `s3://`, `gs://`, `hf://`, `https://`.
    """
    split: str | None = None
    """Which split, where `path:` has several; left out: the only one, else `train`."""
    config: str | None = None
    """Which configuration, where `path:` is the clone of a hub data set; left out: its default."""
    hub: Hub | None = None
    """A data set on the Hugging Face hub."""
    generate: Generated | None = None
    """Rows made here from a seed."""
    layout: Layout = "auto"
    """Layout of the rows, or a signature in [data.md](data.md); `auto` finds it from rows all over the source."""
    columns: Columns | None = None
    """What each column means, where the rows have other columns than those of a known layout."""
    ignore: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Columns that say something, and are not to be read all the same; `messages.score` is a key of messages."""
    train_on: Literal["all", "last"] = "all"
    """Of a dialogue of demonstrations: every turn of the assistant, each after all that comes before it, or the last
    one alone. Of pairs the answers alone are trained on, and the key does not apply."""
    build: Build | None = None
    """Make pairs from rows that have none (Smaug, appendix D)."""
    few_shot: Annotated[int, Field(ge=0, le=64)] = 0
    """Worked examples above each question that `build` makes pairs of, from other rows on the side to train on."""
    where: Annotated[tuple[Annotated[str, AfterValidator(_readable)], ...], Field(strict=False)] = ()
    """Conditions that a row must meet, all of them: `rating >= 4`, `overall != AB and length(answer) < 2000`,
    `source in [a, b] or not (tags contains draft)`, `margin >= 1` (of its scores), `note is null`."""
    min_margin: Annotated[float, Field(ge=0)] = 0.0
    """Smallest difference of scores between chosen and rejected; ties are always skipped."""
    system: str | None = None
    """System prompt of rows that have none; overrides the model's."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Keep a seeded sample of this many rows."""
    max_characters: Annotated[int, Field(ge=1)] = 200_000
    """A row longer than this is skipped."""
    # 5 %: enough for a few broken rows of a crawl, too little for a wrong layout, which spoils nearly all.
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Stop where more than this share of the rows is bad, or of the pairs cannot be written as tokens."""
    max_overlong_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Stop where more than this share of the pairs is left out because it is longer than a stage's `max_length`."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | HeldOutRows = 0.05
    """Share of prompts that no stage trains on; or rows of their own: `{path: test.jsonl}`, `{split: test}`. Rows of
    the source that ask the same are then left out."""
    seed: Seed = 0
    """Seed of the sample, the split and the builder."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The entries of `path:`, of which each is a path, a pattern or a URL."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        one_of(self, "path", "hub", "generate")
        url_or_local(self, "path")
        for key in ("split", "config"):
            if self.path is None and getattr(self, key) is not None:
                fix = f"write hub: {{name: …, {key}: …}}" if self.hub is not None else "generated rows have none"
                raise wrong(key, f"this one is of a `path:`; {fix}", "path", "hub", "generate")
        if self.generate is not None and self.layout != "auto":
            raise wrong("layout", "generated rows have their own layout: leave layout out", "generate")
        if self.few_shot and self.build is None:
            raise wrong("few_shot", "it belongs to `build:`, and this source has none: leave it out")
        self._check_columns()
        self._check_held_out()
        return self

    def _check_columns(self) -> None:
        if self.columns is None:
            return
        if self.generate is not None:
            raise wrong("columns", "generated rows have their own columns: leave columns out", "generate")
        if self.layout in _SIGNATURES:
            raise wrong("columns", f"{self.layout} says itself what each column means: leave one of them out", "layout")
        if self.layout == "auto" and reader_of(self.columns) is None:
            raise wrong("columns", NO_ROWS, "layout")
        if lost := not_taken(self.columns, self.layout):
            raise wrong("columns", lost, "layout")
        for field, where in self.columns.given().items():
            for path in paths_of(where):
                bare = path.removeprefix("-")
                if any(bare == name or bare.startswith((f"{name}.", f"{name}[")) for name in self.ignore):
                    raise wrong("ignore", f"columns.{field} reads {path}: leave one of them out", "columns")

    def _check_held_out(self) -> None:
        rows = self.held_out
        if not isinstance(rows, HeldOutRows) or rows.path is not None:
            return
        if self.generate is not None:
            raise wrong("held_out", "generated rows have no splits: give a share or a path", "generate")
        if rows.split == (self.split if self.hub is None else self.hub.split):
            raise wrong("held_out", f"the split {rows.split} is the one that is trained on", "split", "hub")

    @property
    def held_out_share(self) -> float:
        """The share of the source's own prompts that is held out: 0 where rows of their own are."""
        return self.held_out if isinstance(self.held_out, float | int) else 0.0


def held_out_source(source: Source) -> Source | None:
    """Return the rows that a source holds out as a source, all of whose rows are; None where it is a share."""
    rows = source.held_out
    if not isinstance(rows, HeldOutRows):
        return None
    # All of it, and no sample: `max_rows` is of what is trained on, and so are the examples of `few_shot`, which
    # `pairs.parts` adds. A share of 1 is no value that a plan may have.
    changes: dict[str, object] = {"held_out": 1.0, "max_rows": None, "few_shot": 0}
    if rows.path is not None:
        changes |= {"path": rows.path, "split": rows.split, "config": None, "hub": None, "generate": None}
        changes |= {"layout": "auto"} if source.generate is not None else {}
    elif source.hub is not None:
        changes["hub"] = source.hub.model_copy(update={"split": rows.split})
    else:
        changes["split"] = rows.split
    return source.model_copy(update=changes)


def packages_of(source: Source) -> dict[str, str]:
    """Return the packages that add a source's layout and builder, with their versions; none for Ratchet's own.

    `auto` looks for Ratchet's own layouts alone. Raises PlanError where this host lacks one of them.
    """
    asked = {"layout": LAYOUT_KINDS.release_of(source.layout)}
    asked |= {} if source.build is None else {"build": BUILDER_KINDS.release_of(source.build)}
    return {key: release for key, release in asked.items() if release is not None}
