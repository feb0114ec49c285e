"""From a source in a plan to a stream of pairs: pure, and the same whatever the spans."""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Iterator, Mapping, Sequence

from ratchet.errors import DataError, PlanError
from ratchet.pairs.build import Built, build_pairs, builder_of, check_margin
from ratchet.pairs.checks import Reason, Unfit, check_pair
from ratchet.pairs.conditions import MARGIN, asked_of, check_conditions, check_fields, has_field
from ratchet.pairs.contract import check_found, check_unread, unread, with_contract, with_reader
from ratchet.pairs.detect import all_among, look_at, named_kind, row_kind_at
from ratchet.pairs.ignored import held_of, lean, without
from ratchet.pairs.layouts import ChoiceQuestion, Fields, Sides, layout_of
from ratchet.pairs.pair import PreferencePair, Skipped, Turn, dialogue_id
from ratchet.pairs.prefix import with_start
from ratchet.pairs.read import GENERATED, plan_spans, read_span
from ratchet.pairs.row_kind import RowKind, sides_of, tools_offered
from ratchet.pairs.shots import Shot, enough_shots, pool_of, with_shots
from ratchet.pairs.span import SourceRow, Span
from ratchet.pairs.spread import spread_rows
from ratchet.plan.conditions import Condition, parse_condition
from ratchet.plan.data import Source, packages_of
from ratchet.plan.signatures.signature import fields_named, reader_of

_DETAIL = 200

Item = PreferencePair | Skipped


