"""A kind of rows: how its rows are read, and what one says."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.columns import column_value, fields_of, settled
from ratchet.pairs.fields import text_field
from ratchet.pairs.layouts import ChoiceQuestion, Fields, Reader, Sides, layout_of
from ratchet.pairs.meanings import Gives, flat, has_content
from ratchet.pairs.messages import tools_of
from ratchet.pairs.pair import Turn
from ratchet.plan.columns import Where, path_steps, paths_of

_PROMPTS = ("prompt", "question", "instruction", "query")
_ANSWERS = ("chosen", "rejected", "completion", "output", "response", "answer")
THOUGHTS: Mapping[str, tuple[str, ...]] = {
    "chosen": ("reasoning", "reasoning_chosen"),
    "rejected": ("reasoning_rejected",),
}
"""Fields that hold the thoughts of an answer, by the side that it is."""


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
    fields = fields_at(row, kind)
    if kind.repeats and (cut := _without_prompt(fields)) is not None:
        fields = cut
    sides = _with_thoughts((kind.reader or layout_of(kind.layout).read)(fields), fields, dict(kind.columns or ()))
    if not has_content(fields.get("prefix")) or "prefix" not in dict(kind.columns or ()):
        return sides
    if isinstance(sides, ChoiceQuestion):
        raise Unfit(Reason.MESSAGES, "the answers are options, which go on from no prefix")
    start = text_field(fields, "prefix")
    chosen, rejected = (_behind(start, side) if kind.begun else side for side in (sides.chosen, sides.rejected))
    if chosen is None or (rejected is None and sides.rejected is not None):
        raise Unfit(Reason.MESSAGES, "an answer does not begin with its prefix, as those of most rows do")
    return dataclasses.replace(sides, chosen=chosen, rejected=rejected, prefix=start)


def _with_thoughts(sides: Sides | ChoiceQuestion, fields: Fields, named: Mapping[str, Any]) -> Sides | ChoiceQuestion:
    """Return sides with the thoughts that columns of their own hold. Raises Unfit."""
    for side, keys in THOUGHTS.items():
        for key in keys:
            if key not in named or not has_content(fields.get(key)) or not isinstance(sides, Sides):
                continue
            answer = getattr(sides, side)
            if answer.reasoning is not None:
                raise Unfit(Reason.MESSAGES, f"an answer has thoughts of its own, and {key} has more")
            thinking = dataclasses.replace(answer, reasoning=text_field(fields, key).strip())
            sides = dataclasses.replace(sides, **{side: thinking})
    return sides


def _behind(start: str, answer: Turn | None) -> Turn | None:
    """Return what an answer says behind its beginning; None where it begins otherwise."""
    if answer is None or not answer.content.startswith(start):
        return None
    return dataclasses.replace(answer, content=answer.content[len(start) :])


def begun_by_prefix(row: Fields, kind: RowKind) -> bool:
    """Say whether a row's chosen answer begins with its prefix."""
    if "prefix" not in dict(kind.columns or ()):
        return False
    with contextlib.suppress(Unfit):  # a bad row is counted when it is read
        sides = sides_of(row, kind)
        start = getattr(sides, "prefix", None)
        return isinstance(sides, Sides) and start is not None and sides.chosen.content.startswith(start)
    return False


def fields_at(row: Fields, kind: RowKind) -> Fields:
    """Return a row's fields as its layout reads them. Raises Unfit."""
    row = _by_plain_names(row) if kind.renamed else row
    return settled(row) if kind.columns is None else fields_of(row, kind.columns)


def plain_names(row: Fields) -> dict[str, str]:
    """Return the columns that hold something, by their names without case and blanks."""
    return {flat(column): column for column, value in row.items() if value is not None}


def _by_plain_names(row: Fields) -> Fields:
    """Return a row by names without case and blanks. Raises Unfit where two columns have one such name."""
    names = plain_names(row)
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


def repeats_prompt(row: Fields, kind: RowKind) -> bool:
    """Say whether a row's answers begin with its whole prompt."""
    try:
        return _without_prompt(fields_at(row, kind)) is not None
    except Unfit:
        return False
