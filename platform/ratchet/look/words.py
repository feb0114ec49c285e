"""A data report as text of at most 100 columns: the worst first, then source by source."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from ratchet.documents.data_report import (
    DRAWN,
    DataAnalysis,
    DataPlace,
    DataReport,
    DataVerdict,
    ShownPair,
    ShownPart,
    ShownToken,
    SourceData,
    SourceLengths,
    Unit,
    room_in_words,
    told,
)
from ratchet.documents.sources import EditDistance, SourceOverlap
from ratchet.documents.token_use import use_in_words
from ratchet.report.figures import many, on_one_line

WIDTH = 100
_INDENT = "  "
_FACTS = 12
"""Columns of a fact's name."""
_PIECES = {"head": 260, "tail": 90}
"""Characters of a prompt or answer that are shown, from its beginning and end."""
_SCORED = ("[[", "]]")
_KINDS = {"template": ("‹", "›"), "thoughts": ("{", "}"), "prefix": ("(", ")"), "text": ("", "")}
_BARS = " ▁▂▃▄▅▆▇█"
_COLOURS = {"template": "36", "thoughts": "35", "prefix": "33", "text": ""}
LEGEND = "¦ parts tokens; [[scored by the loss]]; ‹the template's›; {thoughts}; (given prefix)"
_COLOUR_LEGEND = (
    "¦ parts tokens; underlined: scored by the loss; cyan: the template's; magenta: thoughts; yellow: prefix"
)


def report_lines(report: DataReport, *, colour: bool = False) -> list[str]:
    """Return the lines of a report; `colour` marks tokens by the colours of a terminal."""
    lines = _wrapped("", f"{report.title}, {many(len(report.sources), 'source')}: {report.outcome}")
    if any(source.lengths is not None for source in report.sources):
        lines += _wrapped("", report.tokenizer)
    if report.verdicts:
        lines.append("")
    for one in report.verdicts:
        lines += _verdict(one)
    for source in report.sources:
        lines += ["", *_source(source, colour=colour)]
    if report.overlaps:
        lines += ["", "what sources share", *(line for one in report.overlaps for line in _overlap(one))]
    if report.token_use:
        lines += ["", "tokens that training computes"]
        lines += [line for use in report.token_use for said in use_in_words(use) for line in _wrapped(_INDENT, said)]
    return lines


_WORDS = {"stops": "STOPS", "warns": "WARNS", "notes": "notes"}


def _verdict(one: DataVerdict) -> Iterator[str]:
    head = f"{_WORDS[one.gravity]:<6} {one.source + ': ' if one.source else ''}"
    rows = f" ({_rows(one.places)})" if one.places else ""
    yield from _wrapped("", head + one.says + rows, hang=" " * 7)
    if one.do:
        yield from _wrapped(" " * 7, f"→ {one.do}", hang=" " * 9)


def _rows(places: Sequence[DataPlace]) -> str:
    return ", ".join(f"{place.file}:{place.row}" for place in places[:2])


def _overlap(one: SourceOverlap) -> Iterator[str]:
    part = "held-out part" if one.held_out else "train part"
    said = f"{one.pairs:,} pairs and {one.prompts:,} prompts of {one.left} are in the {part} of {one.right}"
    yield from _wrapped(_INDENT, said, hang=_INDENT * 2)


def _source(source: SourceData, *, colour: bool) -> Iterator[str]:
    yield from _wrapped("", f"{source.name}: {source.where}", hang=_INDENT)
    if source.problem:
        # The first line and the remedy stand at the head of the report.
        more = source.problem.splitlines()[1:-1]
        yield from _fact("rows", "not read" + ":" * bool(more))
        for line in more:
            yield from _wrapped(" " * (_FACTS + 2), line.strip(), hang=" " * (_FACTS + 4))
        return
    read = f"{source.read:,} read = {source.kept:,} kept + {sum(source.skipped.values()):,} skipped"
    yield from _fact("rows", f"{read}; {source.train:,} to train on, {source.heldout:,} held out")
    gives = "demonstrations" if source.demonstrations else "pairs"
    columns = f"; read: {', '.join(source.read_columns)}" if source.read_columns else ""
    columns += f"; not read: {', '.join(source.unread_columns)}" if source.unread_columns else ""
    yield from _fact("layout", f"{source.layout}, which gives {gives}{columns}")
    if source.skipped:
        yield from _fact("skipped", _tally(source.skipped))
        yield from _places(source.first_skipped)
    if source.refused:
        yield from _fact("unwritten", _tally(source.refused))
        yield from _places(source.first_refused)
    if source.lengths is not None:
        yield from _lengths(source.lengths, source.unit)
    yield from _analyses(source.analyses)
    if source.shown:
        yield from _fact("pairs", _COLOUR_LEGEND if colour else LEGEND)
        for number, pair in enumerate(source.shown, 1):
            yield from _pair(number, pair, source.unit, colour=colour)


def _analyses(analyses: Sequence[DataAnalysis]) -> Iterator[str]:
    """Yield what was found and is no verdict, with rows to look at; then the names of what was not found."""
    for one in analyses:
        if one.distances is not None and any(one.distances.counts):
            yield from _fact(*_distances(one.code, one.distances))
    found, absent = told(analyses)
    for one in found:
        rows = f" ({_rows(one.places)})" if one.places else ""
        yield from _wrapped(_INDENT, f"{one.code}: {one.says}{rows}", hang=_INDENT * 3)
    if absent:
        yield from _wrapped(_INDENT, f"looked for, and not found: {', '.join(absent)}", hang=_INDENT * 3)


