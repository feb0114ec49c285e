"""The report: one document in, a page and Markdown out, with nothing lost, invented or let through."""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.commands import report as command
from ratchet.errors import DataError
from ratchet.report import figures, tables
from ratchet.report.charts import chosen_overlay
from ratchet.report.graph import graph
from ratchet.report.markdown import escape, markdown
from ratchet.report.page import drawings, page, sections, write_report
from ratchet.report.plots import smooth, thin
from ratchet.report.read import read
from report_example import example

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "rect", "use", "circle", "line", "stop"}


class Page(HTMLParser):
    """What a browser would see: text, ids, links; it fails on a tag that is closed and was not open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            assert not key.startswith("on")
            if key == "id":
                self.ids.append(value or "")
            if key in {"src", "href", "xlink:href", "action", "data"}:
                self.links.append(value or "")
            if key == "title":
                self.titles.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def html() -> str:
    return page(read(example()))


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


def test_every_number_is_on_the_page_and_in_the_markdown(html: str) -> None:
    data = example()
    shown, text = Page(html).text, markdown(read(data)).replace("\\", "")
    wanted = {f"{data['steps'][1]['pairs']:,}", "0.693147", "1 h 26 min", "dcdfbfe0a1b2", "2026-11-21T09:14:05Z"}
    for source in data["sources"]:
        wanted |= {f"{source[key]:,}" for key in ("read", "kept", "train", "heldout")}
        wanted |= {f"{number:,}" for number in source["skipped"].values()}
        wanted |= {f"{one['tokens_train']:,}" for one in source["tokens"]}
        if source["edit_distance"]:
            wanted.add(f"{source['edit_distance']['median']:.3f}")
    for one in data["evaluation"]:
        wanted |= {f"{100 * found['score']:.1f} ± {100 * found['standard_error']:.1f}" for found in one["exact_match"]}
        for found in one["heldout"]:
            wanted.add(f"{100 * found['reward_accuracy']:.1f} ± {100 * found['standard_error']:.1f}")
            wanted.add(f"{found['chosen_delta']:.2f} ± {found['chosen_delta_error']:.2f}".replace("-", "−"))
            wanted.add(f"{found['margin']:.2f} ± 0.31")
    wanted |= {f"{one['mean']:.2f} ± {one['standard_error']:.2f}".replace("-", "−") for one in data["gamma"]}
    wanted |= {f"{100 * one['accuracy']:.1f} ± {100 * one['standard_error']:.1f}" for one in data["difficulty"]}
    wanted |= {f"{step['pairs_per_second']:.1f}" for step in data["steps"] if "pairs_per_second" in step}
    wanted |= {"0.3 × warm + 0.7 × align.3", "reused", "scored", "memorised", "fell", "rose"}
    assert len(wanted) > 100
    assert {item for item in wanted if item not in shown} == set()
    assert {item for item in wanted if item not in text} == set()


def test_every_row_and_chart_names_its_record(html: str) -> None:
    seen = Page(html)
    assert all(seen.titles)
    listed = set(re.findall(r'<li id="r\d+">([^<]+)</li>', html))
    assert {path for title in seen.titles for path in title.split("\n")} <= listed | {
        f"{node.name}: {node.detail}"
        for node in graph(read(example())).nodes  # type: ignore[union-attr]
    }
    assert {one["record"] for one in example()["gamma"]} <= listed
    assert "runs/sums-then-care/steps/control/metrics.jsonl" in listed
    for section in sections(read(example())):
        for table in section.tables:
            assert all(row.records for row in table.rows), section.key


def test_pooling_and_ends_agree_with_numpy() -> None:
    data = example()
    report = read(data)
    rows = next(one for one in data["evaluation"] if one["model"] == "control")["heldout"]
    pairs = np.array([row["pairs"] for row in rows], dtype=np.float64)
    for key, error, found in (
        ("reward_accuracy", "standard_error", "accuracy"),
        ("chosen_delta", "chosen_delta_error", "chosen"),
    ):
        mean = np.average([row[key] for row in rows], weights=pairs)
        spread = np.sqrt(np.sum((pairs / pairs.sum() * [row[error] for row in rows]) ** 2))
        np.testing.assert_allclose(getattr(tables.pooled(report, "control"), found), (mean, spread), rtol=1e-12)
    deltas = np.array([line["logps/chosen_delta"] for line in data["steps"][1]["history"]])[-69:]
    mean, spread = tables.end_of(report.steps[1], "logps/chosen_delta")
    np.testing.assert_allclose((mean, spread), (deltas.mean(), deltas.std(ddof=1) / math.sqrt(69)), rtol=1e-9)


def test_the_headline_shows_finals_and_what_they_start_from() -> None:
    report = read(example())
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
    table = tables.chosen(read(data))
    assert table is not None
    assert [row.cells[-1].text for row in table.rows] == ["level", "rose", "rose", "rose"]


def test_a_memorised_cell_is_marked_and_explained(html: str) -> None:
    data = example()
    assert html.count('<span class="mark">memorised</span>') == sum(one["seen"] for one in data["gamma"])
    assert "so a high γ there shows memory" in html
    for one in data["gamma"]:
        one["seen"] = False
    assert "emorised" not in markdown(read(data))


def test_plain_dpo_on_near_twins_is_warned_of() -> None:
    data = example() | {"warnings": []}
    said = [section.cautions for section in sections(read(data)) if section.key == "distance"]
    assert len(said[0]) == 1
    assert "control trains plain dpo on slips" in said[0][0]
    data["steps"][1]["kind"] = "dpop"
    assert not [section.cautions for section in sections(read(data)) if section.cautions]


HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$ | `a` ](javascript:x) --> <!-- #010101 \u8bcd'

FORMULA = "$\\frac{1}{0}$"


def test_hostile_names_and_plans_stay_text() -> None:
    text = json.dumps(short())
    for name, other in (("align", HOSTILE), ("quiz", FORMULA), ("warm", HOSTILE)):
        text = re.sub(rf'"{name}(\.\d)?"', lambda found, other=other: json.dumps(other + (found[1] or "")), text)
    data = json.loads(text) | {
        "plan_text": f"name: {HOSTILE}\n```\n# not a heading",
        "title": HOSTILE,
        "warnings": [HOSTILE],
    }
    report = read(data)
    seen = Page(page(report))
    assert "script" not in seen.tags
    assert seen.text.count(HOSTILE) > 5
    assert f"1. {FORMULA}" in seen.texts  # the name as a chart shows it
    assert all(link.startswith("#") for link in seen.links)
    made = markdown(report)
    assert "<script>" not in made.partition("## Plan\n")[0]
    assert well_formed_tables(made) > 5
    assert "\n````yaml\n" in made


def well_formed_tables(text: str) -> int:
    """Check every table of a Markdown text by an outside parser; return how many there are."""
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(text)
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        if token.type == "tr_open":
            widths[-1].append(0)
        if token.type in {"td_open", "th_open"}:
            widths[-1][-1] += 1
    assert all(len(set(table)) == 1 and len(table) > 1 for table in widths)
    piped = [line for line in text.splitlines() if line.startswith("|")]
    assert len(piped) == sum(len(table) for table in widths) + len(widths)
    for line in piped:
        assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", piped[piped.index(line)]))
    return len(widths)


def test_markdown_tables_are_well_formed() -> None:
    report = read(example())
    made = markdown(report)
    expected = 1 + sum(len(section.tables) for section in sections(report))
    assert well_formed_tables(made) == expected
    assert "<svg" not in made
    for number, path in re.findall(r"^- r(\d+): (.+)$", made, flags=re.MULTILINE):
        assert f"r{number} |" in made or f"r{number} " in made, path


@settings(max_examples=100, deadline=None)
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


# --- parts that a run does not have --------------------------------------------------------------


def bare(**more: Any) -> dict[str, Any]:
    keys = ("plan", "created", "ratchet", "commit", "seconds")
    return {key: example()[key] for key in keys} | more


def short() -> dict[str, Any]:
    """A document with everything in it, but little of each, which is drawn faster."""
    data = example()
    data["steps"] = [data["steps"][number] for number in (0, 2)]
    data["gamma"] = [one for one in data["gamma"] if one["source"] == "quiz"]
    data["sources"] = [one for one in data["sources"] if one["name"] == "quiz"]
    for step in data["steps"]:
        step["history"] = step["history"][:20]
    return data


def test_a_report_of_nothing_is_a_page() -> None:
    report = read(bare())
    assert not any(section.tables for section in sections(report))
    Page(page(report))
    assert markdown(report).startswith("# sums-then-care\n")


def test_a_run_with_sft_alone_leaves_preferences_out() -> None:
    steps = example()["steps"][:1]
    report = read(bare(steps=steps, sources=example()["sources"][:1]))
    assert [section.key for section in sections(report) if section.tables] == ["sources", "steps", "throughput"]
    seen = Page(page(report))
    assert "ln 2" not in seen.text
    assert "reference pass" not in seen.text


@pytest.mark.parametrize("gone", ["evaluation", "difficulty", "gamma", "overlap", "sources", "steps"])
def test_any_part_may_be_missing(gone: str) -> None:
    data = short()
    for step in data["steps"]:
        step["history"] = []  # what is drawn without one is drawn above
    del data[gone]
    report = read(data)
    Page(page(report))
    well_formed_tables(markdown(report))


@pytest.mark.parametrize("lines", [0, 1, 2, 9])
def test_a_short_history_is_drawn(lines: int) -> None:
    data = bare(steps=copy.deepcopy(example()["steps"][1:3]))
    for step in data["steps"]:
        step["history"] = step["history"][:lines]
    report = read(data)
    assert ("chosen" in drawings(report)) is (lines > 0)


def test_numbers_that_do_not_exist_are_dashes(tmp_path: Path) -> None:
    data = short()
    data["steps"][1]["history"][5] |= {"loss": math.nan, "logps/chosen_delta": math.inf}
    data["steps"][1]["first_loss"] = math.nan
    data["gamma"][0]["mean"] = math.nan
    data["evaluation"][2]["heldout"][0]["chosen_delta"] = math.nan
    html, text = write_report(tmp_path, data)
    assert "NaN" not in (tmp_path / "report.json").read_text()
    for shown in (Page(html.read_text()).text, text.read_text()):
        assert not re.search(r"\b(nan|inf|None)\b", shown)


# --- arithmetic of the charts --------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_the_mean_and_the_limit(values: list[float], most: int) -> None:
    series = [(float(step), value) for step, value in enumerate(values, 1)]
    points = thin(series, most)
    assert len(points) <= most
    whole = (len(values) // -(-len(values) // most)) * -(-len(values) // most)
    size = -(-len(values) // most)
    assert points[: whole // size] == [
        (
            pytest.approx(np.mean(range(start + 1, start + size + 1))),
            pytest.approx(np.mean(values[start : start + size])),
        )
        for start in range(0, whole, size)
    ]


def test_a_long_history_is_thinned_and_said_so() -> None:
    data = example()
    before = chosen_overlay(read(data))
    line = data["steps"][1]["history"][-1]
    data["steps"][1]["history"] = [{**line, "step": step} for step in range(1, 20_001)]
    after = chosen_overlay(read(data))
    assert before is not None
    assert after is not None
    assert "means of up to 50 steps" in after.caption
    assert len(after.svg) < 1.2 * len(before.svg)


def test_smoothing_starts_at_the_first_value_and_keeps_a_line_straight() -> None:
    series = [(float(x), 3.0 * x) for x in range(50)]
    np.testing.assert_allclose(smooth(series[:40], 11)[:35], series[:35])
    assert smooth([(1.0, math.log(2)), (2.0, 9.0), (3.0, 9.0)], 3)[0] == (1.0, math.log(2))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (71.34, 1.234, "71.3 ± 1.2"),
        (-3.4149, 0.0234, "−3.415 ± 0.023"),
        (1234.5, 96.0, "1,234 ± 96"),
        (0.5, 0.0, "0.50"),
        (0.5, None, "0.50"),
        (-0.0001, None, "0.00"),
        (None, 1.0, "–"),
        (math.nan, 1.0, "–"),
    ],
)
def test_a_value_is_shown_to_the_digit_of_its_error(value: float | None, error: float | None, text: str) -> None:
    assert figures.with_error(value, error) == text


def test_graph_has_every_model_once_and_no_overlapping_boxes() -> None:
    drawn = graph(read(example()))
    assert drawn is not None
    assert sorted(node.name for node in drawn.nodes) == [
        "align.1",
        "align.2",
        "align.3",
        "base",
        "blend",
        "control",
        "warm",
    ]
    assert len({(node.row, node.column) for node in drawn.nodes}) == len(drawn.nodes)
    assert sum(edge.kind == "merge" for edge in drawn.edges) == 2
    data = example()
    data["steps"][1]["reference"] = "base"
    assert "reference" in graph(read(data)).kinds  # type: ignore[union-attr]


# --- files and the command -----------------------------------------------------------------------


def test_the_command_makes_the_same_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, text = write_report(tmp_path, bare(steps=example()["steps"][:1]))
    before = html.read_bytes(), text.read_bytes()
    html.unlink()
    text.write_text("old")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.main(parser.parse_args([str(tmp_path)])) == 0
    assert (html.read_bytes(), text.read_bytes()) == before
    assert capsys.readouterr().out.splitlines() == [str(html), str(text)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("plan", None, "plan: expected str"),
        ("steps.0.pairs", "many", "steps[0].pairs: expected a whole number"),
        ("gamma.3.split", "test", "gamma[3].split: expected heldout or train"),
        ("evaluation.1.exact_match.0.items", True, "evaluation[1].exact_match[0].items: expected a whole number"),
        ("sources", {}, "sources: expected a list"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, path: str, value: Any, says: str) -> None:
    data = example()
    *way, last = path.split(".")
    at: Any = data
    for key in way:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    with pytest.raises(DataError, match=re.escape(says)):
        write_report(tmp_path, data)


def test_a_missing_or_broken_report_is_a_data_error(tmp_path: Path) -> None:
    arguments = argparse.Namespace(run_folder=tmp_path)
    with pytest.raises(DataError, match="no report here"):
        command.main(arguments)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        command.main(arguments)
    (tmp_path / "report.json").write_text('{"plan": "x"}')
    with pytest.raises(DataError, match="created: missing"):
        command.main(arguments)
