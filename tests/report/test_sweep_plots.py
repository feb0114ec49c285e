"""The drawings of a sweep's page: every point and stage once, where its numbers put it, in SVG that is XML."""

from __future__ import annotations

import copy
import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from nightly import nightly
from ratchet.documents.sweep import Key, read_sweep
from ratchet.report.charts import sweep as charts
from ratchet.report.drawing import Drawing
from ratchet.report.parts import Chart
from ratchet.report.sweep.page import sweep_sections
from ratchet.report.sweep.stage_tree import MOST_NODES, stage_tree
from ratchet.report.sweep.values import Axis, axis_of, short_names, shown
from ratchet.report.tables.sweep import MOST, ranked
from report_page import Page, charts_in, sweep_markdown_of, sweep_page_of, well_formed_tables
from sweep_example import ACCURACY, CHOSEN, LOSS, beta_lambda, orders, sweep, troubled, two_objectives

pytestmark = pytest.mark.heavy

BETA, PENALTY = "stages.align.beta", "stages.align.penalty"


def parsed(svg: str) -> ElementTree.Element:
    """Parse a drawing as XML, as it stands in a page."""
    whole = svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    return ElementTree.fromstring(whole)  # noqa: S314  our own drawing


def dots(chart: Chart, colour: str) -> list[tuple[float, float]]:
    """Return the places of a chart's markers of one colour."""
    found = [one for one in parsed(chart.svg).iter("use") if f"fill: var(--{colour})" in one.get("style", "")]
    return [(float(one.get("x", "nan")), float(one.get("y", "nan"))) for one in found]


def charts_of(document: dict[str, Any]) -> dict[str, list[Chart]]:
    return charts_in(sweep_sections(read_sweep(document)))


@pytest.mark.parametrize(
    "example", nightly([beta_lambda, orders, two_objectives, troubled], lambda example: example is orders)
)
def test_every_drawing_is_well_formed_xml(example: Any) -> None:
    document = example()
    for found in charts_of(document).values():
        for chart in found:
            assert parsed(chart.svg).get("aria-label")
            assert chart.records
    html = sweep_page_of(read_sweep(document))
    tree = re.search(r'<svg [^>]*aria-label="Tree of stages">.*?</svg>', html, re.DOTALL)
    assert tree is not None
    boxes = [one for one in parsed(tree[0]).iter("g") if "node" in one.get("class", "")]
    assert len(boxes) == len(document["stages"]) + 1


def test_dots_stand_at_the_logarithm_of_the_value_and_at_the_result() -> None:
    document = beta_lambda()
    points = sorted(document["points"], key=lambda one: one["rank"])
    for chart, key, scale in zip(charts_of(document)["against"], (BETA, PENALTY), (math.log, float), strict=True):
        places = np.array([*dots(chart, "stage-1"), *dots(chart, "stage-2")])
        assert len(places) == 20
        wanted = np.array([(scale(one["values"][key]), -one["results"][0]["value"]) for one in points])
        for side in (0, 1):
            slope, offset = np.polyfit(wanted[:, side], places[:, side], 1)
            assert slope > 0
            np.testing.assert_allclose(slope * wanted[:, side] + offset, places[:, side], atol=1e-3)


def test_bars_are_as_long_as_the_errors() -> None:
    document = orders()
    (chart,) = charts_of(document)["against"]
    at = dots(chart, "stage-1") + dots(chart, "stage-2")
    assert len(at) == 6
    values = sorted(one["results"][0]["value"] for one in document["points"])
    scale = (max(x for x, _ in at) - min(x for x, _ in at)) / (values[-1] - values[0])
    bars = re.findall(r"M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \n\" clip-path[^>]*stroke: var\(--stage-\d\)", chart.svg)
    assert len(bars) == 6
    for left, _, right in bars:
        assert float(right) - float(left) == pytest.approx(2 * 0.012 * scale, rel=1e-3)
    text = " ".join(Page(chart.svg).texts)
    assert all(f"{' → '.join(one['values']['stages.align.data'])}" in text for one in document["points"])


def test_parallel_coordinates_have_a_line_a_point_with_a_value() -> None:
    chart = charts.draw_parallel(read_sweep(troubled()))
    assert chart is not None
    lines = re.findall(r'<path d="M [\d.]+ [\d.]+ \n(?:L [^"]+){2}"[^>]*stroke: var\(--(level-\d|stage-1)\)', chart.svg)
    assert len(lines) == 19
    assert lines.count("stage-1") == 1
    assert "1 point without a value is not drawn." in chart.caption
    assert chart.records == ("sweeps/sums-beta_lambda/sweep.json",)
    few = charts.draw_parallel(read_sweep(orders()))
    assert few is not None
    assert set(few.records) == {one["run"] for one in orders()["trials"]}
    starts = re.findall(
        r'<path d="M [\d.]+ ([\d.]+) \nL [^"]+"[^>]*stroke: var\(--(level-\d|stage-1)\); stroke-width: [12]', few.svg
    )
    assert min((float(y), colour) for y, colour in starts)[1] == "stage-1"  # the best is the first order, on top


