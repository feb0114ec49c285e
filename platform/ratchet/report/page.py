"""The page of a run, or of an evaluation alone: one HTML page and one Markdown file from one document."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ratchet.documents.report import NAME, Report, load_report, read_report
from ratchet.report.answers import first_answers, first_samples, samples, side_by_side
from ratchet.report.charts import data as charts_data
from ratchet.report.charts import experts as charts_experts
from ratchet.report.charts import scores as charts_scores
from ratchet.report.charts import training as charts
from ratchet.report.diagnoses import diagnose
from ratchet.report.drawing import model_graph
from ratchet.report.figures import many
from ratchet.report.parts import Callout, Page, Section, WrittenText, coloured, section
from ratchet.report.render import html, markdown
from ratchet.report.tables import data as tables_data
from ratchet.report.tables import model as tables_model
from ratchet.report.tables import scores as tables_scores
from ratchet.report.tables import settings as tables_settings
from ratchet.report.tables import training as tables
from ratchet.store.codec import to_values
from ratchet.store.files import write_json, write_text
from ratchet.track.progress import duration

HOW_TO_READ = (
    "Bars are 95 % intervals (1.96 standard errors) of each score alone; a hollow mark has no error. Whether two "
    "models differ is decided item by item, in the next section: bars that overlap do not settle it."
)


def write_report(run_folder: Path, report: Report) -> tuple[Path, Report]:
    """Write report.json, report.html and report.md into a run folder; return the page's path, and the report.

    Numbers that are not finite become null. Each file appears whole or not at all, the JSON first,
    so that `ratchet report` can make the others again. What the figures say (`report.diagnoses`) is found here.
    Raises DataError where a value is not of its field's type, and StorageError.
    """
    # The page is made of what the file will hold, so that it is the same when it is made again from the file.
    made = diagnosed(read_report(to_values(report)))
    # The document first: where a chart fails, `ratchet report` still makes the page from it.
    write_json(run_folder / NAME, to_values(made))
    return write_both(run_page(made), run_folder / "report")[0], made


def rewrite_report(run_folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md again from report.json. Raises DataError, StorageError."""
    return write_both(run_page(diagnosed(load_report(run_folder / NAME))), run_folder / "report")


def diagnosed(report: Report) -> Report:
    """Return a report with what its figures say of it."""
    return dataclasses.replace(report, diagnoses=diagnose(report))


def write_both(page: Page, path: Path) -> tuple[Path, Path]:
    """Write a page as `path`.html and `path`.md; each appears whole or not at all. Raises StorageError."""
    files = path.with_suffix(".html"), path.with_suffix(".md")
    write_text(files[0], html(page))
    write_text(files[1], markdown(page))
    return files


def run_page(report: Report) -> Page:
    """Return the page of a run."""
    resolved = json.dumps(report.resolved, indent=2, ensure_ascii=False) if report.resolved else ""
    sources = (
        WrittenText("Plan", "The plan as written", report.plan_text, "yaml"),
        WrittenText("Plan, resolved", "The plan as resolved, with every default", resolved, "json"),
    )
    return Page(
        title=report.title or report.plan,
        lead=(sentence(report),),
        made=f"{report.created} · ratchet {report.ratchet} · commit {report.commit}",
        callouts=tuple(
            Callout(f"{one.of}: {one.name}", _capital(one.says), _capital(one.do), one.grave)
            for one in report.diagnoses
        ),
        warnings=report.warnings,
        headline=tables.headline(report),
        first_samples=first_samples(report),
        sections=tuple(run_sections(report)),
        about="Made with",
        facts=tuple(run_facts(report)),
        sources=tuple(one for one in sources if one.text),
        # The page's style has eight colours; a ninth stage has the first again.
        stages={name: index % 8 for index, name in enumerate(coloured(report))},
        answers=side_by_side(report),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


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


def run_facts(report: Report) -> list[tuple[str, str]]:
    """What the run was made with: code, machine, libraries."""
    found = [("made", report.created), ("ratchet", f"{report.ratchet}, commit {report.commit}")]
    if machine := report.hardware:
        gpus = ", ".join(machine.gpus) or "no GPU"
        found.append(("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GiB, {gpus}"))
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items() if name != "ratchet")
    return [*found, ("versions", libraries)] if libraries else found


