"""The rows of a span as tables: plain ones of one form together, all others one by one, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from ratchet.pairs.checks import Unfit, characters_of, check_text
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.pair_table import CHARACTERS, ROWS, items_table, plain_table
from ratchet.pairs.plain import Forms, PlainForm, text_at, texts_at
from ratchet.pairs.source import Item, SourceReading, pairs_of, span_rows
from ratchet.pairs.span import SourceRow, Span

Placed = tuple[int, str, int, list[str]]
"""A row's place among those that wait, its file and number, and its texts: the row itself is no longer needed."""


@dataclasses.dataclass
class _Waiting:
    """Rows that wait for their table: by form with their texts, and the items of others; each with its place."""

    plain: dict[PlainForm, list[Placed]] = dataclasses.field(default_factory=dict)
    items: list[tuple[int, Item]] = dataclasses.field(default_factory=list)
    rows: int = 0
    characters: int = 0


def span_tables(span: Span, reading: SourceReading) -> Iterator[pa.Table]:
    """Yield every pair and every skipped row of a span, in tables of bounded size. Raises DataError as `span_rows`."""
    yield from row_tables(span_rows(span, reading), reading)


def row_tables(rows: Iterable[SourceRow], reading: SourceReading) -> Iterator[pa.Table]:
    """Yield what `pairs_of` makes of rows, as tables."""
    forms, held = Forms(reading), _Waiting()
    for row in rows:
        found = None if row.value is None else forms.of(row.value)
        if found is not None and (size := _size_if_fit(*found, reading)) is not None:
            form, texts = found
            held.plain.setdefault(form, []).append((held.rows, row.file, row.row, texts))
            held.characters += size
        else:
            items = pairs_of(row, reading)
            held.items += [(held.rows, item) for item in items]
            held.characters += sum(characters_of(item) for item in items if isinstance(item, PreferencePair))
        held.rows += 1
        if held.rows >= ROWS or held.characters >= CHARACTERS:
            yield _table(held, reading)
            held = _Waiting()
    if held.rows:
        yield _table(held, reading)


def _table(held: _Waiting, reading: SourceReading) -> pa.Table:
    tables, places = [], list[int]()
    for form, rows in held.plain.items():
        texts = [one[3] for one in rows]
        prompt = [texts_at(parts, texts) for parts in form.prompt]
        chosen = texts_at(form.chosen, texts)
        rejected = None if form.rejected is None else texts_at(form.rejected, texts)
        where = [one[1:3] for one in rows]
        tables.append(plain_table(form.roles, prompt, chosen, rejected, where, reading.source))
        places += [one[0] for one in rows]
    if held.items:
        tables.append(items_table([item for _, item in held.items], reading.source))
        places += [at for at, _ in held.items]
    if len(tables) == 1 and places == sorted(places):
        return tables[0]
    order = sorted(range(len(places)), key=places.__getitem__)  # stable: the items of a row stay in order
    return pa.concat_tables(tables).take(pa.array(order))


def _size_if_fit(form: PlainForm, texts: Sequence[str], reading: SourceReading) -> int | None:
    """Return the characters of a pair of these texts, none of them blank; None where it may not pass the checks."""
    columns = [text_at(parts, texts) for parts in form.prompt]
    columns.append(chosen := text_at(form.chosen, texts))
    if form.rejected is not None:
        columns.append(rejected := text_at(form.rejected, texts))
        if chosen.strip() == rejected.strip():
            return None
    whole = "".join(columns)
    if len(whole) > reading.source.max_characters:
        return None
    try:
        check_text(whole, "")
    except Unfit:
        return None
    return len(whole)
