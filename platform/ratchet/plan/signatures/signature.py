"""A signature: the columns that the rows of a data set have, and what each means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

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


def reader_of(columns: Columns) -> str | None:
    """Return the layout that reads the fields which a plan names; None where they make no pair and no demonstration."""
    given = columns.given().keys()
    return next((reader for reader, needs in _NEEDS if all(given & set(need) for need in needs)), None)


_ASKED = ("prompt", "instruction")
_BOTH = (("chosen",), ("rejected",))
_NEEDS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("scored", (_ASKED, ("responses",), ("scores",))),
    ("annotated", (_ASKED, ("output_1",), ("output_2",), ("preference",))),
    ("choices", (("question",), ("choices",), ("answer",))),
    ("scored", (*_BOTH, ("score_chosen",), ("score_rejected",))),
    ("scored", (*_BOTH, ("margin",))),
    ("sharegpt", (("messages",), *_BOTH)),
    ("reply", (("messages",), ("rejected",))),
    ("alpaca", (("instruction",), *_BOTH)),
    ("pair", (("prompt",), *_BOTH)),
    ("implicit_prompt", _BOTH),
    ("instruction", (("messages",),)),
    ("instruction", (_ASKED, ("completion",))),
)
"""Layouts, and of which fields each needs one; the first whose needs are met reads them."""


def verdict(
    column: str, first: tuple[object, ...], second: tuple[object, ...], tie: tuple[object, ...] = ()
) -> PreferredBy:
    """Return which values of a column call the first of two answers better, the second, or neither."""
    return PreferredBy.model_validate({"column": column, "first": first, "second": second, "tie": tie})
