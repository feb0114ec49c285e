"""From a source in a plan to a stream of pairs: pure, and the same whatever the spans."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.errors import DataError, PlanError
from ratchet.pairs.build import build_pairs, builder_of
from ratchet.pairs.checks import Reason, Unfit, check_pair
from ratchet.pairs.conditions import MARGIN, check_conditions, check_fields, has_field
from ratchet.pairs.layouts import LAYOUTS, ChoiceQuestion, Fields, Sides, layout_of
from ratchet.pairs.messages import tools_of
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.pairs.read import GENERATED, plan_spans, read_span
from ratchet.pairs.span import SourceRow, Span
from ratchet.plan.conditions import Condition, parse_condition
from ratchet.plan.data import Source, packages_of

# A few odd rows at the head must not decide: more than half of these do.
DETECT_ROWS = 20
_DETAIL = 200
# A file may begin with many broken rows. Beyond these it is not what `path:` says that it is.
_LOOK = 10_000
# Rows of each span, and spans, in which a condition's fields must stand: a field may be rare in JSON.
_LOOK_EACH, _LOOK_SPANS = 200, 20

Item = PreferencePair | Skipped


@dataclasses.dataclass(frozen=True)
class SourceReading:
    """Everything that decides what a row becomes."""

    source: Source
    layout: str
    packages: Mapping[str, str]
    conditions: tuple[Condition, ...]
    system: str | None

    @property
    def demonstrations(self) -> bool:
        """Whether the pairs have no rejected side."""
        return self.source.build is None and layout_of(self.layout).gives == "demonstrations"


def make_reading(source: Source, spans: list[Span], default_system: str | None) -> SourceReading:
    """Decide how a source's rows are read; `auto` looks at the first readable rows, and conditions at some.

    Raises PlanError for a condition, builder or margin that cannot be used, DataError where no
    layout fits.
    """
    conditions = tuple(parse_condition(text) for text in source.where)
    layout = source.layout if source.layout != "auto" else _detected(source, spans)
    if source.build is not None and layout != (takes := builder_of(source.build).layout):
        raise PlanError(
            f"build: {source.build} takes rows of the layout {takes}, and these are {layout}",
            where=spans[0].file,
            fix="leave build out, or give other rows",
            code="plan.rows",
        )
    if source.min_margin and layout_of(layout).gives != "pairs with scores":
        raise PlanError(
            f"min_margin needs rows with scores, and these are {layout}",
            where=spans[0].file,
            fix="leave min_margin out",
            code="plan.rows",
        )
    if conditions:
        _check_conditions(conditions, source, spans, layout)
    system = source.system if source.system is not None else default_system
    return SourceReading(source, layout, packages_of(source), conditions, system)


def _check_conditions(conditions: Sequence[Condition], source: Source, spans: list[Span], layout: str) -> None:
    """Raise PlanError where a condition names what neither the rows nor their layout have."""
    read = (itertools.islice(read_span(span, source), _LOOK_EACH) for span in spans[:_LOOK_SPANS])
    rows = [row.value for row in itertools.chain.from_iterable(read) if row.value is not None]
    check_fields(conditions, rows, spans[0].file)
    asks = any(one.field == MARGIN for condition in conditions for one in condition.comparisons())
    if asks and layout_of(layout).gives != "pairs with scores" and not any(has_field(row, MARGIN) for row in rows):
        raise PlanError(
            f"`where` names margin, the difference of scores, and these rows are {layout}: they have no scores",
            where=spans[0].file,
            fix="leave the condition out",
            code="plan.rows",
        )


def read_source(source: Source, default_system: str | None = None, *, span_bytes: int | None = None) -> Iterator[Item]:
    """Yield every pair and every skipped row of a source, in order, in this process. Raises DataError, PlanError."""
    spans = plan_spans(source) if span_bytes is None else plan_spans(source, span_bytes)
    reading = make_reading(source, spans, default_system)
    for span in spans:
        yield from span_pairs(span, reading)


def span_pairs(span: Span, reading: SourceReading) -> Iterator[Item]:
    """Yield every pair and every skipped row of one span.

    Raises DataError where the file is damaged, or this host has other packages than the one that began to read.
    """
    # On each host: a worker with another version would make other pairs under the same fingerprint.
    if (here := packages_of(reading.source)) != reading.packages:
        raise DataError(
            f"read with {', '.join(reading.packages.values())}, and this host has {', '.join(here.values())}",
            where=platform.node(),
            fix="install the same packages on every host",
        )
    for row in read_span(span, reading.source):
        yield from pairs_of(row, reading)


def pairs_of(row: SourceRow, reading: SourceReading) -> list[Item]:
    """Return a row's pairs, those that fail a check as Skipped; one Skipped where the row gives none."""
    if row.value is None:
        return [_skipped(row, Unfit(Reason(row.reason), row.detail))]
    try:
        value = row.value
        # At most once: a condition may ask for the margin, which only the layout knows.
        sides_of = functools.cache(lambda: layout_of(reading.layout).read(value))
        check_conditions(value, reading.conditions, lambda: getattr(sides_of(), "margin", None))
        sides = sides_of()
        _check_margin(sides, reading.source.min_margin)
        built = build_pairs(sides, reading.source.build, reading.source.seed)
        tools = tools_of(row.value)
    except Unfit as unfit:
        return [_skipped(row, unfit)]
    return [
        _checked(PreferencePair(_led(prompt, reading), chosen, rejected, row.file, row.row, tools), row, reading)
        for prompt, chosen, rejected in built
    ]


