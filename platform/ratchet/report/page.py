"""Build the report: one HTML page and one Markdown file from one document."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.report import answers, charts, charts_data, tables, tables_data, tables_effect, tables_engine
from ratchet.report.data import Report
from ratchet.report.diagnoses import diagnose
from ratchet.report.graph import graph
from ratchet.report.models import models
from ratchet.report.parts import Drawings, Section, section
from ratchet.report.read import NAME, load, read
from ratchet.report.samples import first_samples, samples
from ratchet.report.sections_scores import score_drawings, score_sections
from ratchet.report.templates import fill
from ratchet.store.files import write_json, write_text
from ratchet.track.progress import duration


def write_report(run_folder: Path, data: Mapping[str, Any]) -> tuple[Path, Report]:
    """Write report.json, report.html and report.md into a run folder; return the page's path, and the report.

    Numbers that are not finite become null. Each file appears whole or not at all, the JSON first,
    so that `ratchet report` can make the others again. What the figures say (`report.diagnoses`) is found here.
    Raises DataError where `data` is not what `report.data` describes, and StorageError.
    """
    report = diagnosed(read(plain(data)))
    write_json(run_folder / NAME, plain(data) | {"diagnoses": [dataclasses.asdict(one) for one in report.diagnoses]})
    return _write(run_folder, report)[0], report


def rewrite_report(run_folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md again from report.json. Raises DataError, StorageError."""
    return _write(run_folder, diagnosed(load(run_folder / NAME)))


def diagnosed(report: Report) -> Report:
    """Return a report with what its figures say of it."""
    return dataclasses.replace(report, diagnoses=diagnose(report))


def _write(run_folder: Path, report: Report) -> tuple[Path, Path]:
    from ratchet.report.markdown import markdown

    html, text = run_folder / "report.html", run_folder / "report.md"
    write_text(html, page(report))
    write_text(text, markdown(report))
    return html, text


def plain(value: Any) -> Any:
    """Return a document as JSON types, with null for numbers that are not finite, and no half characters."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):  # a model's answer may hold half a surrogate pair, which no file can
        return value.encode("utf-8", "replace").decode("utf-8")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(report: Report) -> str:
    """Return the report as one self-contained HTML page."""
    drawn = drawings(report)
    return fill(
        "template.html.jinja",
        report=report,
        sentence=sentence(report),
        headline=tables.headline(report),
        first_samples=first_samples(report),
        sections=[one for one in sections(report) if one.tables or one.key in drawn],
        drawn=drawn,
        graph=graph(report),
        resolved=json.dumps(report.resolved, indent=2, ensure_ascii=False),
        facts=facts(report),
        made_with="Plan and versions" if report.plan_text or report.resolved else "Versions",
        stages={name: index % 8 for index, name in enumerate(tables.coloured(report))},
        answers=answers.side_by_side(report),
    )


def sentence(report: Report) -> str:
    """Say in one sentence what ran."""
    if report.scores and not report.steps:
        models, suites = len(report.scores.names), len(report.scores.suites)
        tasks = many(len(report.scores.tasks), "task")
        return f"{many(models, 'model')} on {many(suites, 'suite')}: {tasks}, {duration(report.seconds)}."
    trained = sum(step.pairs or 0 for step in report.steps)
    parts = [
        many(len(report.steps), "step"),
        f"in {many(len(report.stages), 'stage')}",
        f"over {many(len(report.sources), 'source')}",
    ]
    if trained:
        parts.append(f"with {trained:,} pairs trained on")
    workers = max((step.workers or 0 for step in report.steps), default=0)
    where = f" on {many(workers, 'worker')}" if workers else ""
    return f"{' '.join(parts)}: {duration(report.seconds)}{where}."


def many(count: int, name: str) -> str:
    """Return a count with what is counted, in the plural where it is not one."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def facts(report: Report) -> list[tuple[str, str]]:
    """What the run was made with: code, machine, libraries."""
    found = [("made", report.created), ("ratchet", f"{report.ratchet}, commit {report.commit}")]
    if machine := report.hardware:
        gpus = ", ".join(machine.gpus) or "no GPU"
        found.append(("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GiB, {gpus}"))
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items() if name != "ratchet")
    return [*found, ("versions", libraries)] if libraries else found


def sections(report: Report) -> list[Section]:
    """Return the report's sections in order, with their tables; some have only drawings, or nothing."""
    return [
        section("models", "The models, and how to load them", "", models(report)),
        section("samples", "Answers, before and after", "", samples(report)),
        *score_sections(report),
        section(
            "chosen",
            "Does the chosen answer hold?",
            "DPO needs only the margin between the answers to grow, so it may lower the chosen answer as long as it "
            "lowers the rejected one more. DPO-Positive penalises just that.",
            tables.chosen(report),
        ),
        section("loss", "Loss"),
        section("margins", "Reward margins and accuracies"),
        section(
            "heldout",
            "Held-out pairs and answers",
            "Every model on pairs and questions that no stage trained on.",
            tables_data.heldout(report),
            tables_data.exact_match(report),
            tables_data.examples(report),
        ),
        section(
            "gamma",
            "γ, stage by stage",
            "γ = log π(chosen) − log π(rejected) under a model, on the same pairs for all. A rise on held-out pairs is "
            "alignment. On training pairs that a model has seen it is memory.",
            tables_data.gamma(report),
        ),
        section("difficulty", "Difficulty of the sources", "", tables_data.difficulty(report)),
        section(
            "distance",
            "How far apart chosen and rejected are",
            "Token edit distance between the two answers, divided by the longer one's length.",
            cautions=tables_data.low_distance_warnings(report),
        ),
        section(
            "sources",
            "Sources and skipped rows",
            "",
            tables_data.sources(report),
            tables_data.skipped(report),
            tables_data.tokens(report),
        ),
        section(
            "overlap",
            "Overlap between sources",
            "Pairs and prompts that stand in more than one source.",
            tables_data.overlap(report),
        ),
        section("steps", "Steps", "", tables.steps(report), tables_data.merges(report)),
        section(
            "effect",
            "What publishing kept",
            "A model is published as a rounding of what was trained.",
            tables_effect.effects(report),
        ),
        section(
            "engines",
            "Who scored the reference",
            "Scores of another engine are used only where they agree with the trainer's own.",
            tables_engine.engines(report),
        ),
        section("throughput", "Time and throughput", "", tables.throughput(report)),
    ]


def drawings(report: Report) -> dict[str, Drawings]:
    """Return each section's charts, by its key; a section without any is not there."""
    drawn = {
        **score_drawings(report),
        "chosen": Drawings.of([charts.chosen_overlay(report)], charts.chosen_and_rejected(report)),
        "loss": Drawings.of([], charts.losses(report), "Dots: on held-out pairs, at checkpoints."),
        "margins": Drawings.of([], charts.margins(report)),
        "gamma": Drawings.of(
            [], charts_data.gamma(report), "Circles: held out. Squares: training pairs; hollow where memorised."
        ),
        "difficulty": Drawings.of([], charts_data.difficulty(report)),
        "distance": Drawings.of(
            [], charts_data.edit_distances(report), "Left of the grey line answers are near twins."
        ),
        "throughput": Drawings.of([charts.times(report)], []),
    }
    return {key: found for key, found in drawn.items() if found.wide or found.small}
