"""What a report of a run says, in order: its sections with their tables, and their drawings."""

from __future__ import annotations

from ratchet.documents.report import Report
from ratchet.report.answers import first_answers, samples
from ratchet.report.charts import data as charts_data
from ratchet.report.charts import scores as charts_scores
from ratchet.report.charts import training as charts
from ratchet.report.figures import many
from ratchet.report.parts import Drawings, Section, section
from ratchet.report.tables import data as tables_data
from ratchet.report.tables import scores as tables_scores
from ratchet.report.tables import settings as tables_settings
from ratchet.report.tables import training as tables
from ratchet.track.progress import duration


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
        section("models", "The models, and how to load them", "", tables.load_lines(report)),
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
        section("difficulty", "Difficulty of the sources", "", tables_data.difficulties(report)),
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
        section("throughput", "Time and throughput", "", tables.throughput(report)),
    ]


def drawings(report: Report) -> dict[str, Drawings]:
    """Return each section's charts, by its key; a section without any is not there."""
    drawn = {
        **score_drawings(report),
        "chosen": Drawings.of([charts.draw_chosen_overlay(report)], charts.draw_chosen_and_rejected(report)),
        "loss": Drawings.of([], charts.draw_losses(report), "Dots: on held-out pairs, at checkpoints."),
        "margins": Drawings.of([], charts.draw_margins(report)),
        "gamma": Drawings.of(
            [], charts_data.draw_gamma(report), "Circles: held out. Squares: training pairs; hollow where memorised."
        ),
        "difficulty": Drawings.of([], charts_data.draw_difficulty(report)),
        "distance": Drawings.of(
            [], charts_data.draw_edit_distances(report), "Left of the grey line answers are near twins."
        ),
        "throughput": Drawings.of([charts.draw_times(report)], []),
    }
    return {key: found for key, found in drawn.items() if found.wide or found.small}


HOW_TO_READ = (
    "Bars are 95 % intervals (1.96 standard errors) of each score alone; a hollow mark has no error. Whether two "
    "models differ is decided item by item, in the next section: bars that overlap do not settle it."
)


def score_drawings(report: Report) -> dict[str, Drawings]:
    """Return the charts of the sections that have some."""
    scores = report.scores
    if scores is None:
        return {}
    several = charts_scores.draw_tasks(report, scores), charts_scores.draw_others(report, scores)
    return {
        "scores": Drawings.of([several[0]], several[1], HOW_TO_READ),
        "tasks": Drawings.of(charts_scores.draw_mt_bench(report, scores), []),
    }


def score_sections(report: Report) -> list[Section]:
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
        ),
        section(
            "differences",
            "Which differences are shown",
            "Two models are compared item by item, on the same items. A model is called better or worse where p, after "
            "Holm's correction for all comparisons of this table, is below 0.05. Not shown means that these items "
            "cannot tell the two apart; it does not mean that they are equal.",
            tables_scores.differences(report, scores),
        ),
        section("tasks", "Task by task", "", *tables_scores.details(report, scores)),
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
