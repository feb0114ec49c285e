"""What a sweep's figures say of it, by name: each diagnosis is one row of `RULES`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ratchet.documents.report import Diagnosis
from ratchet.documents.sweep import SweepOutcome, TrialOutcome
from ratchet.report import figures as fig
from ratchet.report.diagnoses import Found, Rule, judged

NAMED = 8
"""Points of a tie that are named."""


def diagnose_sweep(sweep: SweepOutcome) -> tuple[Diagnosis, ...]:
    """Return what the figures of a sweep say."""
    return judged(RULES, sweep)


def common_reason(trials: list[TrialOutcome]) -> tuple[str, int]:
    """Return the reason that most of these failed trials share, as the first of them has it, and how many do.

    Reasons are alike where they differ in numbers, pairs and places alone.
    """
    alike = Counter(_kind(trial.reason) for trial in trials)
    kind, count = alike.most_common(1)[0]
    return next(trial.reason for trial in trials if _kind(trial.reason) == kind), count


def _kind(reason: str) -> str:
    # The first line is the reason, and the advice follows.
    what = reason.partition("\n")[0].partition(";")[0]
    return re.sub(r"[\d.,+-]+(e[+-]?\d+)?", "0", what)


def failed(sweep: SweepOutcome) -> list[TrialOutcome]:
    """Return the trials that failed, in the order in which they were chosen."""
    return [trial for trial in sweep.trials if trial.status == "failed"]


def _words(trials: list[TrialOutcome], of: int) -> dict[str, str]:
    reason, count = common_reason(trials)
    what, _, fix = reason.partition("\n")
    why = f"{count} of them because of this: " if count > 1 else "the first because of this: "
    return {"failed": str(len(trials)), "of": str(of), "reason": why + what, "fix": " ".join(fix.split()) or "see it"}


def _nothing(sweep: SweepOutcome) -> Iterator[Found]:
    bad, ended = failed(sweep), [trial for trial in sweep.trials if trial.status != "unfinished"]
    if bad and not any(trial.status == "finished" for trial in sweep.trials) and len(ended) == len(sweep.trials):
        yield sweep.name, _words(bad, len(sweep.trials))


def _some_failed(sweep: SweepOutcome) -> Iterator[Found]:
    bad = failed(sweep)
    if bad and any(trial.status == "finished" for trial in sweep.trials):
        yield sweep.name, _words(bad, len(sweep.trials))


def _tie(sweep: SweepOutcome) -> Iterator[Found]:
    if sweep.tied:
        names = ", ".join(sweep.tied[:NAMED]) + (" and more" if len(sweep.tied) > NAMED else "")
        value = next(point.results[0].value for point in sweep.points if point.id == sweep.tied[0])
        yield (
            sweep.name,
            {
                "count": str(len(sweep.tied)),
                "names": names,
                "value": fig.number(value, 4),
                "metric": sweep.objectives[0].metric,
                "first": sweep.tied[0],
            },
        )


def _close(sweep: SweepOutcome) -> Iterator[Found]:
    same = [one for one in sweep.comparisons if not one.shown]
    if sweep.best is not None and same:
        others = len(sweep.comparisons)
        yield (
            sweep.name,
            {"best": sweep.best, "same": str(len(same)), "others": f"{others} other point{'s' * (others != 1)}"},
        )


RULES: tuple[Rule[SweepOutcome], ...] = (
    Rule(
        "no trial finished",
        True,
        _nothing,
        "{failed} of {of} trials failed, {reason}",
        "{fix}; --fresh tries these points again",
    ),
    Rule(
        "tie",
        False,
        _tie,
        "{count} points came to the same {metric}, {value}: {names}. None of them is best",
        "name the one to promote (--promote {first}), give the objective more held-out pairs, or aim at a finer "
        "metric, such as a margin",
    ),
    Rule(
        "best not distinguishable from others",
        False,
        _close,
        "{best} cannot be distinguished from {same} of {others}: the 95 % interval of the difference contains 0",
        "give the objective more held-out pairs or the space more seeds, or take the value that costs least",
    ),
    Rule(
        "some trials failed",
        False,
        _some_failed,
        "{failed} of {of} trials failed, {reason}",
        "{fix}; --fresh tries these points again",
    ),
)
