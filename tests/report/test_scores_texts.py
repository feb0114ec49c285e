"""Answers on the page: hostile, long or broken ones, in a browser too; and documents that are none."""

from __future__ import annotations

import copy
import html as html_text
import json
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from raised import raises
from ratchet.documents.report import read_report
from ratchet.documents.scores import read_scores
from ratchet.report.page import write_report
from report_page import Page, markdown_of, page_of, well_formed_tables
from scores_example import RIGHT_TO_LEFT, scores, standalone

HOSTILE = '</script><script>alert("x")</script> & \u2028 <!-- \' <img src=x onerror=y> `a` | \u202egnp'


def hostile() -> dict[str, Any]:
    """Put the hostile text wherever a model or a file of questions has its say."""
    data = scores(("base", HOSTILE))
    for one in data["answers"]:
        one |= {"question": HOSTILE, "reference": HOSTILE, "group": HOSTILE, "item": HOSTILE}
        for said in one["by"].values():
            said |= {"answer": HOSTILE, "problem": HOSTILE}
    for one in data["results"]:
        one |= {"problems": {HOSTILE: 3}, "warnings": [HOSTILE], "settings": {HOSTILE: HOSTILE, "judge": HOSTILE}}
        one["scores"][0]["note"] = HOSTILE
    return data


@pytest.mark.heavy
def test_no_answer_becomes_part_of_the_page() -> None:
    html = page_of(read_report(standalone(scores=hostile())))
    seen = Page(html)  # which fails on a handler such as onerror
    assert "img" not in seen.tags
    assert html.count("<script") == html.count("</script>") == 2
    assert seen.text.count('alert("x")') > 20
    block = re.search(r'<script type="application/json" id="answers-data">(.*?)</script>', html, re.DOTALL)
    assert block is not None
    assert not re.search(r"[<>&\u2028]", block[1])
    data = json.loads(block[1])
    assert data["said"][0][0][0] == HOSTILE
    assert "innerHTML" not in html
    made = markdown_of(read_report(standalone(scores=hostile())))
    assert "<script>" not in made
    assert well_formed_tables(made) > 5


@pytest.mark.heavy
def test_half_a_character_in_an_answer_breaks_no_file(tmp_path: Path) -> None:
    data = scores()
    data["answers"][0]["by"]["base"]["answer"] = "cut \ud83d off"
    html, text = write_report(tmp_path, read_report(standalone(scores=data)))[0], tmp_path / "report.md"
    assert "cut ? off" in html.read_text()
    assert "cut ? off" in text.read_text()


BROWSER = which("chromium") or which("chromium-browser") or which("google-chrome")


@pytest.mark.heavy
@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_a_browser_shows_the_two_models_that_are_chosen(tmp_path: Path) -> None:
    """Choose other models with a script of the test's own, and read the page that comes of it."""
    data = hostile()
    data["answers"].append(copy.deepcopy(data["answers"][-1]))
    data["answers"][0]["by"]["base"]["answer"] = RIGHT_TO_LEFT
    html = page_of(read_report(standalone(scores=data)))
    choose = """<script>
    var one = document.querySelectorAll("#pick select");
    one[1].value = "0"; one[1].dispatchEvent(new Event("change"));
    one[0].value = "1"; one[0].dispatchEvent(new Event("change"));
    var side = document.querySelectorAll("article[data-number='0'] .side");
    document.title = JSON.stringify([document.getElementById("pick").hidden, document.scripts.length,
      Array.from(side).map(function (x) {
        return [x.querySelector("h5").textContent, x.querySelector(".start").textContent]; })]);
    </script></body>"""
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", choose))
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/home",
        "--dump-dom",
    ]
    dump = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, check=True).stdout
    seen = json.loads(html_text.unescape(re.findall("<title>(.*?)</title>", dump, re.DOTALL)[0]))
    assert seen == [False, 3, [[HOSTILE, HOSTILE], ["base", RIGHT_TO_LEFT]]]


# --- the document and the tracker ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda data: data.update(format=2), "format"),
        (lambda data: data["results"][3].pop("seconds"), "results[3].seconds"),
        (lambda data: data["results"][0]["scores"][0].update(value="0.4"), "results[0].scores[0].value"),
        (lambda data: data["comparisons"][1].update(verdict="equal"), "comparisons[1].verdict"),
        (lambda data: data["answers"][0]["by"].update(base="yes"), "answers[0].by.base"),
        (lambda data: data["results"][0]["problems"].update(odd="3"), "results[0].problems.odd"),
    ],
)
def test_a_document_that_is_none_is_refused_by_its_key(change: Any, key: str) -> None:
    data = scores()
    change(data)
    with raises("data.document", key):
        read_scores(data)
    with raises("data.document", f"scores.{key}"):
        read_report(standalone(scores=data))