def test_the_front_is_drawn_and_named() -> None:
    document = two_objectives()
    (chart,) = charts_of(document)["front"]
    front = [one for one in document["points"] if one["front"]]
    assert len(dots(chart, "stage-1")) == len(front)
    assert len(dots(chart, "stage-2")) == 16 - len(front)
    text = " ".join(Page(chart.svg).texts)
    assert all(one["id"] in text for one in front)
    assert f"{ACCURACY} (higher is better)" in text
    three = beta_lambda(12, {ACCURACY: "max", CHOSEN: "max", LOSS: "min"})
    (chart,) = charts_of(three)["front"]
    assert f"The better {LOSS} (lower is better), the stronger the blue" in chart.caption
    assert "--level-7" in chart.svg


def test_importance_has_a_bar_a_key_and_nothing_where_there_is_none() -> None:
    (chart,) = charts_of(beta_lambda())["importance"]
    assert {"83.0", "17.0", "beta", "penalty"} <= {text.strip() for text in Page(chart.svg).texts}
    assert "It was learnt from 20 points" in Page(sweep_page_of(read_sweep(beta_lambda()))).text
    assert "importance" not in charts_of(orders())
    assert "Importance" not in Page(sweep_page_of(read_sweep(orders()))).text


# --- the tree of stages --------------------------------------------------------------------------


def tree_of(document: dict[str, Any]) -> Drawing:
    found = stage_tree(read_sweep(document))
    assert found is not None
    return found


def assert_apart(tree: Drawing) -> None:
    boxes = [(box.x, box.y, box.shape.width, box.shape.height) for box in tree.boxes]
    boxes += [(note.x, note.y, 100, 17 * len(note.shape.lines)) for note in tree.notes]
    for index, (x, y, w, h) in enumerate(boxes):
        assert x + w <= tree.width
        assert y + h <= tree.height
        for a, b, c, d in boxes[index + 1 :]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


@pytest.mark.parametrize("sources", [("a", "b", "c"), ("a", "b", "c", "d")])
def test_the_tree_has_every_stage_once_and_nothing_overlaps(sources: tuple[str, ...]) -> None:
    document = orders(sources)
    tree = tree_of(document)
    assert sorted(box.shape.id for box in tree.boxes) == ["", *sorted(one["id"] for one in document["stages"])]
    assert len(tree.boxes) - 1 == sum(math.perm(len(sources), k) for k in range(1, len(sources) + 1))
    assert len(tree.edges) == len(document["stages"])
    assert len(tree.notes) == math.factorial(len(sources))
    assert_apart(tree)
    shared = {one["id"] for one in document["stages"] if len(one["trials"]) > 1}
    assert {box.shape.id for box in tree.boxes if "shared" in box.shape.look} == shared
    best = next(one for one in document["trials"] if one["point"] == document["best"])
    assert {box.shape.id for box in tree.boxes if "best" in box.shape.look} == set(best["steps"])
    assert [note.shape.lines[0][:6] for note in tree.notes if note.shape.look == "best"] == ["best: "]


def test_a_trial_that_ends_where_others_go_on_has_a_row_of_its_own() -> None:
    document = orders()
    for one in document["trials"][:3]:
        one["steps"] = one["steps"][:1]
    tree = tree_of(document)
    assert_apart(tree)
    assert len(tree.notes) == 5  # the first two orders end at one stage
    assert [len(note.shape.lines) for note in tree.notes] == [4, 2, 2, 2, 2]


def test_a_box_says_its_chunk_its_maker_its_pairs_and_time() -> None:
    shape = next(box.shape for box in tree_of(orders()).boxes if box.shape.id == "squ")
    assert shape.label == "align.1 · quiz"
    assert shape.lines == ("800 pairs · 12 s", "2 trials · by trial 3")
    assert "made by t00000002" in shape.detail


def test_of_many_stages_the_first_levels_are_drawn_best_first_and_the_rest_counted() -> None:
    document = beta_lambda(80)
    tree = tree_of(document)
    assert len(tree.boxes) - 1 == MOST_NODES
    assert tree.boxes[1].shape.id == "wa" * 8
    best = {one["steps"][-1] for one in document["trials"] if one["point"] == document["best"]}
    assert best <= {box.shape.id for box in tree.boxes}
    assert [note.shape.lines for note in tree.notes if note.shape.lines[0].startswith("…")] == [
        ("… 61 more start here",)
    ]
    text = Page(sweep_page_of(read_sweep(document))).text
    assert "61 stages are left out: 100 stages of the first levels are shown." in text