@dataclasses.dataclass(frozen=True)
class SourceReading:
    """Everything that decides what a row becomes.

    `kinds` are those that its rows have, the commonest first, with the columns that each reads; `layout` is the first
    one's. `shots` are the examples that questions are shown with, where the source has `few_shot`.
    """

    source: Source
    layout: str
    packages: Mapping[str, str]
    conditions: tuple[Condition, ...]
    system: str | None
    kinds: tuple[RowKind, ...] = ()
    shots: tuple[Shot, ...] = ()

    @functools.cached_property
    def spoken_of(self) -> frozenset[str]:
        """The columns that conditions name."""
        return asked_of(self.conditions)

    @property
    def demonstrations(self) -> bool:
        """Whether the pairs have no rejected side."""
        return self.source.build is None and layout_of(self.layout).gives == "demonstrations"

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that the rows looked at have and that are read, by their kind or by `where`."""
        found = [
            column
            for kind in self.kinds
            for column in (*kind.read, *sorted(self.spoken_of.intersection(kind.not_read)))
        ]
        return tuple(dict.fromkeys(found))

    @property
    def unread_columns(self) -> tuple[str, ...]:
        """The columns that hold something in the rows looked at and are not read."""
        unread = dict.fromkeys(column for kind in self.kinds for column in kind.not_read)
        return tuple(column for column in unread if column not in self.read_columns)

    @property
    def called(self) -> str:
        """The layouts or signatures of its rows."""
        repeats = any(kind.repeats for kind in self.kinds)
        return ", ".join(kind.name for kind in self.kinds) + " (prompts cut off their answers)" * repeats


def make_reading(
    source: Source, spans: list[Span], default_system: str | None, like: SourceReading | None = None
) -> SourceReading:
    """Decide how a source's rows are read, by rows from all over it.

    Rows of the kinds of `like` are read as there: a few rows by themselves may seem to be written otherwise.

    Raises PlanError for a condition, builder or margin that cannot be used, DataError where no layout fits, or where a
    column that means something would not be read.
    """
    conditions = tuple(parse_condition(text) for text in source.where)
    spoken_of = asked_of(conditions)
    kinds, rows = _named(source), None
    if not kinds:
        rows = spread_rows(source, spans)
        kinds = look_at(lean(rows, source.ignore), spans[0].path or spans[0].file, spoken_of).kinds
    shared = like is not None and all_among(kinds, like.kinds)
    kinds = like.kinds if like is not None and shared else kinds
    _check_gives(source, kinds, spans[0])
    rows = spread_rows(source, spans) if rows is None else rows
    if conditions:
        _check_conditions(conditions, [row.value for row in rows if row.value is not None], spans[0].file, kinds)
    kinds = _contracts(source, kinds, rows, spoken_of, known=shared)
    system = source.system if source.system is not None else default_system
    reading = SourceReading(source, kinds[0].layout, packages_of(source), conditions, system, kinds)
    return dataclasses.replace(reading, shots=_shots(reading, rows)) if source.few_shot else reading


def _shots(reading: SourceReading, rows: Sequence[SourceRow]) -> tuple[Shot, ...]:
    """Return the examples that a source has. Raises PlanError where they are too few."""
    plain = dataclasses.replace(reading, source=reading.source.model_copy(update={"few_shot": 0}))
    items = (item for row in rows for item in pairs_of(row, plain))
    return enough_shots(
        pool_of([item for item in items if isinstance(item, PreferencePair)], reading.source), reading.source
    )


def _named(source: Source) -> tuple[RowKind, ...]:
    """Return the kind of rows that a plan names; none where it is to be found."""
    if source.generate is not None:
        return (named_kind(GENERATED[source.generate.kind].layout),)
    if source.columns is not None:
        if source.layout != "auto":
            return (RowKind("columns", source.layout, tuple(source.columns.given().items())),)
        return (RowKind("columns", str(reader_of(source.columns)), tuple(fields_named(source.columns).items())),)
    return () if source.layout == "auto" else (named_kind(source.layout),)


def _check_gives(source: Source, kinds: Sequence[RowKind], span: Span) -> None:
    """Raise PlanError where a source asks for what rows of its kinds cannot give."""
    for kind in kinds:
        if source.build is not None and kind.layout != (takes := builder_of(source.build).layout):
            raise PlanError(
                f"build: {source.build} takes rows of the layout {takes}, and these are {kind.layout}",
                where=span.file,
                fix="leave build out, or give other rows",
                code="plan.rows",
            )
    # Mixtures have scores for some of their rows only.
    if source.min_margin and not any(kind.gives == "pairs with scores" for kind in kinds):
        raise PlanError(
            f"min_margin needs rows with scores, and these are {kinds[0].layout}",
            where=span.file,
            fix="leave min_margin out",
            code="plan.rows",
        )
    demonstrates = source.build is None and all(kind.gives == "demonstrations" for kind in kinds)
    if "train_on" in source.model_fields_set and not demonstrates:
        made = f"made into pairs by {source.build}" if source.build else "pairs, whose two answers are trained on"
        raise PlanError(
            f"train_on chooses turns of demonstrations, and these rows are {made}",
            where=span.file,
            fix="leave train_on out",
            code="plan.rows",
        )


def _check_conditions(
    conditions: Sequence[Condition], rows: Sequence[Fields], where: str, kinds: Sequence[RowKind]
) -> None:
    """Raise PlanError where a condition names what neither the rows nor their layout have."""
    check_fields(conditions, rows, where)
    asks = any(one.field == MARGIN for condition in conditions for one in condition.comparisons())
    scored = any(kind.gives == "pairs with scores" for kind in kinds)
    if asks and not scored and not any(has_field(row, MARGIN) for row in rows):
        raise PlanError(
            f"`where` names margin, the difference of scores, and these rows are {kinds[0].name}: they have no scores",
            where=where,
            fix="leave the condition out",
            code="plan.rows",
        )


def _contracts(
    source: Source, kinds: tuple[RowKind, ...], rows: Sequence[SourceRow], spoken_of: frozenset[str], *, known: bool
) -> tuple[RowKind, ...]:
    """Return the kinds with the columns that they read. Raises DataError where one that means something is not.

    `known`: their readers are found, and it is known whether they repeat their prompts.
    """
    left_out = held_of(rows, source.ignore)
    values = [(row, row.value) for row in lean(rows, source.ignore) if row.value is not None]
    if source.columns is not None:
        check_found(source.columns, [value for _, value in values], values[0][0].file)
    found = []
    for number, kind in enumerate(kinds):
        own = [
            (row, value) for row, value in values if len(kinds) == 1 or row_kind_at(value, kinds, spoken_of) == number
        ]
        held = [value for _, value in own]
        made = with_contract(kind, held, spoken_of, left_out)
        if known:
            found.append(dataclasses.replace(made, repeats=kind.repeats))
        else:
            found.append(with_reader(made, held, values[0][0].file))
        lost = [(row, value) for row, value in own if unread(value, found[-1]) is not None]
        if lost:
            row, value = lost[0]
            count = f" ({len(lost):,} of the {len(own):,} rows looked at have it)"
            check_unread(value, found[-1], row, count)
    return tuple(found)


def read_source(source: Source, default_system: str | None = None, *, span_bytes: int | None = None) -> Iterator[Item]:
    """Yield every pair and every skipped row of a source, in order, in this process. Raises DataError, PlanError.

    Rows that are held out by themselves are another source: `parts.plan_parts` has both.
    """
    spans = plan_spans(source) if span_bytes is None else plan_spans(source, span_bytes)
    reading = make_reading(source, spans, default_system)
    yield from (item for span in spans for item in span_pairs(span, reading))


def span_pairs(span: Span, reading: SourceReading) -> Iterator[Item]:
    """Yield every pair and every skipped row of one span. Raises DataError as `span_rows`."""
    return (item for row in span_rows(span, reading) for item in pairs_of(row, reading))


def span_rows(span: Span, reading: SourceReading) -> Iterator[SourceRow]:
    """Yield the rows of one span.

    Raises DataError where the file is damaged, or this host has other packages than the one that began to read.
    """
    # On each host: a worker with another version would make other pairs under the same fingerprint.
    if (here := packages_of(reading.source)) != reading.packages:
        raise DataError(
            f"read with {', '.join(reading.packages.values())}, and this host has {', '.join(here.values())}",
            where=platform.node(),
            fix="install the same packages on every host",
        )
    yield from read_span(span, reading.source)


def pairs_of(row: SourceRow, reading: SourceReading) -> list[Item]:
    """Return a row's pairs, those that fail a check as Skipped; one Skipped where the row gives none."""
    if row.value is None:
        return [_skipped(row, Unfit(Reason(row.reason), row.detail))]
    try:
        sides, tools = said_by(row, row.value, reading) if not reading.conditions else _met(row, row.value, reading)
        check_margin(sides, reading.source.min_margin)
    except Unfit as unfit:
        return [_skipped(row, unfit)]
    return pairs_said(row, sides, tools, reading)


