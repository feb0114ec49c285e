"""Judgments in FastChat's files, and the scores that follow from them: published figures are recomputed by these."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.scores import Score
from ratchet.evaluate.judges.judge import read_verdict
from ratchet.evaluate.mt_bench.scores import METRIC, item_id, scores_from
from ratchet.evaluate.results import Item

_STRONG, _WEAK = re.compile(r"\[\[(\d+\.?\d*)\]\]", re.ASCII), re.compile(r"\[(\d+\.?\d*)\]", re.ASCII)


def read_as_fastchat(text: str) -> float | None:
    """Return the first `[[number]]` of a text, else its first `[number]`, as FastChat does; None without any."""
    found = _STRONG.search(text) or _WEAK.search(text)
    return float(found[1]) if found else None


def read_judgments(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return recorded judgments, each of (model, question, turn, judge) once.

    Raises ValueError with file and line where two differ (two runs blended into one file), and where a `score` is
    neither FastChat's reading of its judgment nor ours.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            key = (row["model"], row["question_id"], row["turn"], *row["judge"])
            if found.setdefault(key, row)["judgment"] != row["judgment"]:
                raise ValueError(f"{path}:{number}: another judgment of {key}")
            readings = read_as_fastchat(row["judgment"]), read_verdict(row["judgment"]).rating
            if row["score"] not in {-1 if one is None else one for one in readings}:
                raise ValueError(f"{path}:{number}: its score is not what its judgment reads")
    return list(found.values())


def talk_scores(
    judgments: Iterable[Mapping[str, Any]], categories: Mapping[int | str, str]
) -> dict[str, tuple[Score, ...]]:
    """Return each model's scores from recorded judgments; `categories` are of the questions, where known."""
    items: dict[str, list[Item]] = {}
    for one in judgments:
        rating, question = read_verdict(one["judgment"]).rating, one["question_id"]
        values = {} if rating is None else {METRIC: rating}
        item = Item(item_id(question, one["turn"]), str(question), values, categories.get(question, ""))
        items.setdefault(one["model"], []).append(item)
    return {model: scores_from(rows) for model, rows in items.items()}
