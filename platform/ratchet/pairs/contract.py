"""The contract about columns: of every row, which are read and which are not, and none that means something is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.columns import column_value, fields_of, settled
from ratchet.pairs.fields import has, text_field
from ratchet.pairs.layouts import ChoiceQuestion, Fields, Reader, Sides, layout_of
from ratchet.pairs.meanings import Gives, Meaning, flat, good_literal, has_content, in_sight_of, meaning_of, says
from ratchet.pairs.messages import tools_of
from ratchet.pairs.pair import Turn
from ratchet.pairs.span import SourceRow
from ratchet.plan.columns import Columns, PreferredBy, Where, path_steps, paths_of
from ratchet.plan.outline import close, hint

_PROMPTS = ("prompt", "question", "instruction", "query")
_ANSWERS = ("chosen", "rejected", "completion", "output", "response", "answer")


@dataclasses.dataclass(frozen=True)
class RowKind:
    """How the rows of one kind are read: by which layout, and from which columns (None: those that it looks for).

    `read` and `not_read` are the columns that rows of this kind have, as `quiet` are those that need no look at all.
    `repeats`: its answers begin with the whole prompt, which is cut off them. `begun`: so do they with their prefix.
    `reader` reads them where the layout needs rows of the source to know how. `renamed`: its columns are known by their
    names without case and blanks.
    """

    name: str
    layout: str
    columns: tuple[tuple[str, Where], ...] | None = None
    read: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()
    quiet: frozenset[str] = frozenset()
    repeats: bool = False
    begun: bool = False
    reader: Reader | None = None
    renamed: bool = False

    @property
    def gives(self) -> Gives:
        return layout_of(self.layout).gives

    @functools.cached_property
    def opened(self) -> frozenset[str]:
        """Columns of which only a part is read: what else they hold counts as columns of their own."""
        paths = [path_steps(path) for _, where in self.columns or () for path in paths_of(where)]
        whole = {steps[0] for steps in paths if len(steps) == 1}
        return frozenset(
            str(steps[0]) for steps in paths if len(steps) > 1 and isinstance(steps[1], str) and steps[1] != "*"
        ) - frozenset(map(str, whole))

    @functools.cached_property
    def tools(self) -> Where:
        """Where a kind of rows has its tools: in the column of that name, where nothing else is said."""
        return dict(self.columns or ()).get("tools", "tools")


def sides_of(row: Fields, kind: RowKind) -> Sides | ChoiceQuestion:
    """Return what a row says. Raises Unfit."""
    fields = _fields(row, kind)
    if kind.repeats and (cut := _without_prompt(fields)) is not None:
        fields = cut
    sides = (kind.reader or layout_of(kind.layout).read)(fields)
    if not has_content(fields.get("prefix")) or "prefix" not in dict(kind.columns or ()):
        return sides
    if isinstance(sides, ChoiceQuestion):
        raise Unfit(Reason.MESSAGES, "the answers are options, which go on from no prefix")
    start = text_field(fields, "prefix")
    chosen, rejected = (_behind(start, side) if kind.begun else side for side in (sides.chosen, sides.rejected))
    if chosen is None or (rejected is None and sides.rejected is not None):
        raise Unfit(Reason.MESSAGES, "an answer does not begin with its prefix, as those of most rows do")
    return dataclasses.replace(sides, chosen=chosen, rejected=rejected, prefix=start)


def _behind(start: str, answer: Turn | None) -> Turn | None:
    """Return what an answer says behind its beginning; None where it begins otherwise."""
    if answer is None or not answer.content.startswith(start):
        return None
    return dataclasses.replace(answer, content=answer.content[len(start) :])


def _begun(row: Fields, kind: RowKind) -> bool:
    if "prefix" not in dict(kind.columns or ()):
        return False
    with contextlib.suppress(Unfit):  # a bad row is counted when it is read
        sides = sides_of(row, kind)
        start = getattr(sides, "prefix", None)
        return isinstance(sides, Sides) and start is not None and sides.chosen.content.startswith(start)
    return False


def _fields(row: Fields, kind: RowKind) -> Fields:
    row = _by_plain_names(row) if kind.renamed else row
    return settled(row) if kind.columns is None else fields_of(row, kind.columns)


def _plain_names(row: Fields) -> dict[str, str]:
    return {flat(column): column for column, value in row.items() if value is not None}


def _by_plain_names(row: Fields) -> Fields:
    """Return a row by names without case and blanks. Raises Unfit where two columns have one such name."""
    names = _plain_names(row)
    if len(names) < sum(value is not None for value in row.values()):
        raise Unfit(
            Reason.MISSING, "two columns have one name, up to case and blanks: say with `columns:` which to read"
        )
    return {name: row[column] for name, column in names.items()}


def _without_prompt(fields: Fields) -> Fields | None:
    """Return fields whose answers lack the prompt at their head, or None where an answer does not begin with it."""
    prompt = next((fields[key] for key in _PROMPTS if fields.get(key) is not None), None)
    answers = {key: fields[key] for key in _ANSWERS if fields.get(key) is not None}
    texts = [text for text in answers.values() if isinstance(text, str)]
    if not isinstance(prompt, str) or not (head := prompt.strip()) or not texts or len(texts) < len(answers):
        return None
    if not all(text.lstrip().startswith(head) for text in texts):
        return None
    return {**fields, **{key: text.lstrip()[len(head) :].lstrip() for key, text in answers.items()}}


def tools_offered(row: Fields, kind: RowKind) -> str | None:
    """Return the JSON of the tools that a row's prompt offers, or None. Raises Unfit."""
    row = _by_plain_names(row) if kind.renamed else row
    if isinstance(kind.tools, str):
        value = column_value(row, kind.tools)
    else:
        value = fields_of(row, [("tools", kind.tools)])["tools"]
    if isinstance(kind.tools, tuple):
        value = [tool for tool in value if has_content(tool)] or None
    return None if value is None else tools_of({"tools": value})


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
    names = _plain_names(row)
    used = (name.partition(".") for name in _used({name: row[column] for name, column in names.items()}, kind))
    return {f"{names.get(head, head)}{dot}{part}" for head, dot, part in used}


