"""The events of a step: written with a code and fields, and read back from this version's lines and older ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from ratchet.documents.events import EVENTS, NAME, Code, Event, events_of, read_event, write_event
from ratchet.errors import DataError

DEBUGGING = Path(__file__).parents[2] / "docs/debugging.md"


def test_the_table_has_every_code_and_the_page_names_what_each_means() -> None:
    assert set(EVENTS) == set(get_args(Code))
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (yes|no) \|$", DEBUGGING.read_text(encoding="utf-8"), re.MULTILINE)
    assert {code: (meaning, known == "yes") for code, meaning, known in rows} == {
        code: (kind.meaning, kind.must_know) for code, kind in EVENTS.items()
    }


def test_events_are_read_as_they_were_written_but_for_their_time(tmp_path: Path) -> None:
    written = [
        Event(code="group-began", what="one", attempt="abc", workers=2),
        Event(code="step-skipped", what="two; with \u2028 and ü", step=8),
        Event(code="checkpoint-damaged", what="three", checkpoint="step-000004"),
    ]
    for event in written:
        write_event(tmp_path, event)
    found = events_of(tmp_path)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.at) for event in found)
    assert [Event(**{**vars(event), "at": ""}) for event in found] == written
    lines = (tmp_path / NAME).read_text(encoding="utf-8").splitlines()
    assert list(json.loads(lines[0])) == ["at", "code", "what", "attempt", "workers"], (
        "fields without a value are left out"
    )


@pytest.mark.parametrize(
    ("what", "code", "fields"),
    [
        ("2 workers (ab12) began", "group-began", {"workers": 2, "attempt": "ab12"}),
        ("1 worker (ab12) went on after step 7", "group-went-on", {"workers": 1, "attempt": "ab12", "step": 7}),
        ("training ended after step 9: there is room for 2 workers", "group-ended", {"step": 9}),
        ("worker 1 of 2 failed: out of memory", "worker-failed", {"worker": 1, "workers": 2}),
        ("step-000008 failed its check and was set aside: x", "checkpoint-damaged", {"checkpoint": "step-000008"}),
        (
            ".step-000008.ab was never finished and was removed",
            "checkpoint-unfinished",
            {"checkpoint": ".step-000008.ab"},
        ),
        ("step 8 was skipped: the loss is not finite; pairs f:3", "step-skipped", {"step": 8}),
        ("something else", "uncoded", {}),
    ],
)
def test_a_line_of_a_version_without_codes_gets_its_code(what: str, code: Any, fields: dict[str, Any]) -> None:
    wanted = Event(code=code, what=what, at="2026-11-20T10:00:00Z", **fields)
    assert read_event({"at": "2026-11-20T10:00:00Z", "what": what}) == wanted
    assert read_event(what) == Event(code=code, what=what, **fields), "as a step's record had it"


def test_a_code_of_a_later_version_is_readable_and_a_line_that_is_no_event_is_left_out(tmp_path: Path) -> None:
    assert read_event({"code": "node-lost", "what": "x", "node": "n1"}) == Event(code="uncoded", what="x")
    for wrong in (
        {"code": "step-skipped"},
        {"code": "step-skipped", "what": "x", "step": "8"},
        {"code": ["a"], "what": "x"},
        3,
        None,
    ):
        with pytest.raises(DataError):
            read_event(wrong)
    (tmp_path / NAME).write_text('{"what": "1 worker (a) began"}\n[1]\n{"wh\n{"code": "step-skip', encoding="utf-8")
    assert [event.code for event in events_of(tmp_path)] == ["group-began"]
