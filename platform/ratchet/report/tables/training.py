"""The report's tables as plain data: the page and the Markdown lay out the same ones.

Each function returns a Table, or None where the run has nothing to put in it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from ratchet.documents.report import Report, StepSummary
from ratchet.report import figures as fig
from ratchet.report.pooled import pooled
from ratchet.track.progress import duration


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its unit stands in the head, text columns are set to the left; `stage` as in a cell."""

    name: str
    unit: str = ""
    text: bool = False
    stage: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a cell shows.

    `stage` gives it its colour mark, `mark` a word of caution beside it; `aside` stands small below it.
    """

    text: str
    stage: str = ""
    mark: str = ""
    aside: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, and the paths of the records that its numbers stand in."""

    cells: tuple[Cell, ...]
    records: tuple[str, ...] = ()
    muted: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a title above and a note below it; the page shows a `folded` one on a click."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    title: str = ""
    folded: bool = False


def row(cells: Iterable[Cell | str], *records: str, muted: bool = False) -> Row:
    """Make a row from cells and plain texts."""
    made = tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
    return Row(made, tuple(dict.fromkeys(record for record in records if record)), muted)


def table(
    columns: Sequence[Column], rows: Iterable[Row], note: str = "", title: str = "", *, folded: bool = False
) -> Table | None:
    """Make a table, or None without rows; columns that hold dashes alone are left out."""
    rows = tuple(rows)
    kept = [i for i, column in enumerate(columns) if any(one.cells[i].text not in {fig.NONE, ""} for one in rows)]
    if not rows or not kept:
        return None
    cut = tuple(dataclasses.replace(one, cells=tuple(one.cells[i] for i in kept)) for one in rows)
    return Table(tuple(columns[i] for i in kept), cut, note, title, folded)


def model_cell(report: Report, name: str) -> Cell:
    """A model's name with its colour mark."""
    return Cell(name, stage=colour_key(report, name))


def coloured(report: Report) -> list[str]:
    """What has a colour of its own: the stages of a run; without any, the models that were evaluated."""
    return report.stages or (report.scores.names if report.scores else [])


def colour_key(report: Report, model: str) -> str:
    """Return the name in `coloured` that gives a model its colour; empty for one that has none."""
    if not report.steps or model in report.stages:
        return model
    return next((step.stage for step in report.steps if step.name == model), "")


def headline(report: Report) -> Table | None:
    """The final models, and what they are compared with: held-out accuracy, log-probability, answers."""
    finals = report.final_models
    against = {found.against for name in finals if (found := pooled(report, name))}
    shown = [one for one in report.evaluation if one.model in {*finals, *against, "base"}]
    tasks = list(dict.fromkeys(found.task for one in shown for found in one.exact_match))
    kinds = {step.name: step.kind for step in report.steps}
    rows = []
    for one in shown:
        found, answers = pooled(report, one.model), {answer.task: answer for answer in one.exact_match}
        cells: list[Cell | str] = [model_cell(report, one.model), kinds.get(one.model, "start")]
        if found:
            aside = f"against {found.against}" if len(against) > 1 else ""
            cells += [Cell(fig.share(found.accuracy[0], found.pairs), aside=aside), fig.with_error(*found.chosen)]
            cells += [fig.with_error(*found.rejected), fig.count(found.pairs)]
        else:
            cells += [fig.NONE] * 4
        asked = [answers.get(task) for task in tasks]
        cells += [fig.share(it.score, it.items) if it else fig.NONE for it in asked]
        records = [*(found.records if found else ()), *(a.record or one.record for a in answers.values())]
        rows.append(row(cells, *records, muted=one.model not in finals))
    names = ", ".join(sorted(against)) or "the reference"
    columns = [
        Column("model", text=True),
        Column("kind", text=True),
        Column("reward accuracy", "%"),
        Column(f"chosen, against {names}", "nats"),
        Column(f"rejected, against {names}", "nats"),
        Column("held-out pairs"),
        *(Column(f"exact match, {task}", "%") for task in tasks),
    ]
    note = (
        f"± is one standard error. {fig.SHARE_NOTE} "
        "Held-out pairs of all sources are pooled, each pair with equal weight. "
        "Models that others start from are shown to compare with."
    )
    return table(columns, rows, note)