def _used(row: Fields, kind: RowKind) -> set[str]:
    if kind.columns is not None:
        paths = (path for where in (*dict(kind.columns).values(), kind.tools) for path in paths_of(where))
        return {_named(path, row) for path in paths}
    # A bad row is counted when it is read; what was asked for before it turned out as one is what counts here.
    with contextlib.suppress(Unfit):
        watched = _Watched(row)
        watched.update(settled(row))
        layout_of(kind.layout).read(watched)
    return {column for column in (*watched.asked, "tools") if has(row, column)}


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
    for row in rows:
        used = columns_used(row, kind)
        for column, value in columns_of(row, _opened(row, kind)).items():
            if column in used:
                read[column] = None
            elif has_content(value):
                others[column] = None
    unread = tuple(column for column in others if column not in read)
    harmless = {column for column in unread if meaning_of(column, kind.gives) is None}
    quiet = frozenset({*read, *harmless, *spoken_of, *kind.opened, *kind.quiet})
    # One answer may well begin with its question. Where most do, it is how the rows are written.
    repeats = sum(_repeats(row, kind) for row in rows) * 2 > len(rows)
    found = dataclasses.replace(kind, read=tuple(read), not_read=(*unread, *left_out), quiet=quiet, repeats=repeats)
    return dataclasses.replace(found, begun=sum(_begun(row, found) for row in rows) * 2 > len(rows))


def with_reader(kind: RowKind, rows: Sequence[Fields], where: str) -> RowKind:
    """Return a kind with the reader that its rows need. Raises DataError where they do not say how they are read."""
    alike = layout_of(kind.layout).alike
    # A plan that lists the values of a verdict has said what each means.
    if alike is None or (
        kind.name == "columns" and isinstance(dict(kind.columns or ()).get("preference"), PreferredBy)
    ):
        return kind
    found = []
    for row in rows:
        with contextlib.suppress(Unfit):  # a bad row is counted when it is read
            found.append(_fields(row, kind))
    try:
        return dataclasses.replace(kind, reader=alike(found))
    except Unfit as unfit:
        raise DataError(unfit.detail, where=where, fix=layout_of(kind.layout).remedy, code="data.answers") from unfit


def _repeats(row: Fields, kind: RowKind) -> bool:
    try:
        return _without_prompt(_fields(row, kind)) is not None
    except Unfit:
        return False


def unread(row: Fields, kind: RowKind) -> tuple[str, Any, Meaning] | None:
    """Return a column of a row that means something, has content and is not read; None where there is none."""
    opened = _opened(row, kind)
    if not opened and kind.quiet.issuperset(row):
        return None
    used: set[str] | None = None
    for column, value in columns_of(row, opened).items():
        if column in kind.quiet:
            continue
        meaning = meaning_of(column, kind.gives)
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
    use = meaning.use.format(column=column, value=good_literal(value))
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
