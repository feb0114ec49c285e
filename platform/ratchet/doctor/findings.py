"""What the doctor says of one thing it looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

Level = Literal["ok", "warning", "problem"]
_ORDER: tuple[Level, ...] = ("problem", "warning", "ok")


@dataclasses.dataclass(frozen=True)
class Finding:
    """`check` is the name of what was looked at, `found` what was there, `do` the remedy: empty where all is well."""

    check: str
    level: Level
    found: str
    do: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, do: str) -> Finding:
    """It works, and could work better or be safer."""
    return Finding(check, "warning", found, do)


def problem(check: str, found: str, do: str) -> Finding:
    """It must not stay like this: it is open to others, or a run would fail or come out wrong."""
    return Finding(check, "problem", found, do)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings; `ok` for no findings."""
    levels = {one.level for one in findings}
    return next((level for level in _ORDER if level in levels), "ok")


def findings_text(findings: Iterable[Finding]) -> str:
    """Return findings as lines for people: those that ask for something to be done last, where they are seen."""
    lines = []
    for one in sorted(findings, key=lambda one: -_ORDER.index(one.level)):
        lines.append(f"{one.level:<8} {one.check}: {one.found}")
        lines += [f"         → {one.do}"] if one.do else []
    return "\n".join(lines) + "\n"