def run_sections(report: Report) -> list[Section]:
    """Return the report's sections in order, with their tables; some have only drawings, or nothing."""
    return [
        *([Section("graph", "What was made from what", drawing=graph)] if (graph := model_graph(report)) else []),
        section("models", "The models, and how to load them", "", tables.load_lines(report)),
        section(
            "parts", "What the start model is made of", "", tables_model.parts(report), tables_model.reaches(report)
        ),
        section("samples", "Answers, before and after", "", samples(report)),
        *_score_sections(report),
        section(
            "chosen",
            "Does the chosen answer hold?",
            "DPO needs only the margin between the answers to grow, so it may lower the chosen answer as long as it "
            "lowers the rejected one more. DPO-Positive penalises just that.",
            tables.chosen(report),
            charts=lambda: [charts.draw_chosen_overlay(report), *charts.draw_chosen_and_rejected(report)],
        ),
        section(
            "loss",
            "Loss",
            charts=lambda: charts.draw_losses(report),
            legend="Dots: on held-out pairs, at checkpoints.",
        ),
        section("margins", "Reward margins and accuracies", charts=lambda: charts.draw_margins(report)),
        section("experts", "Load of the experts", charts=lambda: charts_experts.draw_experts(report)),
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
            charts=lambda: charts_data.draw_gamma(report),
            legend="Circles: held out. Squares: training pairs; hollow where memorised.",
        ),
        section(
            "difficulty",
            "Difficulty of the sources",
            "",
            tables_data.difficulties(report),
            charts=lambda: charts_data.draw_difficulty(report),
        ),
        section(
            "distance",
            "How far apart chosen and rejected are",
            "Token edit distance between the two answers, divided by the longer one's length.",
            cautions=tables_data.low_distance_warnings(report),
            charts=lambda: charts_data.draw_edit_distances(report),
            legend="Left of the grey line answers are near twins.",
        ),
        section(
            "sources",
            "Sources and skipped rows",
            "",
            tables_data.sources(report),
            tables_data.skipped(report),
            tables_data.tokens(report),
            tables_data.token_use(report.token_use),
        ),
        section(
            "overlap",
            "Overlap between sources",
            "Pairs and prompts that stand in more than one source.",
            tables_data.overlap(report.overlap, {source.name: source.record for source in report.sources}),
        ),
        section("steps", "Steps", "", tables.steps(report), tables.merges(report)),
        section(
            "effect",
            "What publishing kept",
            "A model is published as a rounding of what was trained.",
            tables.effects(report),
        ),
        section(
            "engines",
            "Who scored the reference",
            "Scores of another engine are used only where they agree with the trainer's own.",
            tables.engines(report),
        ),
        section(
            "throughput",
            "Time and throughput",
            "",
            tables.throughput(report),
            charts=lambda: [charts.draw_times(report)],
        ),
    ]


def _score_sections(report: Report) -> list[Section]:
    """Return the sections that a report with scores begins with; none without scores."""
    scores = report.scores
    if scores is None:
        return []
    return [
        section(
            "scores",
            "What the models score",
            "",
            *tables_scores.headlines(report, scores),
            cautions=tables_settings.warnings(scores),
            charts=lambda: [charts_scores.draw_tasks(report, scores), *charts_scores.draw_others(report, scores)],
            legend=HOW_TO_READ,
        ),
        section(
            "differences",
            "Which differences are shown",
            "Two models are compared item by item, on the same items. A model is called better or worse where p, after "
            "Holm's correction for all comparisons of this table, is below 0.05. Not shown means that these items "
            "cannot tell the two apart; it does not mean that they are equal.",
            tables_scores.differences(report, scores),
        ),
        section(
            "tasks",
            "Task by task",
            "",
            *tables_scores.details(report, scores),
            charts=lambda: charts_scores.draw_parts(report, scores),
        ),
        section(
            "answers",
            "Answers, side by side",
            "Items on which the models differ most stand first: examples to read, and no sample to judge by.",
            first_answers(scores),
        ),
        section(
            "problems",
            "Items without a verdict",
            "Answers that could not be read, and judgments that are missing, apart from answers that are wrong.",
            tables_settings.problems(report, scores),
        ),
        section(
            "settings",
            "What decided the scores",
            "",
            tables_settings.evaluated(report, scores),
            *tables_settings.settings(scores),
            tables_settings.times(report, scores),
        ),
    ]