def pairs_said(row: SourceRow, sides: Sides | ChoiceQuestion, tools: str | None, reading: SourceReading) -> list[Item]:
    """Return the pairs of what a row says, as `pairs_of` does."""
    try:
        built = build_pairs(sides, reading.source.build, reading.source.seed)
    except Unfit as unfit:
        return [_skipped(row, unfit)]
    earlier, dialogue = _earlier(sides, reading.source), None
    if earlier:
        dialogue = dialogue_id((*built[-1][0], built[-1][1]))
    pairs = [
        PreferencePair(_led(prompt, reading), chosen, rejected, row.file, row.row, tools, dialogue=dialogue)
        for prompt, chosen, rejected in (*earlier, *built)
    ]
    starts = [*[None] * len(earlier), *[getattr(sides, "prefix", None)] * len(built)]
    return [_checked(pair, start, row, reading) for pair, start in zip(pairs, starts, strict=True)]


def _earlier(sides: Sides | ChoiceQuestion, source: Source) -> list[Built]:
    """Return the demonstrations of a dialogue before its last: each turn of the assistant that answers something."""
    if not isinstance(sides, Sides) or source.train_on == "last" or source.build is not None:
        return []
    prompt = sides.prompt
    # One that opens a dialogue is a greeting: there is nothing before it that a model could answer.
    return [(prompt[:at], prompt[at], None) for at in sides.also if any(turn.role != "system" for turn in prompt[:at])]


def _met(row: SourceRow, value: Fields, reading: SourceReading) -> tuple[Sides | ChoiceQuestion, str | None]:
    """Return what `said_by` does of a row that meets the conditions. Raises Unfit; DataError as `said_by`."""
    # At most once: a condition may ask for the margin, which only the layout knows.
    read = functools.cache(lambda: said_by(row, value, reading))
    check_conditions(value, reading.conditions, lambda: getattr(read()[0], "margin", None))
    return read()


def said_by(row: SourceRow, value: Fields, reading: SourceReading) -> tuple[Sides | ChoiceQuestion, str | None]:
    """Return what a row says, and the tools that it offers.

    Raises Unfit; DataError where it holds a column that means something and is not read.
    """
    kinds = reading.kinds or (RowKind(reading.layout, reading.layout),)
    value = without(value, reading.source.ignore)
    at = 0 if len(kinds) == 1 else row_kind_at(value, kinds, reading.spoken_of)
    if at is None:
        raise Unfit(Reason.MISSING, f"the row fits no kind of its source: {', '.join(kind.name for kind in kinds)}")
    check_unread(value, kinds[at], row)
    return sides_of(value, kinds[at]), tools_offered(value, kinds[at])


def _checked(pair: PreferencePair, start: str | None, row: SourceRow, reading: SourceReading) -> Item:
    try:
        if reading.source.few_shot:
            pair = with_shots(pair, reading.shots, reading.source)
        check_pair(pair, reading.source.max_characters - len(start or ""))
        if start is not None:
            pair = with_start(pair, start)
    except Unfit as unfit:
        return _skipped(row, unfit)
    return pair


def _skipped(row: SourceRow, unfit: Unfit) -> Skipped:
    # Details quote rows: half a character cannot be written to Parquet, and NUL ends a line in a terminal.
    detail = unfit.detail[:_DETAIL].encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return Skipped(row.file, row.row, unfit.reason.value, detail)


def _led(prompt: tuple[Turn, ...], reading: SourceReading) -> tuple[Turn, ...]:
    """Put the system prompt first, unless the row has its own; one that is blank counts as none."""
    if prompt and prompt[0].role == "system" and not prompt[0].content.strip():
        prompt = prompt[1:]
    if reading.system and not (prompt and prompt[0].role == "system"):
        return (Turn("system", reading.system), *prompt)
    return prompt
