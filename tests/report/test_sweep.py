"""A sweep's page: its document in, a page and Markdown out, the numbers the document's, every text only text."""

from __future__ import annotations

import copy
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from raised import raises
from ratchet.documents.sweep import ObjectiveResult, read_sweep
from ratchet.report import figures
from ratchet.report.sweep.page import sweep_sections, write_sweep_page
from ratchet.report.sweep.words import apart, lead, plan_point, saved, winner
from ratchet.report.tables.sweep import ended, ranked, work_shared
from report_page import Page, sweep_markdown_of, sweep_page_of, well_formed_tables
from sweep_example import ACCURACY, CHOSEN, PLAN_TEXT, beta_lambda, orders, sweep, troubled, two_objectives

EXAMPLES = {"random": beta_lambda, "orders": orders, "two objectives": two_objectives, "troubled": troubled}


def cells(table: Any, column: str) -> list[str]:
    place = [one.name for one in table.columns].index(column)
    return [row.cells[place].text for row in table.rows]


@pytest.mark.parametrize("example", nightly(EXAMPLES.values(), lambda example: example is two_objectives), ids=EXAMPLES)
def test_the_page_is_whole_and_needs_nothing_else(example: Any) -> None:
    document = example()
    html = sweep_page_of(read_sweep(document))
    seen = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags
    inside = {one[1:] for one in seen.links if one.startswith("#")}
    assert inside <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert {one for one in seen.links if not one.startswith("#")} <= {
        *(f"./trials/{one['id']}" for one in document["trials"]),
        "./sweep.json",
    }
    assert "http" not in html
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", html)) <= set(re.findall(r"(--[a-z0-9-]+):", html))
    assert not re.search(r"#0[0-9a-f]{5}\b", html.rpartition("</style>")[2])


@pytest.mark.parametrize("example", nightly(EXAMPLES.values(), lambda example: example is troubled), ids=EXAMPLES)
def test_every_result_stands_with_its_error_on_the_page_and_in_the_markdown(example: Any) -> None:
    document = example()
    read = read_sweep(document)
    shown, text = Page(sweep_page_of(read)).text, sweep_markdown_of(read).replace("\\", "")
    wanted = {f"{document['work'][key]:,}" for key in ("stages", "stages_unshared", "pairs", "pairs_unshared")}
    wanted |= {*document["versions"].values(), document["commit"], document["created"], document["space_text"].strip()}
    for point in document["points"]:
        wanted.add(point["id"])
        for found in point["results"]:
            if found["value"] is not None:
                error = found["standard_error"]
                digits = 1 - math.floor(math.log10(error))
                wanted.add(f"{found['value']:.{min(6, digits)}f} ± {error:.{min(6, digits)}f}".replace("-", "−"))
    wanted |= {trial["reason"] for trial in document["trials"]} | {trial["id"] for trial in document["trials"]}
    assert len(wanted) > 20
    assert {one for one in wanted if one not in shown} == set()
    assert {one for one in wanted if one not in text} == set()


@pytest.mark.parametrize("example", nightly(EXAMPLES.values(), lambda example: example is orders), ids=EXAMPLES)
def test_markdown_tables_are_well_formed_and_name_their_records(example: Any) -> None:
    read = read_sweep(example())
    made = sweep_markdown_of(read)
    assert well_formed_tables(made) == sum(len(one.tables) for one in sweep_sections(read)) >= 4
    assert "<svg" not in made
    for part in sweep_sections(read):
        assert all(row.records for table in part.tables for row in table.rows)
    for name in re.findall(r"\]\(\./(trials/[^)]+)\)", made):
        assert f"sweeps/{read.name}/{name}" in {trial.run for trial in read.trials}


def test_points_stand_by_rank_and_the_page_says_what_errors_are_over() -> None:
    read = read_sweep(troubled())
    table = ranked(read)
    assert table is not None
    values = [float(text.split(" ")[0]) for text in cells(table, ACCURACY)[:-1]]
    assert values == sorted(values, reverse=True)
    assert cells(table, "rank") == [*map(str, range(1, 20)), "–"]
    assert cells(table, ACCURACY)[-1] == "–"
    assert cells(table, "trials")[-1] == "failed"
    place = [one.name for one in table.columns].index(ACCURACY)
    assert table.columns[place].unit == "± standard error over seeds"
    of_items = {row.cells[1].text for row in table.rows if row.cells[place].aside == "over items"}
    assert of_items == {"p00000004", "p00000005"}  # where one of the two seeds did not finish
    assert cells(table, "seeds finished").count("1") == 2
    assert cells(table, "marks").count("plan's own") == 1


