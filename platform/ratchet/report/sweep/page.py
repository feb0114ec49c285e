"""The page of a sweep: one HTML page and one Markdown file from its document."""

from __future__ import annotations

import dataclasses
import json
import posixpath
import shlex
import urllib.parse
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import NAME, SweepOutcome, load_sweep, read_sweep
from ratchet.report.charts import sweep as charts
from ratchet.report.charts.sweep_keys import draw_against_keys, how_to_read
from ratchet.report.figures import cut
from ratchet.report.page import write_both
from ratchet.report.parts import Callout, Page, Section, WrittenText, section
from ratchet.report.sweep.stage_tree import stage_tree
from ratchet.report.sweep.values import with_values
from ratchet.report.sweep.words import lead, overrides, saved, wanted, winner
from ratchet.report.tables import sweep as tables
from ratchet.store.codec import to_values
from ratchet.track.wandb import flatten

LONGEST_TEXT = 20_000
"""Characters of a plan or a space on the page; the files themselves lie beside it."""


def write_sweep_page(folder: Path, outcome: SweepOutcome) -> tuple[Path, Path]:
    """Write sweep.html and sweep.md into a sweep's folder; return both.

    Numbers that are not finite count as none. Each file appears whole or not at all. Raises DataError where
    parts of the sweep name what is not there, and StorageError.
    """
    return write_both(sweep_page(read_sweep(to_values(outcome))), folder / "sweep")


def rewrite_sweep_page(folder: Path) -> tuple[Path, Path]:
    """Write sweep.html and sweep.md again from sweep.json. Raises DataError, StorageError."""
    return write_sweep_page(folder, load_sweep(folder / NAME))


def sweep_page(sweep: SweepOutcome) -> Page:
    """Return the page of a sweep."""
    sources = (
        WrittenText("Space", "The space as written", cut(sweep.space_text, LONGEST_TEXT), "yaml", opened=True),
        WrittenText("Plan", "The plan as written", cut(sweep.plan_text, LONGEST_TEXT), "yaml"),
    )
    return Page(
        title=cut(sweep.name, 100),
        lead=(
            f"A sweep of {cut(sweep.plan, 100)}: {lead(sweep)}",
            f"Wanted: {'; '.join(map(wanted, sweep.objectives))}.",
            f"Saved: {saved(sweep)}",
        ),
        made=f"{sweep.created} · ratchet {sweep.ratchet} · commit {sweep.commit}",
        # Cut, because names and reasons of trials may be of any length.
        callouts=tuple(Callout(one.name, cut(one.says, 600), cut(one.do, 300), one.grave) for one in sweep.diagnoses),
        warnings=tuple(cut(text, 600) for text in sweep.warnings),
        sections=tuple(sweep_sections(sweep)),
        about="Settings",
        facts=tuple(sweep_facts(sweep)),
        sources=tuple(one for one in sources if one.text),
        stages={"best": 1},
        link=lambda path: link(sweep, path),
    )


# A record may lie outside the sweep, in the store: the link climbs, and every part of it is quoted, as names are free.
def link(sweep: SweepOutcome, path: str) -> str:
    """Return a path below the storage root as a link from the sweep's folder, which lies in `sweeps` there."""
    home = f"sweeps/{sweep.name}"
    there = posixpath.relpath(f"/{path}", f"/{home}")
    return f"{'' if there.startswith('..') else './'}{urllib.parse.quote(there)}"


def sweep_facts(sweep: SweepOutcome) -> list[tuple[str, str]]:
    """What the sweep was made with, and the command that makes it again."""
    words = [f"sweeps/{sweep.name}/{name}" for name in ("plan.yaml", "space.yaml")]
    words += [word for one in overrides(sweep) for word in ("--set", one)]
    found = [
        ("made", sweep.created),
        ("ratchet", f"{sweep.ratchet}, commit {sweep.commit}"),
        ("to repeat", f"ratchet sweep {shlex.join(words)}"),
        ("files", "both lie beside this page; the paths are below the storage root"),
    ]
    machine = dataclasses.asdict(sweep.hardware) if sweep.hardware else {}
    for name, values in (("machine", machine), ("versions", sweep.versions)):
        said = ", ".join(f"{key} {_plainly(value)}" for key, value in flatten(dict(values)).items())
        found += [(name, cut(said, 2000))] if said else []
    return found


def _plainly(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def sweep_sections(sweep: SweepOutcome) -> list[Section]:
    """Return the page's sections in order, with their tables; some have only charts, or nothing."""
    return [
        Section("best", "What is best", findings=tuple(winner(sweep))),
        section("points", "Points, best first", "", tables.ranked(sweep), tables.ended(sweep), tables.trials(sweep)),
        section("front", "Pareto front", charts=lambda: [charts.draw_pareto(sweep)]),
        section("parallel", "From values to results", charts=lambda: [charts.draw_parallel(sweep)]),
        section(
            "against",
            "Objective against each key",
            charts=lambda: [
                chart for place in range(len(sweep.objectives)) for chart in draw_against_keys(sweep, place)
            ],
            legend=how_to_read(sweep),
        ),
        section(
            "importance",
            "Importance of the keys",
            _importance(sweep),
            tables.importances(sweep),
            charts=lambda: charts.draw_importance(sweep),
        ),
        section("work", "Work, shared and unshared", "", tables.work_shared(sweep), tables.stages(sweep)),
        *([Section("tree", "Tree of stages", drawing=tree)] if (tree := stage_tree(sweep)) else []),
    ]


def _importance(sweep: SweepOutcome) -> str:
    if not sweep.importance:
        return ""
    found = [len(with_values(sweep, place)) for place in range(len(sweep.objectives))]
    counts = " and ".join(map(str, dict.fromkeys(found)))
    few = "; from a few dozen it is a hint" if min(found) < 50 else ""
    return (
        "The share of the objective's variation over the whole space that each key explains, as a forest of regression "
        f"trees has learnt it (fANOVA; all keys together 100 %). It was learnt from {counts} points with a value"
        f"{few}."
    )