def _distances(code: str, one: EditDistance) -> tuple[str, str]:
    """Return the name and the bars of a histogram of edit distances."""
    most = max(one.counts)
    # A bin that holds anything has a bar.
    bars = "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in one.counts)
    median = "" if one.median is None else f"; half of the pairs less than {one.median:.0%}"
    units = "characters" if code in DRAWN else "words"
    return "" if code in DRAWN else "differ in", f"{units:<11}0 % {bars} 100 %{median}"


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda one: -one[1]))


def _places(places: Sequence[DataPlace]) -> Iterator[str]:
    for place in places:
        yield on_one_line_after(" " * (_FACTS + 4), f"{place.file}:{place.row}: {place.text}")


def on_one_line_after(indent: str, text: str) -> str:
    """Return a text on one line of the report's width, behind an indent."""
    return indent + on_one_line(text, WIDTH - len(indent))


def _lengths(lengths: SourceLengths, unit: Unit) -> Iterator[str]:
    heads = ("least", "half", "90 %", "95 %", "99 %", "most")
    yield from _fact("lengths", f"{unit:<10}" + "".join(f"{head:>9}" for head in heads))
    for part, one in lengths.parts.items():
        values = (one.least, one.p50, one.p90, one.p95, one.p99, one.most)
        yield " " * (_FACTS + 2) + f"{part:<10}" + "".join(f"{value:>9,}" for value in values)
    yield from _fact("room", room_in_words(lengths, unit))
    about = "" if unit == "tokens" else "about "
    for limit in lengths.limits:
        share = f"{limit.lost / limit.of:.1%}" if limit.of else "0 %"
        said = f"{', '.join(limit.stages)}: max_length {limit.max_length:,} with overlong: {limit.overlong} leaves out "
        said += f"{about}{limit.lost:,} of {limit.of:,} ({share}; the limit is {limit.allowed:.0%})"
        yield from _fact("limit", said + (f" and trims {limit.trimmed:,} prompts" if limit.trimmed else ""))


def _fact(name: str, said: str) -> Iterator[str]:
    yield from _wrapped(f"{_INDENT}{name:<{_FACTS}}", said, hang=" " * (_FACTS + 2))


def _wrapped(indent: str, text: str, hang: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        drop_whitespace=True,
        break_long_words=True,
        replace_whitespace=False,
        break_on_hyphens=False,
    ) or [indent.rstrip()]


def _pair(number: int, pair: ShownPair, unit: str, *, colour: bool) -> Iterator[str]:
    lengths = ", ".join(f"{part.name} {part.length:,}" for part in pair.parts)
    counted = "characters" if pair.texts_alone else unit
    yield from _wrapped(_INDENT * 2, f"{number}. {pair.place.file}:{pair.place.row}: {lengths} {counted}", hang=" " * 7)
    if pair.refused:
        yield from _wrapped(" " * 7, f"left out: {pair.refused}")
    for part in pair.parts:
        text = part_text(part, colour=colour)
        head = f"{' ' * 7}{part.name:<10}"
        if colour:  # a terminal wraps by itself, and does not count its own marks
            yield head + text
        else:
            yield from _wrapped(head, text, hang=" " * 17)


def part_text(part: ShownPart, *, colour: bool) -> str:
    """Return a prompt or answer on one line, its middle left out where it is long."""
    most = _PIECES["head"] + _PIECES["tail"]
    if not part.tail and sum(len(token.text) for token in part.head) <= most:
        return _run(part.head, colour=colour)
    head = _clipped(part.head, _PIECES["head"])
    tail = _clipped((part.tail or part.head)[::-1], _PIECES["tail"], from_end=True)[::-1]
    # Of a text alone a token is all of it, and characters are counted.
    alone = len(part.head) == 1
    left = part.length - (sum(len(token.text) for token in (*head, *tail)) if alone else len(head) + len(tail))
    return f"{_run(head, colour=colour)} … {left:,} more … {_run(tail, colour=colour)}"


def _clipped(tokens: Sequence[ShownToken], most: int, *, from_end: bool = False) -> list[ShownToken]:
    """Return the first tokens that have at most so many characters; of a longer first one, a part."""
    kept: list[ShownToken] = []
    size = 0
    for token in tokens:
        size += len(token.text)
        if size > most:
            break
        kept.append(token)
    if not kept and tokens:
        text = tokens[0].text
        kept = [dataclasses.replace(tokens[0], text=text[len(text) - most :] if from_end else text[:most])]
    return kept


def _run(tokens: Sequence[ShownToken], *, colour: bool) -> str:
    """Return tokens with marks around each run of one kind."""
    texts: list[str] = []
    at = 0
    while at < len(tokens):
        first = tokens[at]
        end = at
        while end < len(tokens) and (tokens[end].kind, tokens[end].scored) == (first.kind, first.scored):
            end += 1
        said = "¦".join(_visible(token.text) for token in tokens[at:end])
        texts.append(_marked(said, first, colour=colour))
        at = end
    return "".join(texts) if colour else _joined(texts)


def _joined(texts: Sequence[str]) -> str:
    # Runs that are scored one after another are one stretch.
    return "".join(texts).replace("]][[", "")


def _marked(said: str, token: ShownToken, *, colour: bool) -> str:
    if colour:
        codes = ";".join(filter(None, (_COLOURS[token.kind], "4" if token.scored else "2")))
        return f"\x1b[{codes}m{said}\x1b[0m"
    left, right = _KINDS[token.kind]
    said = f"{left}{said}{right}"
    return f"{_SCORED[0]}{said}{_SCORED[1]}" if token.scored else said


def _visible(text: str) -> str:
    """Return a token's text on one line: line breaks as ⏎, what moves a cursor as its escape."""
    text = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)
