"""Which layout rows have: the first signature of the table that they fit, or the one layout that finds them its own."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Unfit
from ratchet.pairs.columns import column_value, settled, value_kind
from ratchet.pairs.layouts import LAYOUTS, Fields, layout_of
from ratchet.pairs.meanings import flat, in_sight_of, meaning_of, says, use_of, verdict_in
from ratchet.pairs.nearest import nearest
from ratchet.pairs.row_kind import RowKind
from ratchet.pairs.shapes import ANSWERS
from ratchet.pairs.span import SourceRow
from ratchet.pairs.two_answers import two_answers
from ratchet.plan.columns import Where, path_steps, paths_of
from ratchet.plan.signatures.signature import Signature
from ratchet.plan.signatures.table import SIGNATURES

_log = logging.getLogger(__name__)
_TALK = ("text", "turns", "turn")
_LIST = ("list", "texts", "turns", "text")
_KINDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "completion", "output_1", "output_2"), _TALK),
    **dict.fromkeys(("instruction", "input", "system", "question"), ("text",)),
    **dict.fromkeys(("score_chosen", "score_rejected", "margin"), ("number", "text")),
    **dict.fromkeys(("responses", "scores", "history", "choices"), (*_LIST, "object")),
    "messages": ("turns", "turn"),
}
"""What a field may hold, where a signature does not say it of the column."""
_ANY = ("text", "number", "turns", "turn", "texts", "list", "object", "true or false")


@dataclasses.dataclass(frozen=True)
class RowKinds:
    """What the rows of a source that were looked at are: their kinds, the commonest first, and how many have each."""

    kinds: tuple[RowKind, ...]
    counts: tuple[int, ...]
    rows: int


def look_at(rows: Sequence[SourceRow], where: str, spoken_of: frozenset[str] = frozenset()) -> RowKinds:
    """Find out of which kinds rows are. `spoken_of` are the columns that the plan itself speaks of.

    Raises DataError with the columns seen where most rows fit no layout, or more than one, or where they cannot be
    used.
    """
    rows = [row for row in rows if row.value is not None]
    found = [_fitting(row.value or {}, spoken_of) for row in rows]
    votes = collections.Counter(kinds[0] for kinds in found if len(kinds) == 1)
    families = collections.Counter[str]()
    for kind, count in votes.items():
        families[_family(kind)] += count
    best = max(families, key=lambda name: families[name], default="")
    if families[best] * 2 <= len(found):
        raise _unknown(rows, found, where)
    # Stable: of equal counts that of the first row comes first.
    kinds = sorted((kind for kind in votes if _family(kind) == best), key=lambda kind: -votes[kind])
    if best == _REFUSED:
        raise _refusal(kinds[0], [row.value or {} for row in rows], where)
    if len(kinds) > 1:
        shown = ", ".join(f"{kind.name} ({votes[kind]:,} of {len(found):,})" for kind in kinds)
        _log.warning("%s: rows of %d kinds, each read as its own: %s", where, len(kinds), shown)
    groups = _groups(rows, found)
    if others := [_group(name, group, len(rows)) for name, group in groups.items() if name not in _names(kinds)]:
        _log.warning("%s: rows of other kinds, which are skipped: %s", where, "; ".join(others))
    return RowKinds(tuple(kinds), tuple(votes[kind] for kind in kinds), len(found))


def _names(kinds: Sequence[RowKind]) -> set[str]:
    return {kind.name for kind in kinds}


def _groups(rows: Sequence[SourceRow], found: Sequence[tuple[RowKind, ...]]) -> dict[str, list[SourceRow]]:
    """Return rows by the names of the kinds that they fit."""
    groups: dict[str, list[SourceRow]] = {}
    for row, kinds in zip(rows, found, strict=True):
        groups.setdefault(" or ".join(kind.name for kind in kinds) or "no layout", []).append(row)
    return groups


def _group(name: str, group: Sequence[SourceRow], of: int) -> str:
    return f"{name}: {len(group):,} of {of:,} rows, the first is {group[0].file}:{group[0].row}"


def detect(rows: Sequence[Fields], where: str) -> str:
    """Return the layout that reads most of `rows`. Raises DataError as `look_at` does."""
    return look_at([SourceRow(where, at, row) for at, row in enumerate(rows, 1)], where).kinds[0].layout


def row_kind_at(row: Fields, kinds: Sequence[RowKind], spoken_of: frozenset[str]) -> int | None:
    """Return which of the kinds found in its source a row is of, as detection found them; None where of no one."""
    names = _names(_fitting(row, spoken_of))
    return next((at for at, kind in enumerate(kinds) if names == {kind.name}), None)


def all_among(kinds: Sequence[RowKind], known: Sequence[RowKind]) -> bool:
    """Say whether each of `kinds` is one of `known`: of the same name and columns."""
    places = [(kind.name, kind.columns) for kind in known]
    return all((kind.name, kind.columns) in places for kind in kinds)


def named_kind(name: str) -> RowKind:
    """Return the kind of a layout or a signature that a plan names. Raises DataError where its rows cannot be used."""
    signature = _SIGNATURES.get(name)
    if signature is None:
        return RowKind(name, name)
    if signature.refusal:
        raise DataError(signature.refusal, where=f"layout: {name}", fix=_OTHER, code="data.no-layout")
    return _kind(signature)


_SIGNATURES: Mapping[str, Signature] = {signature.name: signature for signature in SIGNATURES}
_REFUSED = "refused"
_RENAMED = ", renamed"
_OTHER = "give other rows, or say with `columns:` what each column means"


def _kind(signature: Signature) -> RowKind:
    columns = tuple(signature.columns.items())
    return RowKind(signature.name, signature.reader or _REFUSED, columns, quiet=frozenset(signature.repeats))


def _family(kind: RowKind) -> str:
    return _REFUSED if kind.layout == _REFUSED else kind.gives.split()[0]


def _fitting(row: Fields, spoken_of: frozenset[str]) -> tuple[RowKind, ...]:
    """Return the kind of a row; several where it fits several layouts and no signature, none where it fits nothing."""
    present = frozenset(column for column, value in row.items() if value is not None)
    for signature in _candidates(present):
        if not (signature.refusal and spoken_of & signature.columns.keys()) and _fits(row, signature):
            return (_kind(signature),)
    # `where: [label == true]` makes demonstrations of single answers that are marked good or bad.
    judged = row if "label" not in spoken_of else {column: row[column] for column in row if column != "label"}
    if named := tuple(RowKind(name, name) for name in LAYOUTS if _is(judged, name)):
        return named
    # Spreadsheets write `Prompt`, and people `chosen answer`: once more by names without case and blanks.
    plain = {flat(column): column for column in present}
    if len(plain) < len(present) or all(name == column for name, column in plain.items()):
        return ()
    kinds = _fitting({name: row[plain[name]] for name in plain}, frozenset(map(flat, spoken_of)))
    return tuple(dataclasses.replace(kind, name=f"{kind.name}{_RENAMED}", renamed=True) for kind in kinds)


@functools.lru_cache(maxsize=1024)
def _candidates(present: frozenset[str]) -> tuple[Signature, ...]:
    """Return the signatures all of whose columns are among `present`, in the order of the table."""
    return tuple(one for one in SIGNATURES if _heads(one.name) <= present and not present & set(one.without))


@functools.cache
def _heads(name: str) -> frozenset[str]:
    signature = _SIGNATURES[name]
    paths = [
        path
        for field, where in signature.columns.items()
        if field not in signature.optional
        for path in paths_of(where)
    ]
    return frozenset(str(path_steps(path)[0]) for path in [*paths, *signature.types])


def _fits(row: Fields, signature: Signature) -> bool:
    try:
        return _holds_all(row, signature)
    except Unfit:  # a text where a minus asks for a number
        return False


def _holds_all(row: Fields, signature: Signature) -> bool:
    if any(row.get(column) is not None for column in signature.without):
        return False
    for path, kinds in signature.types.items():
        if value_kind(column_value(row, path)) not in kinds:
            return False
    for field, where in signature.columns.items():
        if field in signature.optional:
            continue
        found = [column_value(row, path) for path in paths_of(where)]
        if any(map(_is_absent, found)):
            return False
        if (
            isinstance(where, str)
            and where not in signature.types
            and value_kind(found[0]) not in _KINDS.get(field, _ANY)
        ):
            return False
        if field == "completion" and _is_verdict(where, found[0]):
            return False
    return True


def _is_verdict(where: Where, value: Any) -> bool:
    """Say whether what a column holds calls an answer good or bad, and so is none itself."""
    meaning = meaning_of(where, "demonstrations") if isinstance(where, str) else None
    return meaning is not None and meaning.judges and says(value, meaning)


def _is_absent(value: Any) -> bool:
    """Say whether nothing was found at a path, also where it leads into every item of a list."""
    return value is None or (isinstance(value, list) and bool(value) and all(item is None for item in value))


def _is(row: Fields, layout: str) -> bool:
    try:
        return layout_of(layout).detect(settled(row))
    except Unfit:
        return False


def _unknown(rows: Sequence[SourceRow], found: Sequence[tuple[RowKind, ...]], where: str) -> DataError:
    """Return the error of rows of which less than half are of one family."""
    values = [row.value for row in rows if row.value is not None]
    keys = ", ".join(sorted({str(key) for row in values for key in row})) or "none"
    several = [kinds for kinds in found if len(kinds) > 1]
    if len(several) * 2 > len(found):
        names = dict.fromkeys(kind.layout for kinds in several for kind in kinds)
        known = "\n".join(f"    {name}: {LAYOUTS[name].fields}" for name in names)
        what = f"the rows fit more than one layout; fields seen: {keys}\n{known}"
        return DataError(what, where=where, fix="name one with `layout:`", code="data.layouts")
    groups = _groups(rows, found)
    if len(groups) > 1:
        shown = "\n".join(f"    {_group(name, group, len(rows))}" for name, group in groups.items())
        what = f"the rows are of {len(groups)} kinds, and no kind has most of them; fields seen: {keys}\n{shown}"
        fix = "give each kind as a source of its own, or name the layout of those to be read"
        return DataError(what, where=where, fix=fix, code="data.no-layout")
    what, fix = nearest(values)
    if (marked := _marked(values)) is not None:
        column, use = marked
        what = f"these are single answers marked good or bad by {column}, not pairs; fields seen: {keys}"
        # The mark alone keeps rows of a known layout from being read.
        reads = any(_is({name: row[name] for name in row if name != column}, "instruction") for row in values)
        fix = use if reads else f"{use}, and {fix}"
        return DataError(what, where=where, fix=fix, code="data.no-layout")
    if (broken := _why_not_settled(values)) is not None:
        what, fix = f"  {broken}", "write conversations as lists of messages, or as the JSON of such lists"
    known = "\n".join(f"    {name}: {layout.fields}" for name, layout in LAYOUTS.items())
    return DataError(
        f"no layout fits these rows; fields seen: {keys}\n{what}\n{known}", where=where, fix=fix, code="data.no-layout"
    )


def _marked(values: Sequence[Fields]) -> tuple[str, str] | None:
    """Return the column that calls single answers good or bad, and its use; None where two answers stand side by side.

    Both may be of some row: where all are called good, there may be another reason why nothing fits.
    """
    held = {column: value_kind(value) for row in values for column, value in row.items() if value is not None}
    several = any(kind == "texts" for kind in held.values()) or bool(held.keys() & {*ANSWERS})
    if several or two_answers(held) is not None or any("chosen" in flat(column) for column in held):
        return None
    for row in values:
        for column, value in row.items():
            meaning = meaning_of(column, "demonstrations") or verdict_in(value, "demonstrations")
            meaning = None if meaning is None else in_sight_of(value, meaning)
            # A number under such a name may be the place of an answer, or its class.
            doubtful = meaning is not None and meaning.verdict and not isinstance(value, bool | str)
            if meaning is not None and meaning.judges and not doubtful and says(value, meaning):
                return column, use_of(column, value, meaning)
    return None


def _why_not_settled(values: Sequence[Fields]) -> str | None:
    """Return why the conversations of most rows cannot be read as what they look like; None where they can."""
    found = []
    for row in values:
        try:
            settled(row)
        except Unfit as unfit:
            found.append(unfit.detail)
    return found[0] if len(found) * 2 > len(values) else None


def _refusal(kind: RowKind, values: Sequence[Fields], where: str) -> DataError:
    keys = ", ".join(sorted({str(key) for row in values for key in row}))
    what = f"{_SIGNATURES[kind.name.removesuffix(_RENAMED)].refusal}; fields seen: {keys}"
    return DataError(what, where=where, fix=_OTHER, code="data.no-layout")
