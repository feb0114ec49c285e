"""A report read back: its page as a browser would see it, its Markdown as an outside parser does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser

import pytest

from ratchet.documents.report import Report
from ratchet.documents.sweep import SweepOutcome
from ratchet.report.page import run_page
from ratchet.report.parts import Chart, Section
from ratchet.report.render import charts_of, html, markdown
from ratchet.report.sweep.page import sweep_page

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


def page_of(report: Report) -> str:
    """Return a run's page as HTML."""
    return html(run_page(report))


def markdown_of(report: Report) -> str:
    """Return a run's page as Markdown."""
    return markdown(run_page(report))


def sweep_page_of(sweep: SweepOutcome) -> str:
    """Return a sweep's page as HTML."""
    return html(sweep_page(sweep))


def sweep_markdown_of(sweep: SweepOutcome) -> str:
    """Return a sweep's page as Markdown."""
    return markdown(sweep_page(sweep))


def charts_in(sections: Iterable[Section]) -> dict[str, list[Chart]]:
    """Return the charts of the sections that have some, by the section's key."""
    found = {one.key: charts_of(one) for one in sections}
    return {key: charts for key, charts in found.items() if charts}
