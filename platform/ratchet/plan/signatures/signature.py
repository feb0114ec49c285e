"""A signature: the columns that the rows of a data set have, and what each means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from ratchet.plan.columns import Columns, PreferredBy, Where

Kind = Literal["text", "number", "turns", "turn", "texts", "list", "object", "true or false"]
"""What a value is: `turns` are messages (also as JSON text, or as one list for each key), `turn` is one message."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """One row of the table.

    `columns` leads from the fields that the layout `reader` reads to the columns that hold them; those in `optional`
    may be absent. `types` and `without` say more of what a row must hold and must not. With `refusal` the rows are
    known and cannot be used as they are; it says why, and what to do. `repeats` are columns that say again what another
    says, and need not be read. `seen` says where such rows are found.
    """

    name: str
    reader: str
    columns: Mapping[str, Where]
    seen: str
    optional: frozenset[str] = frozenset()
    types: Mapping[str, tuple[Kind, ...]] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()
    refusal: str = ""
    repeats: tuple[str, ...] = ()


def known(
    name: str,
    reader: str,
    columns: Mapping[str, Where],
    seen: str,
    *,
    types: Mapping[str, tuple[Kind, ...] | Kind] | None = None,
    without: tuple[str, ...] = (),
    repeats: tuple[str, ...] = (),
) -> Signature:
    """Return a row of the table. A field that ends with `?` may be absent.

    Where the system text is in `system`, it may be in `system_prompt` as well: layouts read both.
    """
    if columns.get("system?") == "system":
        columns = {**columns, "system_prompt?": "system_prompt"}
    given = {field.removesuffix("?"): where for field, where in columns.items()}
    kinds = {at: (kind,) if isinstance(kind, str) else kind for at, kind in (types or {}).items()}
    optional = frozenset(field[:-1] for field in columns if field.endswith("?"))
    return Signature(name, reader, given, seen, optional, kinds, without, repeats=repeats)


def refused(
    name: str,
    columns: tuple[str, ...],
    why: str,
    seen: str,
    *,
    types: Mapping[str, tuple[Kind, ...] | Kind] | None = None,
    without: tuple[str, ...] = (),
) -> Signature:
    """Return a row of the table for rows that are known and not used, with why and what to do."""
    kinds = {at: (kind,) if isinstance(kind, str) else kind for at, kind in (types or {}).items()}
    return Signature(name, "", {column: column for column in columns}, seen, frozenset(), kinds, without, why)


NO_ROWS = (
    "these make no pair and no demonstration: name prompt, chosen and rejected; or prompt and completion; or messages; "
    "or prompt, responses and scores; or prompt, output_1, output_2 and preference; or question, choices and answer"
)


Groups: TypeAlias = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a layout takes: of each group in `needs` one field, of each in `may` one or none, and all of `also`."""

    reader: str
    needs: Groups
    may: Groups = ()

    def taken(self, given: Iterable[str]) -> set[str]:
        """Return the fields that are read of those that are given."""
        held = set(given)
        found = {next(iter(one for one in group if one in held), "") for group in (*self.needs, *self.may)}
        # An input and a history belong to an instruction, which a prompt beside them is.
        instructed = "instruction" in found or ("prompt" in found and _instructs(self))
        return held & {*found, *self.also, *(("input", "history") if instructed else ())}

    @property
    def also(self) -> tuple[str, ...]:
        """The fields that are read beside all others."""
        if self.reader == "choices":
            return ("system", "tools")
        sides = {field for group in self.needs for field in group} & {"chosen", "rejected"}
        thoughts = (
            ("reasoning",) if self.reader == "instruction" else tuple(f"reasoning_{one}" for one in sorted(sides))
        )
        return ("system", "prefix", *thoughts, "tools")


def _instructs(reading: Reading) -> bool:
    return any("instruction" in group for group in (*reading.needs, *reading.may)) and reading.reader != "choices"


def reader_of(columns: Columns) -> str | None:
    """Return the layout that reads the fields which a plan names; None where they make no pair and no demonstration."""
    found = _reading_of(fields_named(columns), "auto")
    return None if found is None else found.reader


def fields_named(columns: Columns) -> dict[str, Where]:
    """Return the fields that a plan names, a prompt as the instruction where an input or a history belongs to it."""
    given = columns.given()
    if not given.keys() & {"input", "history"} or "instruction" in given or "choices" in given:
        return given
    return {"instruction" if field == "prompt" else field: where for field, where in given.items()}


def not_taken(columns: Columns, layout: str) -> str:
    """Return which fields that a plan names its layout does not take, and what it takes; nothing where it takes all."""
    named = columns.given() if layout != "auto" else fields_named(columns)
    reading = _reading_of(named, layout)
    if reading is None:
        return ""
    lost = [field for field in named if field not in reading.taken(named)]
    takes = [" or ".join(group) for group in (*reading.needs, *reading.may)]
    instructed = ["input", "history"] if _instructs(reading) or reading.reader == "alpaca" else []
    fuller = next((one for one in _READINGS if layout == "auto" and one.taken(named) == {*named}), None)
    needs = "" if fuller is None else ", ".join(" or ".join(group) for group in fuller.needs)
    fix = f"; {fuller.reader} takes all of these and needs {needs}" if fuller is not None else ""
    return (
        f"{', '.join(lost)} would not be read: the layout {reading.reader} takes "
        f"{', '.join([*takes, *instructed, *reading.also])}{fix}; leave out what it does not take"
        if lost
        else ""
    )


def _reading_of(given: Mapping[str, Where], layout: str) -> Reading | None:
    rows = [one for one in _READINGS if layout in ("auto", one.reader)]
    met = next((one for one in rows if all(given.keys() & {*group} for group in one.needs)), None)
    return met if met is not None or layout == "auto" else next(iter(rows), None)


_ASKED = ("prompt", "instruction")
_ANY = ("prompt", "question", "instruction", "messages")
_BOTH = (("chosen",), ("rejected",))
_READINGS = (
    Reading("scored", (("prompt", "question", "instruction"), ("responses",), ("scores",))),
    Reading("annotated", (_ASKED, ("output_1",), ("output_2",), ("preference",))),
    Reading("choices", (("question", "prompt", "instruction"), ("choices",), ("answer",))),
    Reading("scored", (*_BOTH, ("score_chosen",), ("score_rejected",)), (_ANY,)),
    Reading("scored", (*_BOTH, ("margin",)), (_ANY,)),
    Reading("sharegpt", (("messages",), *_BOTH)),
    Reading("reply", (("messages",), ("rejected",))),
    Reading("alpaca", (("instruction",), *_BOTH)),
    Reading("pair", (("prompt", "question"), *_BOTH)),
    Reading("implicit_prompt", _BOTH),
    Reading("instruction", (("messages",),)),
    Reading("instruction", (_ASKED, ("completion",))),
    Reading("instruction", (("question",), ("answer",))),
)
"""Layouts and what they take; the first whose needs are met reads the fields that a plan names."""


def verdict(
    column: str, first: tuple[object, ...], second: tuple[object, ...], tie: tuple[object, ...] = ()
) -> PreferredBy:
    """Return which values of a column call the first of two answers better, the second, or neither."""
    return PreferredBy.model_validate({"column": column, "first": first, "second": second, "tie": tie})
