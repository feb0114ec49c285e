"""The page of `ratchet data`: the worst first, then each source with its tables, charts and pairs token by token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from ratchet.documents.data_report import DataPlace, DataReport, SourceData, room_in_words, told
from ratchet.report import figures as fig
from ratchet.report.charts.data import draw_edit_distance, draw_lengths
from ratchet.report.parts import Callout, Chart, Facts, Page, PageTable, Section, amount, row, table, text
from ratchet.report.tables.data import overlap, token_use

_HEADS = {"stops": "Would stop a run", "warns": "To decide on", "notes": "To know"}


def data_page(report: DataReport) -> Page:
    """Return the page of a data report."""
    sections = [one for number, source in enumerate(report.sources) for one in _sections(number, source)]
    if (shared := overlap(report.overlaps, {})) is not None:
        sections.append(Section("overlap", "What sources share", tables=(shared,)))
    use = token_use(report.token_use)
    if use is not None:
        sections.append(Section("tokens", "Tokens that training computes", tables=(use,)))
    return Page(
        title=report.title,
        lead=(f"{_sentence(report.outcome)}. {_sentence(report.tokenizer)}.",),
        made=f"{report.created} · ratchet {report.ratchet}",
        callouts=tuple(
            Callout(
                ": ".join(filter(None, (_HEADS[one.gravity], one.source))),
                one.says + (f" ({_rows(one.places)})" if one.places else ""),
                _sentence(one.do),
                one.gravity == "stops",
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
        # The first line and the remedy stand at the head of the page.
        more = source.problem.splitlines()[1:-1]
        yield Section(key, source.name, f"{source.where}. Not read.", findings=tuple(more))
        return
    columns = f" Read: {', '.join(source.read_columns)}." if source.read_columns else ""
    columns += f" Not read: {', '.join(source.unread_columns)}." if source.unread_columns else ""
    gives = "demonstrations" if source.demonstrations else "pairs"
    whole = "" if source.whole else " These are some rows from all over it, not all."
    tables = (_lengths(source), _limits(source))
    yield Section(
        key,
        source.name,
        f"{source.where}. Layout {source.layout}, which gives {gives}.{columns}{whole}",
        tables=tuple(one for one in tables if one is not None),
        charts=functools.partial(_charts, number, source),
        facts=(Facts("Left out", tuple(_left_out(source))), Facts("What was looked for", tuple(_found(source)))),
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


def _left_out(source: SourceData) -> Iterator[tuple[str, str]]:
    """Yield why rows give no pair, and pairs no tokens, with the first of each."""
    looked_at: tuple[tuple[str, Mapping[str, int], Sequence[DataPlace], int], ...] = (
        ("rows", source.skipped, source.first_skipped, source.read),
        ("pairs, when they become tokens", source.refused, source.first_refused, source.kept),
    )
    for what, reasons, places, of in looked_at:
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            such = _places(
                [
                    dataclasses.replace(one, text=one.text.removeprefix(reason).lstrip(": "))
                    for one in places
                    if one.text.startswith(reason)
                ]
            )
            share = fig.percent(count / of if of else None)
            yield reason, f"{fig.count(count)} {what} ({share} %){such and f', such as {such}'}"


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
    return table(rows, f"{_sentence(room_in_words(source.lengths, source.unit))}.", "Lengths")


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


def _found(source: SourceData) -> Iterator[tuple[str, str]]:
    found, absent = told(source.analyses)
    for one in found:
        yield one.code, one.says + (f" ({_places(one.places)})" if one.places else "")
    if absent:
        yield "not found", ", ".join(absent)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows(places: Sequence[DataPlace]) -> str:
    return ", ".join(f"{one.file}:{one.row}" for one in places[:2])


def _places(places: Sequence[DataPlace]) -> str:
    return "; ".join(fig.on_one_line(f"{one.file}:{one.row} {one.text}", 90) for one in places[:2])