# --- sweeps that lack something ------------------------------------------------------------------


def none_finished() -> dict[str, Any]:
    found = beta_lambda(3)
    for one in found["trials"]:
        one |= {"status": "failed", "reason": "loss is nan", "metrics": {}}
    return sweep(found["name"], found["keys"], found["points"], found["trials"], found["stages"], {ACCURACY: "max"})


def one_key() -> dict[str, Any]:
    found = beta_lambda(5)
    for one in found["points"]:
        del one["values"][PENALTY]
    return found | {"keys": found["keys"][:1]}


def all_equal() -> dict[str, Any]:
    found = beta_lambda(6)
    for one in found["points"]:
        one["results"][0] |= {"value": 0.5, "standard_error": 0.0}
        one["values"] = dict.fromkeys(one["values"], 0.3)
    return found


def missing_values() -> dict[str, Any]:
    found = beta_lambda(5)
    for one in found["points"][:2]:
        one["values"] = {BETA: None}
        one["results"][0]["standard_error"] = None
    return found


EDGES = {
    "none finished": none_finished,
    "one point": lambda: beta_lambda(1),
    "one key": one_key,
    "all equal": all_equal,
    "missing values": missing_values,
    "no stages": lambda: beta_lambda(4) | {"stages": [], "trials": []},
}


@pytest.mark.parametrize("example", nightly(EDGES.values(), lambda example: example is missing_values), ids=EDGES)
def test_a_sweep_that_lacks_something_is_a_page(example: Any) -> None:
    document = example()
    read = read_sweep(document)
    seen = Page(sweep_page_of(read))
    assert "None" not in seen.text
    assert "nan" not in seen.text.replace("is nan", "")
    assert well_formed_tables(sweep_markdown_of(read)) == sum(len(one.tables) for one in sweep_sections(read))
    for found in charts_of(document).values():
        assert all(parsed(chart.svg) is not None for chart in found)
    if document["best"] is None:
        assert "nothing is best" in seen.text
        assert not charts_in(sweep_sections(read))


@pytest.mark.slow
def test_five_hundred_points_are_thinned_and_said_so() -> None:
    document = beta_lambda(500)
    document["points"][333]["marks"] = ["random"]
    read = read_sweep(document)
    html, table, tree = sweep_page_of(read), ranked(read), stage_tree(read)
    assert table is not None and tree is not None
    assert len(tree.boxes) <= MOST_NODES + 1  # and the start model
    rows = [row.cells[1].text for row in table.rows]
    assert MOST <= len(rows) <= MOST + 2
    assert {document["best"], "p0000014d", "p00000000"} <= set(rows)  # the best, the marked, the plan's own
    assert f"{500 - len(rows)} of 500 points are left out here" in Page(html).text
    assert len(html) < 3_000_000


# --- axes and values -----------------------------------------------------------------------------


def test_ticks_of_an_axis_are_round_and_inside() -> None:
    log = Axis("x", "log", math.log10(0.05), math.log10(2))
    assert [text for _, text in log.ticks()] == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    for (place, _), value in zip(log.ticks(), (0.05, 0.1, 0.2, 0.5, 1, 2), strict=True):
        assert place == pytest.approx(math.log(value / 0.05) / math.log(40))
    assert [text for _, text in Axis("x", "log", -7, -2).ticks()] == ["1e−7", "1e−6", "1e−5", "0.0001", "0.001", "0.01"]
    assert [text for _, text in Axis("x", "line", 5, 500).ticks()] == ["100", "200", "300", "400", "500"]
    assert [text for _, text in Axis("x", "line", 1, 4, whole=True).ticks()] == ["1", "2", "3", "4"]


def test_values_are_told_apart_as_the_plan_means_them() -> None:
    read = read_sweep(beta_lambda(2))
    axis = axis_of(read, Key(BETA, "choice", (1, True, "1", None)), [1.0, 2])
    assert axis.names == ("1", "true", "1", "–", "2")
    assert axis.place(1.0) == pytest.approx(0.1)
    assert axis.place(True) == pytest.approx(0.3)
    assert axis.place("3") is None
    assert short_names([BETA, PENALTY, "stages.warm.beta"]) == {
        BETA: "align.beta",
        PENALTY: "penalty",
        "stages.warm.beta": "warm.beta",
    }
    assert shown(["slips", "quiz"], "permutation") == "slips → quiz"
    assert (shown(2.345678e-05), shown(None), shown(False), shown(64)) == ("2.346e−5", "–", "false", "64")


def test_reading_does_not_change_the_document() -> None:
    document = two_objectives()
    before = copy.deepcopy(document)
    sweep_page_of(read_sweep(document))
    assert document == before
