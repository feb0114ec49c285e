"""Reports that lack something: parts a run does not have, short histories, numbers that do not exist, broken files."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from raised import raises
from ratchet.commands import upkeep
from ratchet.documents.report import read_report
from ratchet.documents.sources import SourceOverlap
from ratchet.report.page import run_sections, write_report
from ratchet.report.tables import data as tables_data
from report_example import bare, example, short
from report_page import Page, charts_in, markdown_of, page_of, well_formed_tables

pytestmark = pytest.mark.heavy


def test_a_report_of_nothing_is_a_page() -> None:
    report = read_report(bare())
    assert not any(section.tables for section in run_sections(report))
    Page(page_of(report))
    assert markdown_of(report).startswith("# sums-then-care\n")


def test_what_publishing_kept_stands_in_a_table_of_its_own() -> None:
    data = example()
    seen = Page(page_of(read_report(data)))
    assert "What publishing kept" in seen.text
    for said in ("held-out pairs", "41", "0.2931", "0.1717", "−101.25", "−101.50", "58.6"):
        assert said in seen.text, said
    for step in data["steps"]:
        step["effect"] = None
    assert "What publishing kept" not in Page(page_of(read_report(data))).text


def test_a_run_with_sft_alone_leaves_preferences_out() -> None:
    steps = example()["steps"][:1]
    report = read_report(bare(steps=steps, sources=example()["sources"][:1]))
    assert [section.key for section in run_sections(report) if section.tables] == ["sources", "steps", "throughput"]
    seen = Page(page_of(report))
    assert "ln 2" not in seen.text
    assert "reference pass" not in seen.text


def test_starting_processes_stands_apart_from_work() -> None:
    steps = [one | {"start_seconds": 61.0, "reference_start_seconds": 7.125} for one in example()["steps"]]
    report = read_report(example() | {"steps": steps})
    [table] = [one for section in run_sections(report) if section.key == "throughput" for one in section.tables]
    shown = str(table)
    for words in (
        "training processes",
        "1 min 01 s",
        "reference processes",
        "7.1 s",
        "groups of workers that ended before",
    ):
        assert words in shown


def test_a_pass_of_the_workers_that_trained_its_model_is_named() -> None:
    steps = [one | {"reference_in_training": one["name"] == "control"} for one in example()["steps"]]
    report = read_report(example() | {"steps": steps})
    [table] = [one for section in run_sections(report) if section.key == "throughput" for one in section.tables]
    assert str(table).count("scored in training") == sum(one["reference_in_training"] for one in steps)


DRAWN = "How far apart chosen and rejected are"  # a heading over charts alone, which Markdown has not
HEADINGS = {  # of what is said of each part
    "evaluation": {"Held-out pairs and answers"},
    "difficulty": {"Difficulty of the sources"},
    "gamma": {"γ, stage by stage"},
    "overlap": {"Overlap between sources"},
    "sources": {"Sources and skipped rows", DRAWN},
    "steps": {"Does the chosen answer hold?", "Steps", "Time and throughput"},
}


def records_in(value: Any) -> set[str]:
    """Return the records that a part of a document names."""
    if isinstance(value, list):
        return set().union(*map(records_in, value))
    if not isinstance(value, dict):
        return set()
    return {value[key] for key in value if key == "record"} | records_in(list(value.values()))


@pytest.mark.parametrize("gone", nightly(HEADINGS, lambda gone: gone == "steps"))
def test_any_part_may_be_missing(gone: str) -> None:
    """Nothing is said of it: no heading, no record. All that is said of the other parts stays."""
    data = short()
    for step in data["steps"]:
        step["history"] = []  # what is drawn without one is drawn above
    unsaid = records_in(data.pop(gone))
    report = read_report(data)
    html, text = page_of(report), markdown_of(report)
    seen = Page(html)
    assert well_formed_tables(text) == sum(len(section.tables) for section in run_sections(report)) + (
        gone != "evaluation"
    )
    kept = set().union(*(titles for part, titles in HEADINGS.items() if part != gone))
    every = kept | HEADINGS[gone]
    assert set(seen.texts) & every == kept
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) & every == kept - {DRAWN}
    for listed in (re.findall(r'<li id="r\d+">([^<]+)</li>', html), re.findall(r"^- r\d+: (.+)$", text, re.MULTILINE)):
        assert records_in(data) <= set(listed)
        assert not unsaid & set(listed)


@pytest.mark.parametrize(("held_out", "shown"), [(False, "helpful"), (True, "helpful (held out)")])
def test_an_overlap_names_the_records_of_both_sources(held_out: bool, shown: str) -> None:
    found = SourceOverlap("quiz", "helpful", 3, 41, held_out)
    report = read_report(bare(sources=example()["sources"], overlap=[dataclasses.asdict(found)]))
    made = tables_data.overlap(report.overlap, {source.name: source.record for source in report.sources})
    assert made is not None
    (row,) = made.rows
    assert [cell.text for cell in row.cells] == ["quiz", shown, "3", "41"]
    assert list(row.records) == [example()["sources"][number]["record"] for number in (2, 3)]


@pytest.mark.parametrize("lines", nightly([0, 1, 2, 9], lambda lines: lines == 1))
def test_a_short_history_is_drawn(lines: int) -> None:
    data = bare(steps=copy.deepcopy(example()["steps"][1:3]))
    for step in data["steps"]:
        step["history"] = step["history"][:lines]
    report = read_report(data)
    assert ("chosen" in charts_in(run_sections(report))) is (lines > 0)


def test_numbers_that_do_not_exist_are_dashes(tmp_path: Path) -> None:
    data = short()
    data["steps"][1]["history"][5] |= {"loss": math.nan, "logps/chosen_delta": math.inf}
    report = read_report(data)
    steps = [dataclasses.replace(step, first_loss=math.nan) for step in report.steps]
    gamma = [dataclasses.replace(one, mean=math.nan) for one in report.gamma]
    report = dataclasses.replace(report, steps=tuple(steps), gamma=tuple(gamma))
    html, text = write_report(tmp_path, report)[0], tmp_path / "report.md"
    assert "NaN" not in (tmp_path / "report.json").read_text()
    for shown in (Page(html.read_text()).text, text.read_text()):
        assert not re.search(r"\b(nan|inf|None)\b", shown)


# --- files and the command -----------------------------------------------------------------------


def test_the_command_makes_the_same_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, text = write_report(tmp_path, read_report(bare(steps=example()["steps"][:1])))[0], tmp_path / "report.md"
    before = html.read_bytes(), text.read_bytes()
    html.unlink()
    text.write_text("old")
    parser = argparse.ArgumentParser()
    upkeep.report_arguments(parser)
    assert upkeep.report_command(parser.parse_args([str(tmp_path)])) == 0
    assert (html.read_bytes(), text.read_bytes()) == before
    assert capsys.readouterr().out.splitlines() == [str(html), str(text)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("plan", None, "plan"),
        ("steps.0.pairs", "many", "steps[0].pairs"),
        ("gamma.3.split", "test", "gamma[3].split"),
        ("evaluation.1.exact_match.0.items", True, "evaluation[1].exact_match[0].items"),
        ("sources", {}, "sources"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, path: str, value: Any, named: str) -> None:
    data = example()
    *way, last = path.split(".")
    at: Any = data
    for key in way:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    with raises("data.document", f"{named}: "):
        write_report(tmp_path, read_report(data))


def test_a_missing_or_broken_report_is_a_data_error(tmp_path: Path) -> None:
    arguments = argparse.Namespace(folder=tmp_path)
    with raises("data.no-report"):
        upkeep.report_command(arguments)
    (tmp_path / "page.html").touch()
    with raises("data.no-report", "page.html/report.json"):
        upkeep.report_command(argparse.Namespace(folder=tmp_path / "page.html"))
    (tmp_path / "report.json").write_text("{")
    with raises("data.not-json"):
        upkeep.report_command(arguments)
    (tmp_path / "report.json").write_text('{"plan": "x"}')
    with raises("data.document", "created"):
        upkeep.report_command(arguments)
