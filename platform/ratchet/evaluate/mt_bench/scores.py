"""From ratings to scores as FastChat averages them, and lines of FastChat's files of judgments and answers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from ratchet.documents.scores import Score
from ratchet.evaluate import statistics
from ratchet.evaluate.results import Item, join_notes, without_error

MOST_MISSING = 0.05
"""Share of judgments that may be missing from a score; with more it has no value."""
METRIC = "rating"
# What FastChat writes in place of a judgment that could not be had.
_SAID_NOTHING = "$ERROR$"


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

    Where there is no rating, `score` is FastChat's -1, and `judgment` its text for a judgment that could not be had;
    what the judge did say stands in `attempts`.
    """
    return json.dumps(
        {
            "question_id": question_id,
            "model": model,
            "judge": list(judge),
            "user_prompt": prompt,
            "judgment": _SAID_NOTHING if rating is None else texts[-1],
            # FastChat's -1, which its averages leave out.
            "score": -1 if rating is None else rating,
            "turn": turn,
            "tstamp": when,
            "attempts": list(texts),
        },
        ensure_ascii=False,
    )
