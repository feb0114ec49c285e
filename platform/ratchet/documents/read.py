"""Read `report.json`, `scores.json` and `sweep.json`, and prove their shape, so that tables and charts need not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ratchet.documents import report, scores, sweep
from ratchet.documents.report import Report
from ratchet.documents.scores import SuiteScores
from ratchet.documents.sweep import SweepOutcome
from ratchet.errors import DataError
from ratchet.store.codec import from_values, read_document

_ABSENT = "give such a folder: <storage>/runs/<plan> or <storage>/sweeps/<sweep>"
_REPORT_KEYS = "documents.report says what each key holds"
_SWEEP_KEYS = "docs/sweeps.md says what each key holds"


def load_report(path: Path) -> Report:
    """Read a report.json. Raises DataError where it is absent, not JSON, or not a report."""
    return read_document(Report, path, absent=_ABSENT, fix=_REPORT_KEYS)


def read_report(values: Any, *, where: str = report.NAME) -> Report:
    """Return JSON values as a Report. Raises DataError naming the dotted key that is wrong."""
    return from_values(Report, values, where=where, fix=_REPORT_KEYS)


def read_scores(values: Any, *, where: str = scores.NAME) -> SuiteScores:
    """Return JSON values as SuiteScores. Raises DataError naming the dotted key that is wrong."""
    return from_values(SuiteScores, values, where=where, fix="docs/scores.md says what each key holds")


def load_sweep(path: Path) -> SweepOutcome:
    """Read a sweep.json. Raises DataError where it is absent, not JSON, or not a sweep that holds together."""
    found = read_document(SweepOutcome, path, absent=_ABSENT, fix=_SWEEP_KEYS)
    return checked_sweep(found, str(path))


def read_sweep(values: Any, *, where: str = sweep.NAME) -> SweepOutcome:
    """Return JSON values as a SweepOutcome whose parts name only one another.

    Raises DataError naming the dotted key that is wrong, or the id that nothing has.
    """
    return checked_sweep(from_values(SweepOutcome, values, where=where, fix=_SWEEP_KEYS), where)


def checked_sweep(found: SweepOutcome, where: str) -> SweepOutcome:
    """Return a sweep. Raises DataError where an id stands twice, names nothing, or a stage starts from itself."""
    fault = _version_fault(found) or _name_fault(found) or _circle(found)
    if fault is not None:
        raise DataError(fault, where=where, fix=_SWEEP_KEYS)
    return found


def _version_fault(found: SweepOutcome) -> str | None:
    return None if found.format == sweep.FORMAT else f"format: expected {sweep.FORMAT}, got {found.format}"


def _name_fault(found: SweepOutcome) -> str | None:
    """Say which id stands twice, or names nothing."""
    ids = {
        kind: [one.id for one in some]
        for kind, some in (("points", found.points), ("trials", found.trials), ("stages", found.stages))
    }
    for kind, some in ids.items():
        if len(set(some)) < len(some):
            twice = Counter(some).most_common(1)[0][0]
            return f"{kind}: {twice[:60]!r} is there twice"
    named = [
        *(("points", "trials.point", one.point) for one in found.trials),
        *(("stages", "trials.steps", step) for one in found.trials for step in one.steps),
        *(("stages", "stages.start", one.start) for one in found.stages if one.start is not None),
        *(("trials", "stages.trials", trial) for one in found.stages for trial in one.trials),
        *([("points", "best", found.best)] if found.best is not None else []),
    ]
    known = {kind: set(some) for kind, some in ids.items()}
    return next(
        (f"{at}: {name[:60]!r} is not one of {kind}" for kind, at, name in named if name not in known[kind]), None
    )


def _circle(found: SweepOutcome) -> str | None:
    """Say which stage starts from itself, over others or not."""
    starts = {one.id: one.start for one in found.stages}
    for first in starts:
        way: set[str] = set()
        step: str | None = first
        while step is not None:
            if step in way:
                return f"stages.start: {step[:60]!r} starts from itself"
            way.add(step)
            step = starts[step]
    return None
