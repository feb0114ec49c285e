"""The report: one document in, a page and Markdown out, with nothing lost, invented or let through."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ratchet.documents.report import read_report
from ratchet.report.charts import data as charts_data
from ratchet.report.charts import experts as charts_experts
from ratchet.report.drawing import model_graph
from ratchet.report.page import run_sections
from ratchet.report.render import escape
from ratchet.report.tables import data as tables_data
from ratchet.report.tables import training as tables
from report_example import example, short
from report_page import Page, markdown_of, page_of, well_formed_tables


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(read_report(example()))


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    seen = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags
    assert seen.links
    assert all(link.startswith("#") for link in seen.links)
    assert {link[1:] for link in seen.links} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert "http" not in html
    assert not re.search(r"@import|url\((?!#)", html)
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", html)) <= set(re.findall(r"(--[a-z0-9-]+):", html))
    assert not re.search(r"#0[0-9a-f]{5}\b", html.partition("</style>")[2])
    assert len(html) < 1_500_000


def said(share: float, count: int) -> str:
    """Return a share as the report says it, its interval by scipy's own test."""
    found = binomtest(round(share * count), count).proportion_ci(method="exact")
    return f"{100 * share:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def test_every_number_is_on_the_page_and_in_the_markdown(html: str) -> None:
    data = example()
    shown, text = Page(html).text, markdown_of(read_report(data)).replace("\\", "")
    wanted = {f"{data['steps'][1]['pairs']:,}", "0.693147", "1 h 26 min", "dcdfbfe0a1b2", "2026-11-21T09:14:05Z"}
    for source in data["sources"]:
        wanted |= {f"{source[key]:,}" for key in ("read", "kept", "train", "heldout")}
        wanted |= {f"{number:,}" for number in source["skipped"].values()}
        wanted |= {f"{one['tokens_train']:,}" for one in source["tokens"]}
        if source["edit_distance"]:
            wanted.add(f"{source['edit_distance']['median']:.3f}")
    for one in data["evaluation"]:
        wanted |= {said(found["score"], found["items"]) for found in one["exact_match"]}
        for found in one["heldout"]:
            wanted.add(said(found["reward_accuracy"], found["pairs"]))
            wanted.add(f"{found['chosen_delta']:.2f} ± {found['chosen_delta_error']:.2f}".replace("-", "−"))
            wanted.add(f"{found['margin']:.2f} ± 0.31")
    wanted |= {f"{one['mean']:.2f} ± {one['standard_error']:.2f}".replace("-", "−") for one in data["gamma"]}
    wanted |= {said(one["accuracy"], one["pairs"]) for one in data["difficulty"]}
    wanted |= {f"{step['pairs_per_second']:.1f}" for step in data["steps"] if "pairs_per_second" in step}
    wanted |= {"vllm 0.32.0", "0.002 ± 0.011", "−0.0432", "0.176", "0.730400"}
    wanted |= {"0.3 × warm + 0.7 × align.3", "reused", "scored", "memorised", "fell", "rose"}
    assert len(wanted) > 100
    assert {item for item in wanted if item not in shown} == set()
    assert {item for item in wanted if item not in text} == set()


def test_every_row_and_chart_names_its_record(html: str) -> None:
    seen = Page(html)
    assert all(seen.titles)
    listed = set(re.findall(r'<li id="r\d+">([^<]+)</li>', html))
    assert {path for title in seen.titles for path in title.split("\n")} <= listed | {
        box.shape.detail
        for box in model_graph(read_report(example())).boxes  # type: ignore[union-attr]
    }
    assert {one["record"] for one in example()["gamma"]} <= listed
    assert "runs/sums-then-care/steps/control/metrics.jsonl" in listed
    for section in run_sections(read_report(example())):
        for table in section.tables:
            assert all(row.records for row in table.rows), section.key


def test_pooling_and_ends_agree_with_numpy() -> None:
    data = example()
    report = read_report(data)
    rows = next(one for one in data["evaluation"] if one["model"] == "control")["heldout"]
    pairs = np.array([row["pairs"] for row in rows], dtype=np.float64)
    for key, error, found in (
        ("reward_accuracy", "standard_error", "accuracy"),
        ("chosen_delta", "chosen_delta_error", "chosen"),
    ):
        mean = np.average([row[key] for row in rows], weights=pairs)
        spread = np.sqrt(np.sum((pairs / pairs.sum() * [row[error] for row in rows]) ** 2))
        np.testing.assert_allclose(getattr(tables_data.pooled(report, "control"), found), (mean, spread), rtol=1e-12)
    deltas = np.array([line["logps/chosen_delta"] for line in data["steps"][1]["history"]])[-69:]
    mean, spread = tables.end_of(report.steps[1], "logps/chosen_delta")
    np.testing.assert_allclose((mean, spread), (deltas.mean(), deltas.std(ddof=1) / math.sqrt(69)), rtol=1e-9)


def test_the_headline_shows_finals_and_what_they_start_from() -> None:
    report = read_report(example())
    assert report.final_models == ["control", "align.3", "blend"]
    head = tables.headline(report)
    assert head is not None
    assert [(row.cells[0].text, row.muted) for row in head.rows] == [
        ("base", True),
        ("warm", True),
        ("control", False),
        ("align.3", False),
        ("blend", False),
    ]


def test_a_verdict_is_of_two_standard_errors() -> None:
    data = example()
    for row in data["evaluation"][2]["heldout"]:
        row |= {"chosen_delta": -0.1, "chosen_delta_error": 0.2}
    table = tables.chosen(read_report(data))
    assert table is not None
    assert [row.cells[-1].text for row in table.rows] == ["level", "rose", "rose", "rose"]


