"""A proof as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from ratchet.prove.compare import Number
from ratchet.prove.plan import Proof

_HEAD = ("step", "update", "number", "trainer", "plain float64", "difference", "allowed", "")


def proof_lines(proof: Proof) -> list[str]:
    """Return the table, and below it what was not proved, notes, and the verdict."""
    said = numbers_table(proof.numbers)
    said += ["", *(f"not proved: {step}: {why}" for step, why in proof.unproved)] if proof.unproved else []
    said += ["", *(f"{step}: {note}" for step, note in proof.notes)] if proof.notes else []
    outside = len(proof.outside)
    verdict = f"{outside} outside" if outside else "all within what the precision allows"
    return [*said, "", f"{len(proof.numbers)} numbers, {verdict}: {proof.path}"]


def numbers_table(numbers: Sequence[Number]) -> list[str]:
    """Return aligned lines, one for each number, with what is odd about it at the end."""
    rows = [_HEAD, *(_row(number) for number in numbers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    text = {0, 2, 7}
    return [
        "  ".join(
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(number: Number) -> tuple[str, ...]:
    verdict = "ok" if number.ok else "OUTSIDE"
    return (
        number.step,
        str(number.update),
        number.name,
        f"{number.trainer:.8g}",
        f"{number.plain:.8g}",
        f"{number.difference:.2g}",
        f"{number.allowed:.2g}",
        f"{verdict}  {number.note}".rstrip(),
    )
