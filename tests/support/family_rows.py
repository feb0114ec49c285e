"""One row of the matrix of families: what became of each thing that was tried, and whether it got worse."""

from __future__ import annotations

import dataclasses

CELLS = ("passport", "loads", "shares", "exact", "gradient", "trains", "reloads", "lora", "merges", "evaluates")
_RANKS = {"yes": 3, "no": 2, "-": 1, "fails": 0}
_LOST = 2
"""Percent of the parameters by which adapters may reach less: a family's own sizes change with transformers."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Each cell begins with `yes`, `no` (refused, with the code and the reason) or `fails` (any other error).

    `-` is what was not tried, as something that it takes did not work. `reach`: the percentage of what text reaches
    that default adapters are on.
    """

    family: str
    kind: str
    passport: str = "-"
    loads: str = "-"
    shares: str = "-"
    exact: str = "-"
    gradient: str = "-"
    trains: str = "-"
    reloads: str = "-"
    lora: str = "-"
    merges: str = "-"
    evaluates: str = "-"
    reach: int | None = None

    def verdict(self, cell: str) -> str:
        """Return the word that a cell begins with."""
        word = str(getattr(self, cell)).partition(":")[0].partition(",")[0]
        assert word in _RANKS, f"{self.family}: {cell} begins with {word!r}"
        return word

    def works(self, cell: str) -> bool:
        """Say whether that was done."""
        return self.verdict(cell) == "yes"

    def reason(self, cell: str) -> str | None:
        """Return why it was not, if there is a reason."""
        return str(getattr(self, cell)).partition(": ")[2] or None

    def worse(self, expected: Row) -> list[str]:
        """Return in what this row is worse than another of the same family."""
        found = [cell for cell in CELLS if _RANKS[self.verdict(cell)] < _RANKS[expected.verdict(cell)]]
        said = [f"{cell} was {getattr(expected, cell)!r}, is {getattr(self, cell)!r}" for cell in found]
        if (self.reach or 0) < (expected.reach or 0) - _LOST:
            said.append(f"adapters reached {expected.reach} %, and now {self.reach} %")
        ways = ("padded", "contexts shared", "in a forest")
        now, then = (next((at for at, way in enumerate(ways) if way in row.evaluates), -1) for row in (self, expected))
        return [*said, f"evaluates {ways[then]} no more"] if now < then and self.works("evaluates") else said

    def changes(self, before: Row) -> list[str]:
        """Return every cell that differs from a row before."""
        both = ((cell, getattr(before, cell), getattr(self, cell)) for cell in (*CELLS, "reach"))
        return [f"{cell} was {then!r}, is {now!r}" for cell, then, now in both if then != now]
