"""The matrix of families as data and as the table of docs/models.md.

`make families` measures them all, and writes `family_rows.json` and the page; `FAMILIES='llama gemma3'` measures some.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib.metadata
import json
import logging
import platform
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from family_rows import CELLS, Row

ROWS = Path(__file__).parent / "family_rows.json"
PAGE = Path(__file__).parents[2] / "docs/models.md"
BEGINS, ENDS = "<!-- made by `make families`; do not edit -->", "<!-- end -->"
_LIBRARIES = ("torch", "transformers", "peft")
_HEADS = ("family", *CELLS[:-3], "LoRA", *CELLS[-2:])


def versions() -> dict[str, str]:
    """Return what a measurement depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _LIBRARIES}}


def read_rows() -> dict[str, Row]:
    """Return what is expected of each family."""
    return {row["family"]: Row(**row) for row in json.loads(ROWS.read_text(encoding="utf-8"))["rows"]}


def write_rows(rows: Iterable[Row]) -> None:
    """Write what is expected from now on, and of which versions."""
    found = [dataclasses.asdict(row) for row in sorted(rows, key=lambda row: row.family)]
    lines = ",\n".join(f"  {json.dumps(one)}" for one in found)
    ROWS.write_text(f'{{"versions": {json.dumps(versions())}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def table() -> str:
    """Return the matrix in Markdown, with its totals, its versions and the reasons below it."""
    rows = list(read_rows().values())
    reasons = sorted({reason for row in rows for reason in map(row.reason, CELLS) if reason})
    number = {reason: at for at, reason in enumerate(reasons, 1)}
    works = collections.Counter(cell for row in rows for cell in CELLS if row.works(cell))
    made = json.loads(ROWS.read_text(encoding="utf-8"))["versions"]
    lines = [
        f"Measured with {', '.join(f'{name} {version}' for name, version in made.items())}, on a CPU.",
        "",
        f"| {' | '.join(_HEADS)} |",
        f"|{'---|' * len(_HEADS)}",
        *(f"| {' | '.join([f'`{row.family}`', *(_shown(row, cell, number) for cell in CELLS)])} |" for row in rows),
        f"| **{len(rows)}** | {' | '.join(str(works[cell]) for cell in CELLS)} |",
        "",
        *(f"{at}. {reason}" for reason, at in number.items()),
    ]
    return "\n".join(lines)


def _shown(row: Row, cell: str, number: dict[str, int]) -> str:
    if (reason := row.reason(cell)) is not None:
        return f"{row.verdict(cell)} ({number[reason]})"
    if cell == "lora" and row.reach is not None:
        return f"{row.reach} %"
    return str(getattr(row, cell)).removeprefix("yes, ")


def page_of(text: str) -> str:
    """Return a page with its table made again."""
    before, _, rest = text.partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    return f"{before}{BEGINS}\n\n{table()}\n\n{ENDS}{after}"


def main(arguments: list[str]) -> int:
    """Measure families, write what was found, and say what changed."""
    from family_configs import families
    from family_matrix import measure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="left out: all")
    asked = parser.parse_args(arguments).families or families()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    before = read_rows()
    rows = {name: row for name, row in before.items() if name in families()}
    for at, family in enumerate(asked, 1):
        rows[family] = measure(family)
        changes = rows[family].changes(before[family]) if family in before else ["new"]
        sys.stdout.write(f"{at} of {len(asked)}: {family}: {'; '.join(changes) or 'as before'}\n")
        sys.stdout.flush()
    write_rows(rows.values())
    PAGE.write_text(page_of(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
