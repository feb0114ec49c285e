"""`docs/look.md` names every key of the JSON, and every code that is looked for."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ratchet.cli import main
from ratchet.documents import data_report
from ratchet.documents.sources import SourceOverlap

PAGE = (Path(__file__).parents[2] / "docs" / "look.md").read_text(encoding="utf-8")
TOKEN_USE = {"TokenUse"}
"""Of the keys that stages use `ratchet show` says more."""


def test_the_page_has_every_key_of_the_json() -> None:
    nouns = [one for one in vars(data_report).values() if dataclasses.is_dataclass(one) and isinstance(one, type)]
    keys = {field.name for noun in [*nouns, SourceOverlap] if noun.__name__ not in TOKEN_USE for field in _of(noun)}
    assert len(keys) > 60 and not {key for key in keys if f"`{key}`" not in PAGE}


def _of(noun: type) -> tuple[dataclasses.Field[object], ...]:
    # A histogram is named where it stands.
    return () if noun.__name__ == "EditDistance" else dataclasses.fields(noun)


def test_the_page_has_every_code_that_is_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "What is the answer to this long question?"
    faults = ["cafÃ¼", "lost \ufffd", "\u200b", "a\u200bb", "a\x01b", "a &amp; b", "one\\ntwo", "cafe\u0301"]
    faults += ["<|im_end|>", f"{asked} Yes.", f"I say: {asked}"]
    rows = [{"prompt": asked, "chosen": f"{text} yes", "rejected": f"no {at}"} for at, text in enumerate(faults)]
    rows += [{"prompt": asked, "chosen": f"{asked} one", "rejected": f"{asked} two"}]
    rows += [
        {"prompt": asked, "chosen": "well", "rejected": f"no: {asked}"},
        {"prompt": asked, "chosen": "\u200b", "rejected": "x"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    main(["data", str(tmp_path / "rows.jsonl"), "--set", "max_bad_share=1", "--json"])
    report = json.loads(capsys.readouterr().out)
    codes = {one["code"] for one in report["sources"][0]["analyses"]}
    named = set(re.findall(r"`([a-z-]+)`", PAGE))
    assert len(codes) > 18 and codes <= named, codes - named
