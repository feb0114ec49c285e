"""Build the page of a sweep: one HTML page and one Markdown file from its document."""

from __future__ import annotations

import dataclasses
import json
import posixpath
import shlex
import urllib.parse
from pathlib import Path
from typing import Any

from ratchet.documents.read import load_sweep, read_sweep
from ratchet.documents.sweep import NAME, SweepOutcome
from ratchet.report.charts import sweep as charts
from ratchet.report.charts.sweep_keys import draw_against_keys, how_to_read
from ratchet.report.figures import cut, many
from ratchet.report.markdown import escape, fenced, render
from ratchet.report.parts import Chart, Drawings, Section, section
from ratchet.report.sweep.stage_tree import Tree, stage_tree
from ratchet.report.sweep.values import with_values
from ratchet.report.sweep.words import lead, overrides, saved, wanted, winner
from ratchet.report.tables import sweep as tables
from ratchet.report.templates import Records, fill
from ratchet.store.codec import to_values
from ratchet.store.files import write_text
from ratchet.track.wandb import flatten

LONGEST_TEXT = 20_000
"""Characters of a plan or a space on the page; the files themselves lie beside it."""


def write_sweep_page(folder: Path, outcome: SweepOutcome) -> tuple[Path, Path]:
    """Write sweep.html and sweep.md into a sweep's folder; return both.

    Numbers that are not finite count as none. Each file appears whole or not at all. Raises DataError where
    parts of the sweep name what is not there, and StorageError.
    """
    sweep = read_sweep(to_values(outcome))
    html, text = folder / "sweep.html", folder / "sweep.md"
    write_text(html, sweep_page(sweep))
    write_text(text, sweep_markdown(sweep))
    return html, text


def rewrite_sweep_page(folder: Path) -> tuple[Path, Path]:
    """Write sweep.html and sweep.md again from sweep.json. Raises DataError, StorageError."""
    return write_sweep_page(folder, load_sweep(folder / NAME))


def sweep_page(sweep: SweepOutcome) -> str:
    """Return a sweep as one self-contained HTML page."""
    drawn = drawings(sweep)
    tree = stage_tree(sweep)
    return fill(
        "sweep.html.jinja",
        sweep=sweep,
        lead=lead(sweep),
        saved=saved(sweep),
        wanted=[wanted(one) for one in sweep.objectives],
        winner=winner(sweep),
        leading=charts.leading(sweep),
        sections=[one for one in sections(sweep) if one.tables or one.key in drawn],
        drawn=drawn,
        tree=tree,
        left_out=left_out(tree),
        facts=facts(sweep),
        space_text=cut(sweep.space_text, LONGEST_TEXT),
        plan_text=cut(sweep.plan_text, LONGEST_TEXT),
        link=lambda path: link(sweep, path),
        stages={"best": 1},
        answers=None,
    )


def sweep_markdown(sweep: SweepOutcome) -> str:
    """Return a sweep as GitHub-flavoured Markdown; the last column of a table numbers its records."""
    records = Records()
    wishes = "; ".join(map(wanted, sweep.objectives))
    head = [f"A sweep of {cut(sweep.plan, 100)}: {lead(sweep)}", f"Wanted: {wishes}.", f"Saved: {saved(sweep)}"]
    parts = [f"# {escape(cut(sweep.name, 100))}", *map(escape, head)]
    parts += [f"- **{escape(one.name)}** {escape(cut(f'{one.says}. {one.do}.', 900))}" for one in sweep.diagnoses]
    parts += [f"- **Warning:** {escape(cut(text, 600))}" for text in sweep.warnings]
    parts += ["## What is best", *map(escape, winner(sweep))]
    for one in sections(sweep):
        if one.tables:
            parts += [f"## {one.title}", *([escape(one.text)] if one.text else [])]
            parts += [render(table, records) for table in one.tables]
    parts += ["## Settings", "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts(sweep))]
    for title, text in (("Space", sweep.space_text), ("Plan", sweep.plan_text)):
        parts += [f"## {title}", fenced(cut(text, LONGEST_TEXT), "yaml")] if text else []
    if records.paths:
        parts += ["## Records"]
        parts += ["\n".join(f"- r{n}: [{escape(path)}]({link(sweep, path)})" for path, n in records.paths.items())]
    return "\n\n".join(parts) + "\n"


def link(sweep: SweepOutcome, path: str) -> str:
    """Return a path below the storage root as a link from the sweep's folder, which lies in `sweeps` there."""
    home = f"sweeps/{sweep.name}"
    there = posixpath.relpath(f"/{path}", f"/{home}")
    return f"{'' if there.startswith('..') else './'}{urllib.parse.quote(there)}"


def left_out(tree: Tree | None) -> str:
    """Say which stages the tree does not show."""
    if tree is None or not tree.left_out:
        return ""
    return f"{many(tree.left_out, 'stage')} are left out: {len(tree.nodes) - 1} stages of the first levels are shown."


def facts(sweep: SweepOutcome) -> list[tuple[str, str]]:
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


def sections(sweep: SweepOutcome) -> list[Section]:
    """Return the page's sections in order, with their tables; some have only drawings, or nothing."""
    return [
        section("points", "Points, best first", "", tables.ranked(sweep), tables.ended(sweep), tables.trials(sweep)),
        section("front", "Pareto front"),
        section("parallel", "From values to results"),
        section("against", "Objective against each key"),
        section("importance", "Importance of the keys", _importance(sweep), tables.importances(sweep)),
        section("work", "Work, shared and unshared", "", tables.work_shared(sweep), tables.stages(sweep)),
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


def drawings(sweep: SweepOutcome) -> dict[str, Drawings]:
    """Return each section's charts, by its key; a section without any is not there."""
    wide: list[Chart] = []
    small: list[Chart] = []
    for place in range(len(sweep.objectives)):
        found = draw_against_keys(sweep, place)
        wide += found[0]
        small += found[1]
    drawn = {
        "front": Drawings.of([charts.draw_pareto(sweep)], []),
        "parallel": Drawings.of([charts.draw_parallel(sweep)], []),
        "against": Drawings.of(wide, small, how_to_read(sweep)),
        "importance": Drawings.of([], charts.draw_importance(sweep)),
    }
    return {key: found for key, found in drawn.items() if found.wide or found.small}
