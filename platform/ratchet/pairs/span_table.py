"""The rows of a span as tables: plain ones of one form together, all others one by one, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from ratchet.pairs.checks import Unfit, characters_of, check_text
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.pair_table import CHARACTERS, ROWS, items_table, plain_table
from ratchet.pairs.plain import Forms, PlainForm, texts_at
from ratchet.pairs.source import Item, SourceReading, pairs_of, span_rows
from ratchet.pairs.span import SourceRow, Span

Placed = tuple[int, SourceRow, list[str]]
"""A row with its place among those that wait, and its texts."""


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
        if row.value is not None and (found := forms.of(row.value)) is not None:
            form, texts = found
            held.plain.setdefault(form, []).append((held.rows, row, texts))
            held.characters += sum(map(len, texts))
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
    tables, places, items = [], list[int](), list(held.items)
    for form, rows in held.plain.items():
        fit = rows if _all_fit(form, [one[2] for one in rows], reading) else _fitting(form, rows, reading)
        if len(fit) < len(rows):
            taken = {one[0] for one in fit}
            left = [one for one in rows if one[0] not in taken]
            items += [(at, item) for at, row, _ in left for item in pairs_of(row, reading)]
        if fit:
            texts = [one[2] for one in fit]
            prompt, chosen, rejected = _columns(form, texts)
            where = [(row.file, row.row) for _, row, _ in fit]
            tables.append(plain_table(form.roles, prompt, chosen, rejected, where, reading.source))
            places += [one[0] for one in fit]
    if items:
        tables.append(items_table([item for _, item in items], reading.source))
        places += [at for at, _ in items]
    if len(tables) == 1 and places == sorted(places):
        return tables[0]
    order = sorted(range(len(places)), key=places.__getitem__)  # stable: the items of a row stay in order
    return pa.concat_tables(tables).take(pa.array(order))


def _fitting(form: PlainForm, rows: Sequence[Placed], reading: SourceReading) -> list[Placed]:
    return [one for one in rows if _all_fit(form, [one[2]], reading)]


def _columns(form: PlainForm, texts: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str], list[str] | None]:
    rejected = None if form.rejected is None else texts_at(form.rejected, texts)
    return [texts_at(parts, texts) for parts in form.prompt], texts_at(form.chosen, texts), rejected


def _all_fit(form: PlainForm, texts: Sequence[Sequence[str]], reading: SourceReading) -> bool:
    """Say whether all rows with these texts, none of them blank, certainly pass the checks of pairs."""
    prompt, chosen, rejected = _columns(form, texts)
    columns = [*prompt, chosen, *([rejected] if rejected is not None else [])]
    if sum(max(map(len, column)) for column in columns) > reading.source.max_characters:
        return False
    if rejected is not None and any(one.strip() == other.strip() for one, other in zip(chosen, rejected, strict=True)):
        return False
    try:
        for column in columns:
            check_text("".join(column), "")
    except Unfit:
        return False
    return True
