"""The pages' templates: filled in with every text escaped, and a name that is not given an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ratchet.report.parts import Row


class Records:
    """Numbers the records that rows and charts name, in the order of their first mention."""

    def __init__(self) -> None:
        self.paths: dict[str, int] = {}

    def number(self, path: str) -> int:
        """Return the footnote number of a record's path."""
        return self.paths.setdefault(path, len(self.paths) + 1)


def row_notes(records: Records) -> Callable[[Row], list[int]]:
    """Return a function from a row to the footnote numbers of its records."""

    def notes(row: Row) -> list[int]:
        return [records.number(path) for path in row.records]

    return notes


def fill(template: str, **values: Any) -> str:
    """Return a template of this folder filled in with `values`, as a page that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = Records()
    return environment.get_template(template).render(
        records=records,
        notes=row_notes(records),
        svg=Markup,  # charts are made of our own SVG, in which matplotlib has escaped every text
        **values,
    )