def test_what_did_not_finish_has_a_table_with_the_reasons() -> None:
    table = ended(read_sweep(troubled()))
    assert table is not None
    assert cells(table, "status") == ["failed", "failed", "stopped", "unfinished"]
    assert cells(table, "reason")[:2] == ["loss is nan at step 12 of align", "CUDA out of memory"]
    assert cells(table, "reason")[-1] == "–"
    assert ended(read_sweep(beta_lambda())) is None


def test_orders_share_their_beginnings() -> None:
    """Σ_{k=1..T} T!/(T−k)! stages in place of T·T!."""
    for count in (3, 4):
        read = read_sweep(orders(("slips", "quiz", "helpful", "sums")[:count]))
        trained = sum(math.perm(count, length) for length in range(1, count + 1))
        alone = count * math.factorial(count)
        assert saved(read).startswith(f"{trained} stages trained in place of {alone}, ")
        table = work_shared(read)
        assert table is not None
        assert [cell.text for cell in table.rows[0].cells[1:]] == [
            str(trained),
            str(alone),
            f"{100 * (1 - trained / alone):.1f}",
        ]
    assert "64 reference passes over" in saved(read)


def test_the_head_counts_trials_by_status() -> None:
    read = read_sweep(troubled() | {"planned": 60})
    said = "20 points, 40 trials of 60 planned (36 finished, 1 stopped, 2 failed, 1 unfinished): 1 h 26 min."
    assert lead(read) == said
    assert said in Page(sweep_page_of(read)).text


@pytest.mark.parametrize(
    ("off", "errors", "verdict"),
    [
        (0.05, (0.03, 0.04), "not distinguishable at two standard errors"),
        (0.1, (0.03, 0.04), "not distinguishable at two standard errors"),
        (0.11, (0.03, 0.04), "distinguishable at two standard errors"),
        (0.11, (0.03, None), "without an error for both"),
    ],
)
def test_a_difference_is_held_against_its_own_error(off: float, errors: Any, verdict: str) -> None:
    one, other = (ObjectiveResult("m", value, error, 2, True) for value, error in zip((off, 0.0), errors, strict=True))
    found = apart(one, other)
    assert found is not None
    assert found.error == (None if None in errors else pytest.approx(0.05))  # √(3² + 4²) = 5
    assert found.verdict.startswith(verdict)


def test_the_winner_is_held_against_the_runner_up_and_the_plan() -> None:
    document = beta_lambda()
    read = read_sweep(document)
    said = " ".join(winner(read))
    first, second = sorted(document["points"], key=lambda one: one["rank"])[:2]
    own = document["points"][0]
    assert plan_point(read) is read.points[0]
    assert said.startswith(f"Best: {first['id']} with beta = ")
    for other, who in ((second, "The runner-up is"), (own, "The plan's own point is")):
        off = first["results"][0]["value"] - other["results"][0]["value"]
        error = math.hypot(first["results"][0]["standard_error"], other["results"][0]["standard_error"])
        sure = "" if abs(off) > 2 * error else "not "
        told = f"Best minus this: {figures.difference(off, error)}; {sure}distinguishable at two standard errors"
        assert f"{who} {other['id']}" in said
        assert told in said
    assert "standard error over 2 seeds" in said
    assert "An error from 2 seeds is itself rough." in said


def test_one_seed_is_said_to_be_no_error_over_seeds() -> None:
    said = " ".join(winner(read_sweep(orders())))
    assert "standard error over items of 1 seed, not over seeds" in said
    assert "An error over items says nothing of how training with another seed would have come out." in said
    assert "not distinguishable at two standard errors" in said
    assert "The best point is the plan's own." in said


@pytest.mark.parametrize(("order", "own"), [("listed", 0), ("easy_to_hard", 0), ("random", 2), ("hard_to_easy", None)])
def test_the_plans_own_order_is_the_one_listed_or_the_one_marked(order: str, own: int | None) -> None:
    read = read_sweep(orders() | {"plan_text": PLAN_TEXT.replace("ORDER", order)})
    assert plan_point(read) is (None if own is None else read.points[own])
    assert plan_point(read_sweep(orders() | {"plan_text": "\t: no YAML"})) is None


@pytest.mark.heavy
def test_a_front_is_told_by_its_points_and_not_by_one() -> None:
    document = two_objectives()
    said = winner(read_sweep(document))
    front = [one for one in document["points"] if one["front"]]
    assert 1 < len(front) < len(document["points"])
    assert said[0].startswith(f"{len(front)} points of 16 on the Pareto front")
    assert {line[:9] for line in said if line[:1] == "p"} == {one["id"] for one in front}
    table = ranked(read_sweep(document))
    assert table is not None
    assert cells(table, "front") == ["front"] * len(front) + ["–"] * (16 - len(front))
    for one, other in itertools.product(document["points"], front):
        values = [[found["value"] for found in point["results"]] for point in (one, other)]
        assert not (values[0][0] > values[1][0] and values[0][1] > values[1][1])
    assert CHOSEN in Page(sweep_page_of(read_sweep(document))).text


HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$ | `a` ](javascript:x) --> <!-- #010101 詞 '


def hostile() -> dict[str, Any]:
    """Return a sweep all of whose texts try to be more than text, and are very long."""
    found = troubled()
    long = HOSTILE + "long" * 5000
    key = found["keys"][1]["key"]
    found["keys"][1] = {"key": long, "kind": "choice", "values": [long, None]}
    for number, point in enumerate(found["points"]):
        point["values"] = {found["keys"][0]["key"]: 0.1 + number, long: [long, None][number % 2]}
        point["marks"] = [long] if number == 2 else []
        point["results"][0]["metric"] = long
    for one in found["trials"]:
        one |= {"reason": one["reason"] and long, "wandb": long, "run": f"javascript:{HOSTILE}/{one['id']}"}
        one["metrics"] = dict(zip([long], one["metrics"].values(), strict=False))
    for one in found["stages"]:
        one |= {"name": long, "chunk": long}
    found["objectives"][0]["metric"] = long
    found["importance"] = [{"metric": long, "key": key, "share": 1.0}]
    found |= {"name": HOSTILE, "plan": long, "warnings": [long], "plan_text": f"{long}\n```\n# heading"}
    return found | {
        "hardware": {"cpu": long, "cores": 1, "memory_gb": 1.0, "gpus": [long]},
        "versions": {long: long},
        "space_text": f"```\n{long}",
    }


@pytest.mark.heavy
def test_hostile_texts_stay_text_and_are_cut() -> None:
    read = read_sweep(hostile())
    html = sweep_page_of(read)
    seen = Page(html)
    assert "script" not in seen.tags
    assert all(link.startswith(("#", "./", "../")) for link in seen.links)
    assert '<script>alert("x")</script>' in seen.text
    assert max(map(len, re.findall("(?:long)+", html))) < 20_000  # the plan and the space as written are cut too
    shown = re.sub("<pre>.*?</pre>", "", html, flags=re.DOTALL)
    assert max(map(len, re.findall("(?:long)+", shown))) < 2000
    assert len(html) < 400_000
    made = sweep_markdown_of(read)
    assert well_formed_tables(made) > 4
    prose = made.partition("## Space\n")[0]
    assert "<script>" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    assert max(map(len, prose.splitlines())) < 6000


def test_both_files_are_written_and_numbers_that_are_not_finite_are_none(tmp_path: Path) -> None:
    document = beta_lambda()
    document["points"][3]["results"][0]["standard_error"] = math.nan
    html, text = write_sweep_page(tmp_path, read_sweep(document))
    assert (html.name, text.name) == ("sweep.html", "sweep.md")
    assert "(no error)" in html.read_text()
    assert "nan" not in text.read_text().partition("## Settings")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.html", "sweep.md"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.pop("work"), ["work: "]),
        (lambda data: data.update(format=2), ["format: ", "2"]),
        (lambda data: data["trials"][3].update(status="lost"), ["trials[3].status: "]),
        (lambda data: data["trials"][3].update(point="px"), ["trials.point: ", "px"]),
        (lambda data: data["trials"][0]["steps"].append("nowhere"), ["trials.steps: ", "nowhere"]),
        (lambda data: data["stages"][0].update(start="a1"), ["stages.start: ", "a1"]),
        (lambda data: data["stages"][0].update(start=data["stages"][1]["id"]), ["stages"]),
        (lambda data: data["points"].append(copy.deepcopy(data["points"][0])), ["points: ", "p00000000"]),
        (lambda data: data.update(best="p?"), ["best: ", "p?"]),
    ],
)
def test_a_document_that_does_not_hold_together_is_refused(tmp_path: Path, change: Any, named: list[str]) -> None:
    document = beta_lambda(3)
    change(document)
    with raises("data.document", *named):
        write_sweep_page(tmp_path, read_sweep(document))
    assert not list(tmp_path.iterdir())


def test_a_sweep_of_nothing_is_a_page() -> None:
    empty = sweep("sums-none", [], [], [], [], {ACCURACY: "max"})
    seen = Page(sweep_page_of(read_sweep(empty)))
    assert "nothing is best" in seen.text
    assert "nothing is best" in sweep_markdown_of(read_sweep(empty))
