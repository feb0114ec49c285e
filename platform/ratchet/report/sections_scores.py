"""The report's sections of suites: scores, differences, tasks, answers, troubles, settings."""

from __future__ import annotations

from ratchet.documents.report import Report
from ratchet.report import charts_scores, tables_scores, tables_settings
from ratchet.report.parts import Drawings, Section, section

HOW_TO_READ = (
    "Bars are 95 % intervals (1.96 standard errors) of each score alone; a hollow mark has no error. Whether two "
    "models differ is decided item by item, in the next section: bars that overlap do not settle it."
)


def score_drawings(report: Report) -> dict[str, Drawings]:
    """Return the charts of the sections that have some."""
    scores = report.scores
    if scores is None:
        return {}
    several = charts_scores.tasks(report, scores), charts_scores.others(report, scores)
    return {
        "scores": Drawings.of([several[0]], several[1], HOW_TO_READ),
        "tasks": Drawings.of(charts_scores.mt_bench(report, scores), []),
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
            tables_settings.answers(scores),
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
            tables_settings.models(report, scores),
            *tables_settings.settings(scores),
            tables_settings.times(report, scores),
        ),
    ]
