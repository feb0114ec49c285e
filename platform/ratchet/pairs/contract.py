"""The contract about columns: of every row, which are read and which are not, and none that means something is lost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Unfit
from ratchet.pairs.columns import column_value, settled
from ratchet.pairs.fields import has
from ratchet.pairs.layouts import Fields, layout_of
from ratchet.pairs.meanings import (
    Meaning,
    flat,
    has_content,
    in_sight_of,
    meaning_of,
    says,
    use_of,
    verdict_in,
)
from ratchet.pairs.row_kind import RowKind, begun_by_prefix, fields_at, plain_names, repeats_prompt
from ratchet.pairs.span import SourceRow
from ratchet.plan.columns import Columns, PreferredBy, path_steps, paths_of
from ratchet.plan.outline import close, hint


class _Watched(dict[str, Any]):
    """A row that keeps the names of what was asked for and is there."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def columns_used(row: Fields, kind: RowKind) -> set[str]:
    """Return the columns of a row that its reading uses, parts of a column as `column.part`."""
    if not kind.renamed:
        return _used(row, kind)
    names = plain_names(row)
    used = (name.partition(".") for name in _used({name: row[column] for name, column in names.items()}, kind))
    return {f"{names.get(head, head)}{dot}{part}" for head, dot, part in used}


def _used(row: Fields, kind: RowKind) -> set[str]:
    if kind.columns is not None:
        paths = (path for where in (*dict(kind.columns).values(), kind.tools) for path in paths_of(where))
        return {_named(path, row) for path in paths}
    late: tuple[str, ...] = ("tools",)
    try:
        watched = _Watched(row)
        watched.update(settled(row))
        layout_of(kind.layout).read(watched)
    except Unfit:
        # A bad row is counted when it is read. What was asked for before it turned out as one counts here, and what
        # layouts ask for behind the conversation.
        late = ("tools", "system", "system_prompt")
    return {column for column in (*watched.asked, *late) if has(row, column)}


def _named(path: str, row: Fields) -> str:
    if path in row:
        return path
    steps = path_steps(path)
    return (
        f"{steps[0]}.{steps[1]}" if len(steps) > 1 and isinstance(steps[1], str) and steps[1] != "*" else str(steps[0])
    )


def columns_of(row: Fields, opened: Iterable[str] = ()) -> dict[str, Any]:
    """Return a row's columns with their values, those that are `opened` by their parts."""
    found: dict[str, Any] = {}
    for column, value in row.items():
        if column in opened and isinstance(value, Mapping):
            found |= {f"{column}.{part}": inner for part, inner in value.items()}
        else:
            found[column] = value
    return found


def _opened(row: Fields, kind: RowKind) -> list[str]:
    """Return the columns of a row of which only a part is read."""
    if not kind.opened:
        return []
    return [
        column
        for column, value in row.items()
        if isinstance(value, Mapping) and (flat(column) if kind.renamed else column) in kind.opened
    ]


def with_contract(
    kind: RowKind, rows: Sequence[Fields], spoken_of: frozenset[str], left_out: tuple[str, ...] = ()
) -> RowKind:
    """Return a kind with the columns that its rows read and do not read.

    `spoken_of` are those that a plan speaks of, `left_out` those that it took out of the rows.
    """
    read: dict[str, None] = {}
    others: dict[str, None] = {}
    judged: set[str] = set()
    for row in rows:
        used = columns_used(row, kind)
        for column, value in columns_of(row, _opened(row, kind)).items():
            if column in used:
                read[column] = None
            elif has_content(value):
                others[column] = None
                judged |= {column} if verdict_in(value, kind.gives) is not None else set()
    unread = tuple(column for column in others if column not in read)
    harmless = {column for column in unread if meaning_of(column, kind.gives) is None} - judged
    quiet = frozenset({*read, *harmless, *spoken_of, *kind.opened, *kind.quiet})
    # One answer may well begin with its question. Where most do, it is how the rows are written.
    repeats = sum(repeats_prompt(row, kind) for row in rows) * 2 > len(rows)
    found = dataclasses.replace(kind, read=tuple(read), not_read=(*unread, *left_out), quiet=quiet, repeats=repeats)
    return dataclasses.replace(found, begun=sum(begun_by_prefix(row, found) for row in rows) * 2 > len(rows))


