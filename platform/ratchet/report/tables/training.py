"""The report's tables of training: what a run ended with, its steps, and what each did to the answers.

Each function returns a table, or None where the run has nothing to put in it. The page and the Markdown show the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from ratchet.documents.report import Report, StepSummary
from ratchet.model.folder import load_line
from ratchet.report import figures as fig
from ratchet.report.parts import Cell, PageTable, amount, model_cell, row, table, text
from ratchet.report.tables.data import pooled
from ratchet.track.progress import duration


def headline(report: Report) -> PageTable | None:
    """The final models, and what they are compared with: held-out accuracy, log-probability, answers."""
    finals = report.final_models
    against = {found.against for name in finals if (found := pooled(report, name))}
    shown = [one for one in report.evaluation if one.model in {*finals, *against, "base"}]
    tasks = list(dict.fromkeys(found.task for one in shown for found in one.exact_match))
    kinds = {step.name: step.kind for step in report.steps}
    names = ", ".join(sorted(against)) or "the reference"
    rows = []
    for one in shown:
        held, answers = pooled(report, one.model), {answer.task: answer for answer in one.exact_match}
        accuracy = Cell(fig.NONE)
        if held:
            aside = f"against {held.against}" if len(against) > 1 else ""
            accuracy = Cell(fig.share(held.accuracy[0], held.pairs), aside=aside)
        asked = {task: answers.get(task) for task in tasks}
        entries = [
            text("model", model_cell(report, one.model)),
            text("kind", kinds.get(one.model, "start")),
            amount("reward accuracy", accuracy, "%"),
            amount(f"chosen, against {names}", fig.with_error(*held.chosen) if held else fig.NONE, "nats"),
            amount(f"rejected, against {names}", fig.with_error(*held.rejected) if held else fig.NONE, "nats"),
            amount("held-out pairs", fig.count(held.pairs) if held else fig.NONE),
            *(
                amount(f"exact match, {task}", fig.share(it.score, it.items) if it else fig.NONE, "%")
                for task, it in asked.items()
            ),
        ]
        records = [*(held.records if held else ()), *(a.record or one.record for a in answers.values())]
        rows.append(row(entries, *records, muted=one.model not in finals))
    note = (
        f"± is one standard error. {fig.SHARE_NOTE} "
        "Held-out pairs of all sources are pooled, each pair with equal weight. "
        "Models that others start from are shown to compare with."
    )
    return table(rows, note)


def load_lines(report: Report) -> PageTable | None:
    """The final models with their folders, and how to load them."""
    rows = [
        row(
            [
                text("model", model_cell(report, step.name)),
                text("folder", step.folder),
                text("loaded by", _load_line(step)),
            ],
            step.record,
        )
        for step in _final_steps(report)
    ]
    return table(rows, "In Python, after `import transformers`. The folders are those of the machine of the run.")


def model_lines(report: Report) -> Iterator[str]:
    """Yield the folder of each final model, and the line that loads it, for a terminal."""
    for step in _final_steps(report):
        yield f"{step.name:<20} model: {step.folder}"
        yield f"{'':<20} {_load_line(step)}"


def _final_steps(report: Report) -> list[StepSummary]:
    return [step for step in report.steps if step.folder and step.name in report.final_models]


def _load_line(step: StepSummary) -> str:
    return load_line(step.folder, trust_remote_code=step.trust_remote_code)


def chosen(report: Report) -> PageTable | None:
    """Whether each preference step raised or lowered the chosen answers' log-probability."""
    held_of = {step.name: pooled(report, step.name) for step in report.steps if step.does.reads_pairs}
    against = ", ".join(sorted({held.against for held in held_of.values() if held}))
    rows = []
    for step in report.steps:
        if not step.does.reads_pairs:
            continue  # sft and merges have no rejected answer, so nothing to lower
        end, held = end_of(step, "logps/chosen_delta"), held_of[step.name]
        # Of held-out pairs where there are some: the last batches were trained on.
        verdict = verdict_of(*(held.chosen if held and held.chosen[0] is not None else end), len(held_of))
        entries = [
            text("step", model_cell(report, step.name)),
            text("kind", step.kind),
            amount("β", _option(step, "beta")),
            amount("λ", _option(step, "penalty")),
            text("reference", step.reference or fig.NONE),
            amount("chosen at end", fig.with_error(*end), "nats"),
            amount("rejected at end", fig.with_error(*end_of(step, "logps/rejected_delta")), "nats"),
            amount("penalty active", fig.percent(end_of(step, "dpop/active")[0], decimals=0), "%"),
            amount(f"held-out chosen against {against}", fig.with_error(*held.chosen) if held else fig.NONE, "nats"),
            text("chosen answer", Cell(verdict, mark="fell" if verdict == "fell" else "")),
        ]
        rows.append(row(entries, step.record, *(held.records if held else ())))
    note = (
        "At end: mean over the last tenth of the step's training batches, against its own reference. The verdict is of "
        "the held-out mean where there is one: rose or fell by more than "
        f"{_reach(len(held_of)):.2f} standard errors, else level. That is 5 % for all steps of this table together."
    )
    return table(rows, note)


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


