"""The page of `ratchet data`: the worst first, then each source with its tables, charts and pairs token by token."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

from ratchet.documents.data_report import DataPlace, DataReport, SourceData
from ratchet.report import figures as fig
from ratchet.report.charts.data import draw_edit_distance, draw_lengths
from ratchet.report.parts import Callout, Chart, Page, PageTable, Section, amount, row, table, text
from ratchet.report.tables.data import token_use

_HEADS = {"stops": "Would stop a run", "warns": "To decide on", "notes": "To know"}


def data_page(report: DataReport) -> Page:
    """Return the page of a data report."""
    sections = [one for number, source in enumerate(report.sources) for one in _sections(number, source)]
    use = token_use(report.token_use)
    if use is not None:
        sections.append(Section("tokens", "Tokens that training computes", tables=(use,)))
    stops = sum(one.gravity == "stops" for one in report.verdicts)
    said = f"{stops} of these lines would stop a run" if stops else "Nothing here would stop a run"
    return Page(
        title=report.title,
        lead=(f"{said}. {report.tokenizer[:1].upper()}{report.tokenizer[1:]}.",),
        made=f"{report.created} · ratchet {report.ratchet}",
        callouts=tuple(
            Callout(
                ": ".join(filter(None, (_HEADS[one.gravity], one.source))), one.says, one.do, one.gravity == "stops"
            )
            for one in report.verdicts
        ),
        warnings=(),
        sections=tuple(sections),
        about="Made with",
        facts=(("made", report.created), ("ratchet", report.ratchet), ("tokens", report.tokenizer)),
        sources=(),
        stages={},
        headline=_headline(report),
        recorded=False,
    )


def _headline(report: DataReport) -> PageTable | None:
    rows = [
        row(
            [
                text("source", one.name),
                text("layout", one.layout or "not read"),
                amount("rows read", fig.count(one.read)),
                amount("skipped", fig.count(sum(one.skipped.values()))),
                amount("train", fig.count(one.train)),
                amount("held out", fig.count(one.heldout)),
                amount(
                    "half are shorter than",
                    fig.count(one.lengths.parts["total"].p50 if one.lengths else None),
                    one.unit,
                ),
            ],
            muted=bool(one.problem),
        )
        for one in report.sources
    ]
    return table(rows, "read = kept + skipped; kept = train + held out.")


def _sections(number: int, source: SourceData) -> Iterator[Section]:
    key = f"source-{number}"
    if source.problem:
        yield Section(key, source.name, source.where, findings=tuple(source.problem.splitlines()))
        return
    columns = f" Read: {', '.join(source.read_columns)}." if source.read_columns else ""
    columns += f" Not read: {', '.join(source.unread_columns)}." if source.unread_columns else ""
    gives = "demonstrations" if source.demonstrations else "pairs"
    whole = "" if source.whole else " These are some rows from all over it, not all."
    tables = (_left_out(source), _lengths(source), _limits(source), _analyses(source))
    yield Section(
        key,
        source.name,
        f"{source.where}. Layout {source.layout}, which gives {gives}.{columns}{whole}",
        tables=tuple(one for one in tables if one is not None),
        charts=functools.partial(_charts, number, source),
        legend="Left of the grey line answers are near twins. A limit that costs pairs is red.",
    )
    if source.shown:
        yield Section(f"{key}-pairs", f"{source.name}: pairs as they are trained", pairs=source.shown)


def _charts(number: int, source: SourceData) -> Sequence[Chart | None]:
    found: list[Chart | None] = []
    if source.lengths is not None:
        found.append(draw_lengths(f"lengths-{number}", source, source.lengths))
    for one in source.analyses:
        if one.distances is not None and any(one.distances.counts):
            words = "words" if one.code == "near-twins" else "characters"
            name, along = f"{one.code}-{number}", f"share of {words} that differ"
            found.append(
                draw_edit_distance(name, f"Edit distance in {words}", one.distances, along, low=one.gravity != "notes")
            )
    return found


def _left_out(source: SourceData) -> PageTable | None:
    """Why rows give no pair, and pairs no tokens, with the first of each."""
    looked_at: tuple[tuple[str, Mapping[str, int], Sequence[DataPlace], int], ...] = (
        ("reading", source.skipped, source.first_skipped, source.read),
        ("tokens", source.refused, source.first_refused, source.kept),
    )
    rows = [
        row(
            [
                text("at", where),
                text("reason", reason),
                amount("rows", fig.count(count)),
                amount("share", fig.percent(count / of if of else None), "%"),
                text("such as", _places([one for one in places if one.text.startswith(reason)])),
            ]
        )
        for where, reasons, places, of in looked_at
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    return table(rows, title="Left out")


def _lengths(source: SourceData) -> PageTable | None:
    if source.lengths is None:
        return None
    rows = [
        row(
            [
                text(source.unit, part),
                *(
                    amount(name, fig.count(length))
                    for name, length in (
                        ("least", one.least),
                        ("half", one.p50),
                        ("90 %", one.p90),
                        ("95 %", one.p95),
                        ("99 %", one.p99),
                        ("most", one.most),
                    )
                ),
            ]
        )
        for part, one in source.lengths.parts.items()
    ]
    lose = ", ".join(f"{said}: {length:,}" for said, length in source.lengths.to_lose.items())
    return table(rows, f"Total: prompt and longer answer. Limits that would lose such a share: {lose}.", "Lengths")


def _limits(source: SourceData) -> PageTable | None:
    if source.lengths is None:
        return None
    rows = [
        row(
            [
                text("stages", ", ".join(one.stages)),
                amount("max_length", fig.count(one.max_length)),
                text("overlong", one.overlong),
                amount("pairs lost", ("" if source.unit == "tokens" else "≈ ") + fig.count(one.lost)),
                amount("share", fig.percent(one.lost / one.of if one.of else None), "%"),
                amount("may be", fig.percent(one.allowed), "%"),
                amount("prompts trimmed", fig.count(one.trimmed)),
            ]
        )
        for one in source.lengths.limits
    ]
    return table(rows, title="What each limit costs")


def _analyses(source: SourceData) -> PageTable | None:
    rows = [
        row(
            [
                text("looked for", one.code),
                amount("found", fig.count(one.count)),
                amount("of", fig.count(one.of)),
                text("counted", one.counted),
                text("says", one.says),
                text("such as", _places(one.places)),
            ],
            muted=not one.count,
        )
        for one in source.analyses
    ]
    return table(rows, title="What was looked for")


def _places(places: Sequence[DataPlace]) -> str:
    return "; ".join(fig.on_one_line(f"{one.file}:{one.row} {one.text}", 90) for one in places[:2])
