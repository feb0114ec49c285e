"""What the report shows of suites: every number once more, verdicts, profiles, judges; and no answer that runs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from nightly import nightly
from ratchet.documents.report import read_report
from ratchet.report.answers import side_by_side
from ratchet.report.charts import scores as charts_scores
from ratchet.report.page import run_sections, sentence
from ratchet.report.parts import PageTable
from ratchet.report.tables import scores as tables_scores
from ratchet.report.tables import settings as tables_settings
from report_example import example
from report_page import Page, markdown_of, page_of, well_formed_tables
from scores_example import BOARD, MODELS, comparison, of, result, score, scores, standalone

pytestmark = pytest.mark.heavy


def texts(table: PageTable) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def heads(table: PageTable) -> list[str]:
    return [f"{column.name} ({column.unit})" if column.unit else column.name for column in table.columns]


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(read_report(standalone()))


# --- numbers -------------------------------------------------------------------------------------


def shown(one: dict[str, Any]) -> str:
    """Write a score as the page does, by another route."""
    factor = 100 if one["unit"] == "share" else 1
    value, error = factor * one["value"], factor * one["standard_error"]
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def test_every_score_stands_on_the_page_and_in_the_markdown(html: str) -> None:
    data = scores()
    known = [one for found in data["results"] for one in found["scores"]] + data["averages"]
    wanted = {shown(one) for one in known if one["value"] is not None}
    wanted |= {one["weights"] for one in data["models"]} | {
        "no score",
        "only 139 of 171 questions could be read",
    }
    assert len(wanted) > 200
    said, text = Page(html).text, markdown_of(read_report(standalone())).replace("\\", "")
    assert {item for item in wanted if item not in said} == set()
    assert {item for item in wanted if item not in text} == set()


def test_the_headline_has_a_column_for_each_task_and_average_with_its_metric_and_profile() -> None:
    report = read_report(standalone())
    board, talk = tables_scores.headlines(report, report.scores)
    assert board.title == "open_llm_leaderboard"
    assert heads(board)[:2] == ["model", "arc (acc_norm, %, openllm-v1)"]
    assert heads(board)[-2:] == [f"{name} (%, openllm-v1, MMLU as the mean of its subjects)" for name in ("H4", "H6")]
    assert [head for head in heads(board) if head.startswith("mmlu")] == [
        "mmlu (acc, mean of subjects, %, openllm-v1)",
        "mmlu (acc, by size, %, openllm-v1)",
    ]
    assert heads(talk)[1] == "mt_bench (average, points, MT-Bench, judge gpt-4 (replay of x.jsonl), references gpt-4)"
    assert heads(talk)[-1] == "stories (perplexity, perplexity, lower is better)"
    assert [row[0] for row in texts(board)] == list(MODELS)
    assert "H4 is the mean of arc, hellaswag, mmlu, truthfulqa." in board.note


def test_a_score_that_does_not_exist_says_why() -> None:
    report = read_report(standalone())
    talk = tables_scores.headlines(report, report.scores)[1]
    cell = talk.rows[1].cells[heads(talk).index("eq_bench (EQ-Bench v2, points)")]
    assert (cell.text, cell.aside) == ("no score", "only 139 of 171 questions could be read")
    assert "warm" not in charts_scores.draw_others(report, report.scores)[1].svg


def test_a_model_with_another_judge_is_marked_wherever_its_score_stands() -> None:
    data = scores()
    of(data, "warm", "mt_bench")["settings"] = {"judge": {"name": "own/judge"}, "references": {"rows": 30, "by": "us"}}
    report = read_report(standalone(scores=data))
    for table in (
        tables_scores.headlines(report, report.scores)[1],
        *tables_scores.details(report, report.scores)[2:4],
    ):
        found = [cell for row in table.rows for cell in row.cells if cell.mark]
        assert {(cell.mark, cell.aside) for cell in found} == {
            ("measured otherwise", "judge own/judge, references rows 30, by us")
        }
    assert "judge own/judge" in charts_scores.draw_parts(report, report.scores)[0].caption


def test_mmlu_keeps_its_subjects_folded_and_mt_bench_shows_its_categories() -> None:
    report = read_report(standalone())
    made = {table.title: table for table in tables_scores.details(report, report.scores)}
    assert {title: (len(table.rows), table.folded) for title, table in made.items()} == {
        "open_llm_leaderboard, every score of whole tasks": (7, False),
        "mmlu, acc, openllm-v1, 57 parts": (57, True),
        "talk, every score of whole tasks": (5, False),
        "mt_bench, MT-Bench, judge gpt-4 (replay of x.jsonl), references gpt-4, 8 parts": (8, False),
    }
    page_text = page_of(report)
    assert re.search(r"<details><summary>mmlu, acc, openllm-v1, 57 parts</summary>", page_text)
    assert "<h3>mt_bench, MT-Bench, judge gpt-4 (replay of x.jsonl), references gpt-4, 8 parts</h3>" in page_text


def test_parts_are_drawn_of_any_kind_of_task_that_is_no_share() -> None:
    data = scores(("base", "warm"))
    for one in data["results"]:
        one["kind"] = "from_another_package"
    report = read_report(standalone(scores=data))
    (chart,) = charts_scores.draw_parts(report, report.scores)
    assert chart.caption.startswith("mt_bench, part by part, ")
    assert "humanities" in chart.svg


# --- differences ---------------------------------------------------------------------------------


def test_every_model_stands_against_the_base_and_the_one_before_in_one_table() -> None:
    report = read_report(standalone())
    table = tables_scores.differences(report, report.scores)
    assert table is not None
    pairs = [(row[0], row[1]) for row in texts(table)]
    tasks = {"arc", "hellaswag", "truthfulqa", "winogrande", "gsm8k", "mmlu", "mt_bench", "stories", "H4", "H6"}
    assert set(pairs) == {(model, task) for model in MODELS[1:] for task in tasks} | {
        (model, "eq_bench") for model in ("align.1", "align.3")
    }
    assert len(pairs) == len(set(pairs))
    assert {row[0]: row[5] for row in texts(table) if row[1] == "arc"} == {
        "warm": "base",
        "align.1": "warm",
        "align.3": "align.1",
    }
    warm = texts(table)[0]
    assert warm[2:5] == warm[6:9]  # it was made from the base


@pytest.mark.parametrize(
    ("unit", "sides", "cells", "aside"),
    [
        ("share", ((0.50, 0.02), (0.42, 0.02)), ("+8.0 ± 1.0", "< 0.001", "▲ better"), "+6.0 to +10.0"),
        ("share", ((0.42, 0.02), (0.45, 0.02)), ("−3.0 ± 1.0", "0.024", "▼ worse"), "−5.0 to −1.0"),
        ("points", ((6.31, 0.34), (6.10, 0.34)), ("+0.21 ± 0.17", "1.000", "· not shown"), "−0.12 to +0.54"),
    ],
)
def test_a_difference_has_an_interval_a_p_and_a_verdict(unit: str, sides: Any, cells: Any, aside: str) -> None:
    data = scores(("base", "warm"))
    head = score("m", 0.5, 0.02, 100, unit=unit)
    data["results"] = [result(name, BOARD, "quiz", "harness", [head]) for name in ("base", "warm")]
    data["comparisons"] = [comparison("warm", "base", "base", BOARD, "quiz", "m", sides)]
    report = read_report(standalone(scores=data))
    table = tables_scores.differences(report, report.scores)
    assert table is not None
    assert tuple(texts(table)[0][2:5]) == cells
    assert table.rows[0].cells[2].aside == aside
    assert table.rows[0].records == (
        "store/scores/warm/open_llm_leaderboard/quiz",
        "store/scores/base/open_llm_leaderboard/quiz",
    )


def test_a_comparison_that_could_not_be_made_says_so() -> None:
    data = scores(("base", "warm"))
    nothing = dict.fromkeys(("difference", "standard_error", "low", "high", "p", "p_holm"))
    data["comparisons"] = [
        {**data["comparisons"][0], **nothing, "verdict": "not shown", "items": 0, "clusters": 0, "note": "no items"}
    ]
    report = read_report(standalone(scores=data))
    table = tables_scores.differences(report, report.scores)
    assert table is not None
    assert [cell.aside for cell in table.rows[0].cells if cell.text == "· not shown"] == ["no items"] * 2


def test_what_not_shown_means_stands_above_the_table(html: str) -> None:
    assert "it does not mean that they are equal" in Page(html).text
    assert "it does not mean that they are equal" in markdown_of(read_report(standalone()))


def test_answers_are_said_to_be_no_sample(html: str) -> None:
    assert "no sample to judge by" in Page(html).text


# --- the page ------------------------------------------------------------------------------------


def test_an_evaluation_alone_is_a_sensible_page(html: str) -> None:
    report = read_report(standalone())
    assert sentence(report) == "4 models on 2 suites: 9 tasks, 5 min 12 s."
    seen = Page(html)
    assert "0 step" not in seen.text
    assert [one.key for one in run_sections(report) if one.tables] == [
        *("scores", "differences", "tasks", "answers", "problems", "settings")
    ]
    assert {link[1:] for link in seen.links} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert not {"link", "img", "iframe", "object"} & seen.tags
    assert "http" not in html
    for section in run_sections(report):
        assert all(row.records for table in section.tables for row in table.rows), section.key
    one = read_report(standalone(scores=scores(("base",))))
    assert sentence(one) == "1 model on 2 suites: 9 tasks, 5 min 12 s."
    assert "Which differences are shown" not in page_of(one)


def test_a_run_with_scores_keeps_its_sentence_and_its_colours() -> None:
    data = example()
    for step in data["steps"]:
        step["history"] = []
    report = read_report(data | {"scores": scores()})
    assert sentence(report).startswith("6 steps in 4 stages")
    board = tables_scores.headlines(report, report.scores)[0]
    assert [row.cells[0].stage for row in board.rows] == ["", "warm", "align", "align"]
    looks = charts_scores.look(report, MODELS)
    assert looks["align.1"][0] == looks["align.3"][0] != looks["warm"][0]
    assert len({looks["align.1"], looks["align.3"]}) == 2
    assert looks["base"][1] != looks["warm"][1]  # grey both
    Page(page_of(report))


@pytest.mark.parametrize("count", nightly([1, 2, 8], lambda count: count == 2))
def test_the_pictures_hold_up_to_eight_models_with_long_names(count: int) -> None:
    names = ("base", *(f"stage-{n}-with-a-name-that-goes-on-for-quite-a-while-longer" for n in range(1, count)))
    report = read_report(standalone(scores=scores(names)))
    looks = charts_scores.look(report, names)
    assert len(set(looks.values())) == count
    chart = charts_scores.draw_tasks(report, report.scores)
    assert chart is not None
    for svg, cut in ((chart.svg, 40), (chart.narrow, 20)):
        for name in names:
            assert svg.count(f">{name if len(name) <= cut else name[: cut - 1] + '…'}<") == 1
    assert "hellaswag" in chart.svg
    assert chart.caption == "Tasks and averages, by model, openllm-v1"
    drawn = charts_scores.draw_parts(report, report.scores)
    assert len(drawn) == 1
    assert all(part in drawn[0].svg for part in ("whole task", "writing", "humanities"))


def test_markdown_tables_are_well_formed() -> None:
    report = read_report(standalone())
    made = markdown_of(report)
    assert well_formed_tables(made) == sum(len(section.tables) for section in run_sections(report))
    assert "### open\\_llm\\_leaderboard\n" in made
    assert "<svg" not in made


@pytest.mark.parametrize(
    "gone", nightly(["averages", "comparisons", "answers", "results"], lambda gone: gone == "results")
)
def test_any_part_may_be_missing(gone: str) -> None:
    data = scores() | {gone: []}
    if gone == "results":
        data |= {"averages": [], "comparisons": [], "answers": []}
    report = read_report(standalone(scores=data))
    seen = Page(page_of(report))
    titles = {"comparisons": "Which differences are shown", "answers": "Answers, side by side"}
    if gone in titles:
        assert titles[gone] not in seen.text
        assert titles[gone] not in markdown_of(report)
    assert ("script" in seen.tags) is (gone not in {"answers", "results"})
    assert well_formed_tables(markdown_of(report)) == sum(len(section.tables) for section in run_sections(report))


def test_problems_warnings_and_settings_are_told() -> None:
    report = read_report(standalone())
    table = tables_settings.problems(report, report.scores)
    assert table is not None
    assert ["warm", "eq_bench", "names do not match", "32"] in texts(table)
    assert ["base", "gsm8k", "no number of the form #### N", "311"] in texts(table)
    assert tables_settings.warnings(report.scores) == ["eq_bench (warm): 19% of the answers could not be read"]
    assert "<b>Warning</b> eq_bench (warm): 19% of the answers could not be read" in page_of(report)
    made = {one.title: one for one in tables_settings.settings(report.scores)}
    assert ["data.digest", "9f2c" * 10] in texts(made["Settings of arc"])
    assert ["window", "2048", "4096", "4096", "4096"] in texts(made["Settings of stories"])  # not the same for all


# --- answers -------------------------------------------------------------------------------------


def test_a_long_answer_is_cut_and_can_be_opened(html: str) -> None:
    report = read_report(standalone())
    found = side_by_side(report)
    assert found is not None
    (title, (asked,)) = found.tasks[1]
    assert title == "mt_bench, MT-Bench, judge gpt-4 (replay of x.jsonl), references gpt-4"
    left, right = asked.sides
    assert (left.model, right.model) == ("base", "align.3")
    assert len(left.whole) == 731 * 14 > 10_000
    assert len(left.start) == 600
    assert left.start == left.whole[:599] + "…"
    assert (right.start, right.scores) == ("", "no rating in the judgment")
    assert left.whole in html
    assert markdown_of(report).count("A long story. ") < 15
