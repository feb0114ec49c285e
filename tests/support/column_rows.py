"""Rows in a file of a test, read as a source reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import SourceReading, make_reading, read_source
from ratchet.plan.data import Source

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def source_of(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> Source:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Source.model_validate({"path": str(folder / "rows.jsonl"), **keys})


def reading_of(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> SourceReading:
    source = source_of(folder, rows, **keys)
    return make_reading(source, plan_spans(source), None)


def said(source: Source) -> list[Any]:
    return [
        ([(turn.role, turn.content) for turn in one.prompt], one.chosen.content, one.rejected and one.rejected.content)
        if isinstance(one, PreferencePair)
        else (one.reason, one.detail)
        for one in read_source(source)
    ]
