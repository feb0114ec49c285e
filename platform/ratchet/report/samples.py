"""What models wrote to a few prompts, before and after: tables for the page, lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.documents.report import Report, SampledPrompt, WrittenAnswer
from ratchet.report.answers import cut
from ratchet.report.diagnoses import degenerate
from ratchet.report.tables.training import Cell, Column, Table, model_cell, row, table

FIRST, ON_TERMINAL = 3, 2
"""Prompts at the head of the page, and on the terminal."""
_SHORT, _LONG, _LINE = 220, 2000, 110


def first_samples(report: Report) -> Table | None:
    """A few prompts with the start of what each model wrote, for the head of the page."""
    return _table(report, report.samples[:FIRST], _SHORT, "The section below has all of them, at length.")


def samples(report: Report) -> Table | None:
    """All prompts with what each model wrote, and the chosen answer."""
    if not report.samples:
        return None
    limit = max(one.limit for one in report.samples)
    known = {"heldout": "held-out prompts", "train": "prompts that were trained on, as nothing is held out"}
    note = f"Greedy answers of at most {limit} tokens to {known[report.samples[0].split]}, the same for all models."
    return _table(report, report.samples, _LONG, note, chosen=True)


def sample_lines(report: Report) -> Iterator[str]:
    """Yield a few prompts with what the first and the last model wrote, each on one line, for a terminal."""
    for sample in report.samples[:ON_TERMINAL]:
        yield f"{'asked':<20} {_line(sample.prompt)}"
        ends = sample.answers if len(sample.answers) < 2 else (sample.answers[0], sample.answers[-1])
        for one in ends:
            yield f"  {one.model:<18} {_line(one.text) or '(nothing)'}"


def _table(
    report: Report, some: tuple[SampledPrompt, ...], most: int, note: str, *, chosen: bool = False
) -> Table | None:
    names = list(dict.fromkeys(one.model for sample in some for one in sample.answers))
    rows = []
    for sample in some:
        by = {one.model: one for one in sample.answers}
        cells = [Cell(cut(sample.prompt, most)), *(_cell(sample, by.get(name), most) for name in names)]
        rows.append(
            row([*cells, *([Cell(cut(sample.chosen, most))] if chosen else [])], *(o.record for o in by.values()))
        )
    columns = [Column("prompt", text=True)]
    columns += [Column(name, text=True, stage=model_cell(report, name).stage) for name in names]
    return table([*columns, *([Column("chosen answer", text=True)] if chosen else [])], rows, note)


def _cell(sample: SampledPrompt, one: WrittenAnswer | None, most: int) -> Cell:
    if one is None:
        return Cell("")
    return Cell(cut(one.text, most) or "(nothing)", mark=degenerate(sample, one))


def _line(text: str) -> str:
    """Return a text as one line that a terminal shows: what a model writes must not move its cursor."""
    return cut(" ".join("".join(sign if sign.isprintable() else " " for sign in text).split()), _LINE)