def test_a_memorised_cell_is_marked_and_explained(html: str) -> None:
    data = example()
    assert html.count('<span class="mark">memorised</span>') == sum(one["seen"] for one in data["gamma"])
    assert "so a high γ there shows memory" in html
    for one in data["gamma"]:
        one["seen"] = False
    assert "emorised" not in markdown_of(read_report(data))


def test_plain_dpo_on_near_twins_is_warned_of() -> None:
    data = example() | {"warnings": []}
    said = [section.cautions for section in run_sections(read_report(data)) if section.key == "distance"]
    assert len(said[0]) == 1
    assert "control trains dpo on slips" in said[0][0]
    data["steps"][1]["kind"] = "dpop"
    assert not [section.cautions for section in run_sections(read_report(data)) if section.cautions]


HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$ | `a` ](javascript:x) --> <!-- #010101 \u8bcd'

FORMULA = "$\\frac{1}{0}$"


@pytest.mark.heavy
def test_hostile_names_and_plans_stay_text() -> None:
    text = json.dumps(short())
    for name, other in (("align", HOSTILE), ("quiz", FORMULA), ("warm", HOSTILE)):
        text = re.sub(rf'"{name}(\.\d)?"', lambda found, other=other: json.dumps(other + (found[1] or "")), text)
    data = json.loads(text) | {
        "plan_text": f"name: {HOSTILE}\n```\n# not a heading",
        "title": HOSTILE,
        "warnings": [HOSTILE],
    }
    report = read_report(data)
    seen = Page(page_of(report))
    assert "script" not in seen.tags
    assert seen.text.count(HOSTILE) > 5
    assert f"1. {FORMULA}" in seen.texts  # the name as a chart shows it
    assert all(link.startswith("#") for link in seen.links)
    made = markdown_of(report)
    assert "<script>" not in made.partition("## Plan\n")[0]
    assert well_formed_tables(made) > 5
    assert "\n````yaml\n" in made


def test_markdown_tables_are_well_formed() -> None:
    report = read_report(example())
    made = markdown_of(report)
    expected = 1 + sum(len(section.tables) for section in run_sections(report))
    assert well_formed_tables(made) == expected
    assert "<svg" not in made
    for number, path in re.findall(r"^- r(\d+): (.+)$", made, flags=re.MULTILINE):
        assert f"r{number} |" in made or f"r{number} " in made, path


@pytest.mark.heavy
@given(st.text())
def test_escaped_text_is_what_a_markdown_reader_shows(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    shown = markdown_it.MarkdownIt("commonmark").renderInline(f"x {escape(text)} x")
    reader = HTMLParser()
    pieces: list[str] = []
    reader.handle_data = pieces.append  # type: ignore[method-assign]
    reader.handle_starttag = lambda tag, attrs: pytest.fail(f"made a <{tag}>")  # type: ignore[method-assign]
    reader.feed(shown)
    reader.close()
    flat = " ".join(text.replace("\0", "\ufffd").split())
    assert " ".join("".join(pieces).split()) == f"x {flat} x".replace("  ", " ")


@pytest.mark.heavy
def test_one_pair_is_shown_without_an_error_and_gives_no_verdict() -> None:
    data = example()
    for row in data["evaluation"][2]["heldout"]:
        row |= {"standard_error": None, "chosen_delta_error": None}
    data["evaluation"][2]["heldout"][0]["reward_accuracy"] = 1.0
    data["difficulty"][0] |= {"accuracy": 1.0, "standard_error": None}
    data["gamma"][0] |= {"mean": 1.25, "standard_error": None}
    table = tables.chosen(read_report(data))
    assert table is not None
    assert [row.cells[-1].text for row in table.rows] == ["–", "rose", "rose", "rose"]
    for text in (Page(page_of(read_report(data))).text, markdown_of(read_report(data)).replace("\\", "")):
        pairs = data["difficulty"][0]["pairs"]
        assert said(1.0, pairs) in text and "1.25 (no error)" in text
    assert "100.0 %" in "".join(chart.svg for chart in charts_data.draw_difficulty(read_report(data)))
    assert "no error" in "".join(chart.svg for chart in charts_data.draw_gamma(read_report(data)))


@pytest.mark.heavy
def test_the_load_of_experts_is_drawn_where_there_are_any() -> None:
    data = example()
    assert charts_experts.draw_experts(read_report(data)) == []
    trained = [step for step in data["steps"] if step.get("history")]
    for line in trained[-1]["history"]:
        line |= {"experts/peak": 1.5, "experts/entropy": 0.9, "experts/dead": 2.0}
    drawn = charts_experts.draw_experts(read_report(data))
    assert [chart.caption.split(",")[0].split(":")[0] for chart in drawn] == [
        "Load of the busiest expert",
        "Entropy of the load",
        "Experts that no token of a step went to",
    ]
    assert all(trained[-1]["stage"] in chart.svg and trained[0]["stage"] not in chart.svg for chart in drawn)
    assert "Load of the experts" in page_of(read_report(data))


def test_graph_has_every_model_once_and_no_overlapping_boxes() -> None:
    drawn = model_graph(read_report(example()))
    assert drawn is not None
    assert sorted(box.shape.id for box in drawn.boxes) == [
        "align.1",
        "align.2",
        "align.3",
        "base",
        "blend",
        "control",
        "warm",
    ]
    assert len({(box.x, box.y) for box in drawn.boxes}) == len(drawn.boxes)
    assert sum(edge.look == "average" for edge in drawn.edges) == 2
    data = example()
    data["steps"][1]["reference"] = "base"
    assert "Dashed" not in drawn.text
    assert "Dashed" in model_graph(read_report(data)).text  # type: ignore[union-attr]
