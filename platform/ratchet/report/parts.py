"""What the report is laid out in: sections of text and tables, and the drawings that the page adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ratchet.report.charts.training import Chart
from ratchet.report.tables.training import Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report: text, and tables; `cautions` are set apart above them."""

    key: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawings:
    """A section's charts, which only the page has: `wide` ones over `small` ones, and how to read them."""

    wide: tuple[Chart, ...]
    small: tuple[Chart, ...]
    key: str = ""

    @classmethod
    def of(cls, wide: Sequence[Chart | None], small: Sequence[Chart], key: str = "") -> Drawings:
        return cls(tuple(one for one in wide if one is not None), tuple(small), key)


def section(key: str, title: str, text: str = "", *tables: Table | None, cautions: Sequence[str] = ()) -> Section:
    """Make a section of the tables that there are."""
    return Section(key, title, text, tuple(one for one in tables if one is not None), tuple(cautions))
