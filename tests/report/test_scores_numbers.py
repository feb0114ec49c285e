"""Scores without errors, and what a tracker and a reader of the page are given."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np

from ratchet.documents import scores as scores_document
from ratchet.documents.report import read_report
from ratchet.documents.scores import read_scores
from ratchet.report.charts import scores as charts_scores
from ratchet.report.tables import scores as tables_scores
from ratchet.track.wandb import wandb_summary, wandb_tables
from report_page import markdown_of
from scores_example import BOARD, TALK, of, result, score, scores, standalone


def test_dots_are_where_the_scores_are() -> None:
    """Read the markers' places back from the SVG: they are the scores, up to the axis' scale."""
    data = scores(("base", "warm", "align"))
    values = {"base": 0.31, "warm": 0.47, "align": 0.79}
    data["results"] = [
        result(name, BOARD, "quiz", "harness", [score("m", value, 0.01, 100)]) for name, value in values.items()
    ]
    data |= {"averages": [], "comparisons": [], "answers": []}
    report = read_report(standalone(scores=data))
    chart = charts_scores.draw_tasks(report, report.scores)
    assert chart is not None
    places = re.findall(r'<use xlink:href="#[^"]+" x="([\d.]+)" y="[\d.]+" style="fill: var\(--stage', chart.svg)
    marks = np.array(places[3:], dtype=np.float64)  # after the legend's
    np.testing.assert_allclose(np.diff(marks)[1] / np.diff(marks)[0], (0.79 - 0.47) / (0.47 - 0.31), rtol=1e-3)


def test_a_score_without_an_error_is_shown_as_such_in_tables_and_charts_and_for_a_tracker() -> None:
    data = scores()
    of(data, "warm", "arc")["scores"][0] |= {"value": 1.0, "standard_error": None, "note": "one item: no error"}
    talk = of(data, "warm", "mt_bench")["scores"][0]
    talk |= {"value": 6.25, "standard_error": 0.0}
    average = next(one for one in data["averages"] if (one["model"], one["name"]) == ("warm", "H6"))
    average |= {"value": 0.625, "standard_error": None, "note": "no error of arc"}
    report = read_report(standalone(scores=data))
    assert report.scores is not None
    for made in (tables_scores.headlines(report, report.scores), tables_scores.details(report, report.scores)):
        cells = [cell for table in made for row in table.rows for cell in row.cells]
        assert "one item: no error" in next(cell.aside for cell in cells if cell.text == "100.0 (no error)")
        assert "6.25 (no error)" in [cell.text for cell in cells], "all ratings are the same"
    board = tables_scores.headlines(report, report.scores)[0]
    said = {cell.text: cell.aside for row in board.rows for cell in row.cells}
    assert said["62.5 (no error)"] == "no error of arc"
    text = markdown_of(report).replace("\\", "")
    assert {"100.0 (no error)", "62.5 (no error)"} <= set(re.findall(r"[\d.]+ \(no error\)", text))
    assert "one item: no error" in text and "no error of arc" in text
    summary = wandb_summary(report.scores, "warm")
    assert summary["eval/open_llm_leaderboard/arc"] == 1.0
    assert "eval/open_llm_leaderboard/arc_error" not in summary
    assert summary["eval/talk/mt_bench"] == 6.25 and "eval/talk/mt_bench_error" not in summary
    columns, rows = wandb_tables(report.scores, "warm")["eval/scores"]
    sent = {row[columns.index("note")]: dict(zip(columns, row, strict=True)) for row in rows}
    for note, value in (("one item: no error", 1.0), ("no error of arc", 0.625)):
        assert (sent[note]["value"], sent[note]["standard_error"]) == (value, None)


def test_a_dot_without_an_error_is_hollow_and_has_no_bar() -> None:
    data = scores()
    sure = read_report(standalone(scores=copy.deepcopy(data)))
    of(data, "warm", "arc")["scores"][0]["standard_error"] = None
    unsure = read_report(standalone(scores=data))
    assert sure.scores and unsure.scores
    before, after = (charts_scores.draw_tasks(report, report.scores) for report in (sure, unsure))
    assert before and after
    bars, hollow = (
        [len(re.findall(pattern, chart.svg)) for chart in (before, after)]
        for pattern in ('stroke-width: 1.4[;"]', r"<use [^>]*fill: var\(--page\)")
    )
    assert bars[0] > 20 and bars[1] == bars[0] - 1
    assert hollow == [0, 1]


def test_the_documents_page_names_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scores.md").read_text()
    kinds = [
        kind for kind in vars(scores_document).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    ]
    assert len(kinds) == 8
    keys = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_a_tracker_is_given_headlines_averages_and_tables_of_one_model() -> None:
    data = scores()
    found = read_scores(data)
    summary = wandb_summary(found, "warm")
    arc = of(data, "warm", "arc")["scores"][0]
    assert summary["eval/open_llm_leaderboard/arc"] == arc["value"]
    assert summary["eval/open_llm_leaderboard/arc_error"] == arc["standard_error"]
    assert "eval/open_llm_leaderboard/H6_error" in summary
    assert "eval/talk/eq_bench" not in summary  # it has no score
    tables = wandb_tables(found, "warm")
    assert {name: len(rows) for name, (_, rows) in tables.items()} == {
        "eval/scores": 5 + 59 + 11 + 1 + 1 + 2,
        "eval/differences": 10,
        "eval/problems": 3,
        "eval/answers": 5,
    }
    for columns, rows in tables.values():
        assert all(len(row) == len(columns) for row in rows)
        for column in zip(*rows, strict=True):
            assert len({type(value) for value in column if value is not None}) <= 1
    assert "eval/differences" not in wandb_tables(found, "base")


def test_two_suites_of_one_name_keep_their_folders() -> None:
    data = scores(("base",))
    other = "mine/talk.yaml"
    again = [{**copy.deepcopy(one), "suite": other} for one in data["results"] if one["suite"] == TALK]
    found = read_scores({**data, "suites": [*data["suites"], other], "results": [*data["results"], *again]})
    assert found.label(TALK, "eq_bench") == "eval/talk.yaml: eq_bench"
    assert "eval/mine/talk.yaml/mt_bench" in wandb_summary(found, "base")
