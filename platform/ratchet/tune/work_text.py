"""What `ratchet sweep --dry-run` prints: how much work the trials are, and how much of it is saved."""

from __future__ import annotations

from collections.abc import Sequence

from ratchet.tune.source_sizes import Known
from ratchet.tune.work import Count, Forecast

_NOTES: dict[Known, str] = {
    "before length": "{}: pairs that are too long for a stage are counted too, as these sources are not tokenised yet",
    "estimated": "{}: pairs are estimates, as these sources are not read yet",
    "unknown": "{}: pairs are not counted, as these sources are on the hub and not read yet",
}


def describe(forecast: Forecast) -> str:
    """Return the work of trials that are known beforehand as a short table, in lines that end with a newline."""
    return _shared(forecast, "≤ " if forecast.undecided else "") + _notes(forecast)


def describe_drawn(drawn: Forecast, trials: int) -> str:
    """Return the work of a sweep of `trials` whose points are chosen as it goes, by that of points that were drawn.

    Those that will be chosen may share a little more or less, unless all keys are ranges.
    """
    of = f", for {drawn.trials:,} of {trials:,} trials; more share more" if drawn.trials < trials else ""
    said = f"points are chosen as the sweep goes: these were drawn in their place{of}\n"
    return _shared(drawn, "≤ " if drawn.undecided else "≈ ") + said + _notes(drawn)


def describe_open(one: Forecast, trials: int | None, hours: float | None) -> str:
    """Return the work of a sweep whose points are chosen as it goes, from the forecast of one trial and the budget."""
    known = [text for text in (f"{trials:,} trials" if trials else "", f"{hours:g} hours" if hours else "") if text]
    head, rows = ["each trial"], [(name, [f"{count.unshared:,}"]) for name, count in _counts(one)]
    if trials:
        head.append(f"{trials:,} trials, at most")
        rows = [
            (name, [*cells, f"{count.unshared * trials:,}"])
            for (name, cells), (_, count) in zip(rows, _counts(one), strict=True)
        ]
    until = f", for {' or '.join(known)}" if known else ""
    said = f"points are chosen as the sweep goes{until}: what they share is known then\n"
    return _table([("", *head), *((name, *cells) for name, cells in rows)]) + said + _notes(one)


def _counts(forecast: Forecast) -> Sequence[tuple[str, Count]]:
    return (
        ("stages", forecast.stages),
        ("pairs trained", forecast.pairs),
        ("reference passes", forecast.passes),
        ("reference pairs scored", forecast.reference_pairs),
    )


def _shared(forecast: Forecast, sign: str) -> str:
    rows = [
        (name, f"{count.unshared:,}", f"{sign}{count.shared:,}", f"{count.saved:.0%}")
        for name, count in _counts(forecast)
    ]
    head = f"{forecast.trials:,} trial{'s' * (forecast.trials != 1)}"
    return _table([(head, "unshared", "shared", "saved"), *rows])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([f"{first:<{widths[0]}}", *right]))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _notes(forecast: Forecast) -> str:
    found = []
    if forecast.undecided:
        stages = ", ".join(forecast.undecided)
        found.append(f"at most: models decide the order of chunks of {stages}, and equal orders are shared as well")
    for known, note in _NOTES.items():
        names = [source for source, how in forecast.sources.items() if how == known]
        found += [note.format(", ".join(names))] if names else []
    return "".join(f"{line}\n" for line in found)