def steps(report: Report) -> PageTable | None:
    """What each step did: data, models, steps, first loss."""
    rows = []
    for step in report.steps:
        rate = step.options.get("learning_rate")
        entries = [
            text("step", model_cell(report, step.name)),
            text("kind", step.kind),
            text("data", ", ".join(step.chunk)),
            text("starts from", step.start or fig.NONE),
            text("reference", step.reference or fig.NONE),
            amount("pairs", fig.count(step.pairs)),
            amount("epochs", f"{step.epochs:g}" if step.epochs is not None else fig.NONE),
            amount("steps", fig.count(step.steps)),
            amount("batch", _option(step, "batch")),
            amount("learning rate", fig.small(rate) if isinstance(rate, int | float) else fig.NONE),
            amount("first loss", fig.loss(step.first_loss)),
            amount("tolerance", fig.small(step.first_loss_tolerance)),
            amount("went on after step", fig.count(step.resumed_from)),
        ]
        rows.append(row(entries, step.record))
    note = "Where a preference step starts as its reference, the first loss of dpo and dpop is ln 2 = 0.693147."
    return table(rows, note if any(step.first_loss is not None for step in report.steps) else "")


def merges(report: Report) -> PageTable | None:
    """Merged models: which models were averaged, and the share of each."""
    rows = []
    for step in report.steps:
        if step.does.trains:
            continue
        names = [report.last_step(name) for name in step.options.get("of", ())]
        weights = step.options.get("weights") or [1.0] * len(names)
        total = sum(weights)
        # A document that somebody edited may have other numbers of the two.
        parts = [f"{weight / total:.3g} × {name}" for weight, name in zip(weights, names, strict=False)]
        entries = [text("model", model_cell(report, step.name)), text("average of", " + ".join(parts))]
        rows.append(row(entries, step.record))
    return table(rows)


def effects(report: Report) -> PageTable | None:
    """What publishing kept of each step that was trained."""
    rows = []
    for step in report.steps:
        found = step.effect
        if found is None:
            continue
        entries = [
            text("step", model_cell(report, step.name)),
            text("over", found.of),
            amount("pairs", fig.count(found.pairs)),
            amount("margin as trained", fig.number(found.margin_trained, 4), "nats"),
            amount("margin as published", fig.number(found.margin_published, 4), "nats"),
            amount("chosen as trained", fig.number(found.chosen_trained, 2), "nats"),
            amount("chosen as published", fig.number(found.chosen_published, 2), "nats"),
            amount("effect kept", fig.percent(found.kept)),
        ]
        rows.append(row(entries, step.record))
    note = (
        "Margin: how much more the chosen answers gained on their reference than the rejected ones. Where adapters are "
        "merged below float32, the sum is rounded; a dash: too little was gained to tell what was kept."
    )
    return table(rows, note)


def engines(report: Report) -> PageTable | None:
    """How another engine's reference scores compared with the trainer's, for each step that asked one."""
    rows = []
    for step in report.steps:
        found = step.reference_agreement
        if found is None:
            continue
        sides = found.chosen, found.rejected
        off = [fig.with_error(side.bias, side.deviation) for side in sides]
        entries = [
            text("step", model_cell(report, step.name)),
            text("scored by", step.reference_engine or fig.NONE),
            amount("pairs compared", fig.count(found.pairs)),
            amount("chosen off by", off[0], "nats"),
            amount("rejected off by", off[1], "nats"),
            amount("worst chosen", fig.small(sides[0].worst), "nats"),
            amount("worst rejected", fig.small(sides[1].worst), "nats"),
            amount("shift", fig.small(found.shift)),
            amount("borne", fig.small(found.bound)),
            amount("first loss by it", fig.loss(found.first_loss)),
        ]
        rows.append(row(entries, step.record))
    note = (
        "Mean and standard deviation of another engine's score minus the trainer's, on a fixed sample. Shift: how far "
        "that moves the argument of the loss, root mean square; above what is borne, the trainer scored the reference. "
        "First loss: what ln 2 = 0.693147 would become."
    )
    return table(rows, note)


def throughput(report: Report) -> PageTable | None:
    """Where the time went; the reference pass stands apart."""
    rows = []
    for step in report.steps:
        passed = step.reference_pairs, step.reference_seconds
        rate = passed[0] / passed[1] if passed[0] and passed[1] else None
        scored = "scored in training" if step.reference_in_training else "scored"
        how = {True: "reused", False: scored, None: fig.NONE}[step.reference_reused]
        entries = [
            text("step", model_cell(report, step.name)),
            amount("whole step", _time(step.seconds)),
            amount("rehearsal", _time(step.rehearsal_seconds)),
            amount("training", _time(step.train_seconds)),
            amount("training processes", _time(step.start_seconds)),
            amount("training", fig.number(step.pairs_per_second, 1), "pairs/s"),
            amount("training", fig.number(step.tokens_per_second, 0), "tokens/s"),
            text("reference", how),
            amount("reference pass", _time(step.reference_seconds)),
            amount("reference processes", _time(step.reference_start_seconds)),
            amount("reference pairs", fig.count(step.reference_pairs)),
            amount("reference", fig.number(rate, 1), "pairs/s"),
            amount("peak memory", fig.number(step.peak_memory_mb, 0), "MB"),
            amount("workers", fig.count(step.workers)),
        ]
        rows.append(row(entries, step.record))
    note = (
        "Processes: the time for them to begin and to end, apart from their work, and groups of workers that ended "
        "before. "
        "Rehearsal: publishing is tried with a small model before a first step; 0 s where it had been. "
        "Reused: scored before, for another step or by another run; its time is not in this step's. "
        "Scored in training: by the workers that trained the reference, while they had it in memory."
    )
    return table(rows, note)


def _time(seconds: float | None) -> str:
    return fig.NONE if seconds is None else duration(seconds)
