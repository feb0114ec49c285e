"""From ratings to scores as FastChat averages them, and FastChat's files of judgments and answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.documents.scores import Score
from ratchet.errors import DataError
from ratchet.evaluate import statistics
from ratchet.evaluate.judges.verdicts import read_as_fastchat, read_verdict
from ratchet.evaluate.results import Item, join_notes, without_error
from ratchet.store.lines import json_rows

MOST_MISSING = 0.05
"""Share of judgments that may be missing from a score; with more it has no value."""
METRIC = "rating"
_SAID_NOTHING, _NO_SCORE = "$ERROR$", -1.0


def item_id(question_id: int | str, turn: int) -> str:
    """Return the name of one turn of one question; `turn` is 1 or 2."""
    return f"{question_id}:{turn}"


def scores_from(items: Sequence[Item], about: str = "") -> tuple[Score, ...]:
    """Return the average, both turns, and each category, from 1 to 10 points.

    The average is the mean over all rated rows, as FastChat's, not the mean of the turns' means. Standard
    errors take each question as one draw. A score of which more than 5 % of the rows have no rating
    has no value, and says so. `about` stands in every score's note.
    """
    groups = sorted({item.group for item in items} - {""})
    turns = (1, 2)
    return (
        _score("average", items, about),
        *(_score(f"turn {turn}", [one for one in items if one.item.endswith(f":{turn}")], about) for turn in turns),
        *(_score(name, [one for one in items if one.group == name], about, group=name) for name in groups),
    )


def _score(name: str, items: Sequence[Item], about: str, *, group: str = "") -> Score:
    rated = [item for item in items if METRIC in item.values]
    values = np.asarray([item.values[METRIC] for item in rated], dtype=np.float64)
    found = statistics.clustered(values, [item.cluster for item in rated])
    missing = len(items) - len(rated)
    lost = f"{missing} of {len(items)} judgments are missing" if missing else ""
    enough = bool(rated) and missing <= MOST_MISSING * len(items)
    if not enough:
        lost = f"no score: {lost or 'there are no judgments'}, and {MOST_MISSING:.0%} may be"
    if not enough:
        return Score(name, METRIC, None, None, len(rated), "points", group, join_notes(lost, about))
    note = join_notes(lost, about, without_error(found.standard_error, "question"))
    return Score(name, METRIC, found.mean, found.standard_error, found.count, "points", group, note)


@dataclasses.dataclass(frozen=True)
class RecordedJudgment:
    """One judgment of a file of FastChat's `model_judgment`; `rating` is None where it has none, for `problem`."""

    model: str
    question_id: int | str
    turn: int
    judge: tuple[str, ...]
    rating: float | None
    problem: str
    judgment: str


def read_judgments(paths: Iterable[Path]) -> list[RecordedJudgment]:
    """Read recorded judgments, each of (model, question, turn, judge) once.

    Equal ones, as two copies of one run give, are one. Raises DataError where two differ (two runs blended
    into one file), where a line is none, and where its `score` is not the rating in its judgment.
    """
    found: dict[tuple[Any, ...], tuple[RecordedJudgment, str]] = {}
    for path in paths:
        for number, row in json_rows(path):
            where = f"{path}:{number}"
            one = _recorded(row, where)
            key = (one.model, one.question_id, one.turn, one.judge)
            before, place = found.setdefault(key, (one, where))
            if before.judgment != one.judgment:
                raise DataError(
                    f"another judgment of turn {one.turn} of question {one.question_id} by {one.model} than at {place}",
                    where=where,
                    fix="keep the lines of one run",
                )
    return [one for one, _ in found.values()]


def _recorded(row: Mapping[str, Any], where: str) -> RecordedJudgment:
    try:
        by = row["judge"]
        judge = tuple(map(str, by)) if isinstance(by, list) else (str(by),)
        question_id, turn, text = row["question_id"], row["turn"], row["judgment"]
        stored = float(row["score"])
        model = row["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"no judgment: {type(error).__name__}: {error}", where=where, fix="give a file of FastChat's model_judgment"
        ) from None
    if turn not in (1, 2) or not isinstance(text, str) or not isinstance(question_id, int | str):
        raise DataError("no judgment of turn 1 or 2 of a question", where=where, fix="correct or remove the line")
    reading, theirs = read_verdict(text), read_as_fastchat(text)
    if stored not in {_score_of(theirs), _score_of(reading.rating)}:
        raise DataError(
            f"its score is {stored:g}, but its judgment reads {'no rating' if theirs is None else f'{theirs:g}'}",
            where=where,
            fix="find out which is right: the file was edited, or written by other rules",
        )
    return RecordedJudgment(str(model), question_id, turn, judge, reading.rating, reading.problem, text)


def _score_of(rating: float | None) -> float:
    return _NO_SCORE if rating is None else rating


def talk_scores(
    judgments: Iterable[RecordedJudgment], categories: Mapping[int | str, str]
) -> dict[str, tuple[Score, ...]]:
    """Return each model's scores from recorded judgments; `categories` are of the questions, where known."""
    items: dict[str, list[Item]] = {}
    for one in judgments:
        items.setdefault(one.model, []).append(
            Item(
                item=item_id(one.question_id, one.turn),
                cluster=str(one.question_id),
                values={} if one.rating is None else {METRIC: one.rating},
                group=categories.get(one.question_id, ""),
                problem=one.problem,
            )
        )
    return {model: scores_from(rows) for model, rows in items.items()}


def answer_line(model: str, question_id: int | str, turns: Sequence[str], when: float) -> str:
    """Return a line of FastChat's `model_answer`. `when` is in seconds since 1970."""
    return json.dumps(
        {
            "question_id": question_id,
            "answer_id": f"{model}-{question_id}",
            "model_id": model,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": when,
        },
        ensure_ascii=False,
    )


def judgment_line(
    model: str,
    question_id: int | str,
    turn: int,
    judge: tuple[str, str],
    prompt: str,
    texts: Sequence[str],
    rating: float | None,
    when: float,
) -> str:
    """Return a line of FastChat's `model_judgment`; `judge` has its name and its prompt's.

    Where there is no rating, `score` is FastChat's -1, which its averages leave out, and `judgment` its
    text for a judgment that could not be had; what the judge did say stands in `attempts`.
    """
    return json.dumps(
        {
            "question_id": question_id,
            "model": model,
            "judge": list(judge),
            "user_prompt": prompt,
            "judgment": _SAID_NOTHING if rating is None else texts[-1],
            "score": -1 if rating is None else rating,
            "turn": turn,
            "tstamp": when,
            "attempts": list(texts),
        },
        ensure_ascii=False,
    )