def _checked(pair: PreferencePair, row: SourceRow, reading: SourceReading) -> Item:
    try:
        check_pair(pair, reading.source.max_characters)
    except Unfit as unfit:
        return _skipped(row, unfit)
    return pair


def _skipped(row: SourceRow, unfit: Unfit) -> Skipped:
    # Details quote rows: half a character cannot be written to Parquet, and NUL ends a line in a terminal.
    detail = unfit.detail[:_DETAIL].encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return Skipped(row.file, row.row, unfit.reason.value, detail)


def _check_margin(sides: Sides | ChoiceQuestion, least: float) -> None:
    if not isinstance(sides, Sides) or sides.margin is None:
        return
    # Before `min_margin`, so that a tie is counted as one whatever the limit is.
    if sides.margin == 0:
        raise Unfit(Reason.TIE, "equal scores")
    if sides.margin < max(least, 0):
        raise Unfit(Reason.MARGIN, f"{sides.margin:g}")


def _led(prompt: tuple[Turn, ...], reading: SourceReading) -> tuple[Turn, ...]:
    """Put the system prompt first, unless the row has its own; one that is blank counts as none."""
    if prompt and prompt[0].role == "system" and not prompt[0].content.strip():
        prompt = prompt[1:]
    if reading.system and not (prompt and prompt[0].role == "system"):
        return (Turn("system", reading.system), *prompt)
    return prompt


def _detected(source: Source, spans: list[Span]) -> str:
    if source.generate is not None:
        return GENERATED[source.generate.kind].layout
    rows = itertools.islice((row for span in spans for row in read_span(span, source)), _LOOK)
    seen: list[Mapping[str, Any]] = []
    bad: list[SourceRow] = []
    for row in rows:
        if row.value is None:
            bad.append(row)
        elif len(seen) < DETECT_ROWS:
            seen.append(row.value)
        else:
            break
    if not seen:
        first = "\n".join(f"  {row.file}:{row.row}: {row.reason}: {row.detail}" for row in bad[:5])
        raise DataError(
            f"none of the first {len(bad)} rows is a JSON object\n{first}",
            where=spans[0].path or spans[0].file,
            fix="give one JSON object a line (.jsonl), an array of objects (.json), or a table (.parquet)",
            code="data.no-layout",
        )
    return detect(seen, spans[0].path or spans[0].file)


def detect(rows: Sequence[Fields], where: str) -> str:
    """Return the one layout that more than half of `rows` look like.

    Raises DataError with the fields seen where none fits, or more than one.
    """
    # Ratchet's own alone: what another package finds fitting would change what `auto` means on this machine.
    votes = collections.Counter(name for row in rows for name, layout in LAYOUTS.items() if layout.detect(row))
    winners = [name for name in LAYOUTS if votes[name] * 2 > len(rows)]
    if len(winners) == 1:
        return winners[0]
    keys = ", ".join(sorted({key for row in rows for key in row})) or "none"
    known = "\n".join(f"    {name}: {LAYOUTS[name].fields}" for name in winners or LAYOUTS)
    if winners:
        what = f"the rows fit more than one layout; fields seen: {keys}\n{known}"
        raise DataError(what, where=where, fix="name one with `layout:`", code="data.layouts")
    fix = "rename the fields, or name a layout with `layout:`"
    if any(isinstance(row.get("label"), bool) for row in rows):
        fix = (
            "these are single answers marked good or bad, not pairs; to train on the good ones alone, "
            "write `layout: instruction` and `where: [label == true]`"
        )
    raise DataError(
        f"no layout fits these rows; fields seen: {keys}\n{known}", where=where, fix=fix, code="data.no-layout"
    )