def chosen(report: Report) -> Table | None:
    """Whether each preference step raised or lowered the chosen answers' log-probability."""
    rows = []
    told = sum(step.does.reads_pairs for step in report.steps)
    for step in report.steps:
        if not step.does.reads_pairs:
            continue
        end, low = end_of(step, "logps/chosen_delta"), end_of(step, "logps/rejected_delta")
        held = pooled(report, step.name)
        verdict = verdict_of(*(held.chosen if held and held.chosen[0] is not None else end), told)
        cells: list[Cell | str] = [
            model_cell(report, step.name),
            step.kind,
            _option(step, "beta"),
            _option(step, "penalty"),
            step.reference or fig.NONE,
            fig.with_error(*end),
            fig.with_error(*low),
            fig.percent(end_of(step, "dpop/active")[0], decimals=0),
            fig.with_error(*held.chosen) if held else fig.NONE,
            Cell(verdict, mark="fell" if verdict == "fell" else ""),
        ]
        rows.append(row(cells, step.record, *(held.records if held else ())))
    against = {found.against for step in report.steps if step.does.reads_pairs and (found := pooled(report, step.name))}
    columns = [
        Column("step", text=True),
        Column("kind", text=True),
        Column("β"),
        Column("λ"),
        Column("reference", text=True),
        Column("chosen at end", "nats"),
        Column("rejected at end", "nats"),
        Column("penalty active", "%"),
        Column(f"held-out chosen against {', '.join(sorted(against))}", "nats"),
        Column("chosen answer", text=True),
    ]
    note = (
        "At end: mean over the last tenth of the step's training batches, against its own reference. The verdict is of "
        f"the held-out mean where there is one: rose or fell by more than {_reach(told):.2f} standard errors, else "
        "level. That is 5 % for all steps of this table together."
    )
    return table(columns, rows, note)


def end_of(step: StepSummary, key: str) -> tuple[float | None, float | None]:
    """Return mean and standard error of a metric over the last tenth of a step's lines."""
    values = [value for _, value in step.series(key)]
    last = values[-max(1, len(values) // 10) :]
    if not last:
        return None, None
    return statistics.fmean(last), statistics.stdev(last) / len(last) ** 0.5 if len(last) > 1 else None


def verdict_of(mean: float | None, error: float | None, steps: int) -> str:
    """Return whether a mean rose or fell, at 5 % for a table of so many steps (Bonferroni)."""
    if mean is None or error is None:
        return fig.NONE
    if abs(mean) <= _reach(steps) * error:
        return "level"
    return "rose" if mean > 0 else "fell"


def _reach(steps: int) -> float:
    """Return how many standard errors from 0 one of `steps` means is, by chance, one time in 20 at most."""
    return statistics.NormalDist().inv_cdf(1 - 0.05 / (2 * max(1, steps)))


def _option(step: StepSummary, key: str) -> str:
    value: Any = step.options.get(key)
    return f"{value:g}" if isinstance(value, int | float) else fig.NONE


def steps(report: Report) -> Table | None:
    """What each step did: data, models, steps, first loss."""
    rows = []
    for step in report.steps:
        tolerance = step.first_loss_tolerance
        cells: list[Cell | str] = [
            model_cell(report, step.name),
            step.kind,
            ", ".join(step.chunk),
            step.start or fig.NONE,
            step.reference or fig.NONE,
            fig.count(step.pairs),
            f"{step.epochs:g}" if step.epochs is not None else fig.NONE,
            fig.count(step.steps),
            _option(step, "batch"),
            fig.small(rate) if isinstance(rate := step.options.get("learning_rate"), int | float) else fig.NONE,
            fig.loss(step.first_loss),
            fig.small(tolerance),
            fig.count(step.resumed_from),
        ]
        rows.append(row(cells, step.record))
    columns = [
        *(Column(name, text=True) for name in ("step", "kind", "data", "starts from", "reference")),
        *(Column(name) for name in ("pairs", "epochs", "steps", "batch", "learning rate", "first loss")),
        Column("tolerance"),
        Column("went on after step"),
    ]
    note = "Where a preference step starts as its reference, the first loss of dpo and dpop is ln 2 = 0.693147."
    return table(columns, rows, note if any(step.first_loss is not None for step in report.steps) else "")


def throughput(report: Report) -> Table | None:
    """Where the time went; the reference pass stands apart."""
    rows = []
    for step in report.steps:
        passed = step.reference_pairs, step.reference_seconds
        rate = passed[0] / passed[1] if passed[0] and passed[1] else None
        how = {True: "reused", False: "scored", None: fig.NONE}[step.reference_reused]
        cells: list[Cell | str] = [
            model_cell(report, step.name),
            _time(step.seconds),
            _time(step.train_seconds),
            fig.number(step.pairs_per_second, 1),
            fig.number(step.tokens_per_second, 0),
            how,
            _time(step.reference_seconds),
            fig.count(step.reference_pairs),
            fig.number(rate, 1),
            fig.number(step.peak_memory_mb, 0),
            fig.count(step.workers),
        ]
        rows.append(row(cells, step.record))
    columns = [
        Column("step", text=True),
        Column("whole step"),
        Column("training"),
        Column("training", "pairs/s"),
        Column("training", "tokens/s"),
        Column("reference", text=True),
        Column("reference pass"),
        Column("reference pairs"),
        Column("reference", "pairs/s"),
        Column("peak memory", "MB"),
        Column("workers"),
    ]
    return table(
        columns, rows, "Reused: scored before, for another step or by another run; its time is not in this step's."
    )


def _time(seconds: float | None) -> str:
    return fig.NONE if seconds is None else duration(seconds)