def with_reader(kind: RowKind, rows: Sequence[Fields], where: str) -> RowKind:
    """Return a kind with the reader that its rows need. Raises DataError where they do not say how they are read."""
    if not {"preference", "chosen", "rejected"} & dict(kind.columns or ()).keys():
        _check_sides(rows, where)
    alike = layout_of(kind.layout).alike
    # A plan that lists the values of a verdict has said what each means.
    if alike is None or (
        kind.name == "columns" and isinstance(dict(kind.columns or ()).get("preference"), PreferredBy)
    ):
        return kind
    found = []
    for row in rows:
        with contextlib.suppress(Unfit):  # a bad row is counted when it is read
            found.append(fields_at(row, kind))
    try:
        return dataclasses.replace(kind, reader=alike(found))
    except Unfit as unfit:
        raise DataError(unfit.detail, where=where, fix=layout_of(kind.layout).remedy, code="data.answers") from unfit


def _check_sides(rows: Sequence[Fields], where: str) -> None:
    """Raise DataError where the sides of most rows are the names of columns that hold the answers."""
    sides = [(row.get("chosen"), row.get("rejected")) for row in rows]
    named = [
        (str(chosen), str(rejected))
        for row, (chosen, rejected) in zip(rows, sides, strict=True)
        if isinstance(chosen, str) and isinstance(rejected, str) and has_content(row.get(chosen)) and chosen != rejected
    ]
    if named and len(named) * 2 > len(rows):
        first, second = sorted(named[0])
        raise DataError(
            f"chosen and rejected are names of columns, such as {named[0][0]}: the answers lie there",
            where=where,
            fix=f"say which is which, `columns: {{prompt: …, output_1: {first}, output_2: {second}, preference: "
            f"{{column: chosen, first: [{first}], second: [{second}]}}}}`",
            code="data.no-layout",
        )


def unread(row: Fields, kind: RowKind) -> tuple[str, Any, Meaning] | None:
    """Return a column of a row that means something, has content and is not read; None where there is none."""
    opened = _opened(row, kind)
    if not opened and kind.quiet.issuperset(row):
        return None
    used: set[str] | None = None
    for column, value in columns_of(row, opened).items():
        if column in kind.quiet:
            continue
        meaning = meaning_of(column, kind.gives) or verdict_in(value, kind.gives)
        if meaning is not None and says(value, meaning):
            # Once more, as seldom as it is: a row may read what those before it did not have.
            used = columns_used(row, kind) if used is None else used
            if column not in used:
                return column, value, meaning
    return None


def check_unread(row: Fields, kind: RowKind, at: SourceRow, count: str = "") -> None:
    """Raise DataError where a row holds a column that means something and is not read."""
    if (found := unread(row, kind)) is None:
        return
    column, value, meaning = found
    shown = f"true or false ({str(value).lower()})" if isinstance(value, bool) else f"{value!r:.60}"
    meaning = in_sight_of(value, meaning)
    use = use_of(column, value, meaning)
    raise DataError(
        f"the column {column} is not read{count}, and it holds {meaning.what}: {shown}",
        where=f"{at.file}:{at.row}",
        fix=f"to use it: {use}; to leave it out: `ignore: [{column}]`",
        code="data.unread",
    )


def _holds(row: Fields, path: str) -> bool:
    try:
        return column_value(row, path) is not None
    except Unfit:  # something is there, and the row is skipped when it is read
        return True


def check_found(columns: Columns, rows: Sequence[Fields], where: str) -> None:
    """Raise DataError where a plan names a column that no row has."""
    seen = list(dict.fromkeys(str(column) for row in rows for column in columns_of(row)))
    for field, at in columns.given().items():
        for path in paths_of(at):
            if not any(_holds(row, path) for row in rows):
                head = str(path_steps(path)[0])
                held = f"; there are {', '.join(seen[:20])}" if head not in seen else ""
                raise DataError(
                    f"columns.{field} is {path}, and none of the {len(rows):,} rows looked at has that"
                    f"{hint(close(head, seen)) if head not in seen else ''}{held}",
                    where=where,
                    fix="mend the path, or leave the field out",
                    code="data.no-column",
                )
