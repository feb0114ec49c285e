"""EQ-Bench's rules: cutting a prompt, reading answers, scoring a question, and when a total counts.

Paech, "EQ-Bench: An Emotional Intelligence Benchmark for Large Language Models" (2023,
arXiv:2312.06281), for version 1; the runner in its repository (github.com/EQ-bench/EQ-Bench, commit
d28c60c) for version 2 and for both versions' prompts, parsing and limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

Scores = Mapping[str, float]
Version = Literal["v1", "v2"]

V2_SCALE = 0.7477  # makes answers at random score 0
SIGMOID_TOP, SIGMOID_SLOPE, SIGMOID_MIDDLE, SIGMOID_UP_TO = 6.5, 1.2, 4.0, 5.0
LEAST_PARSED = 0.8333
LEAST_REVISED = 0.95
FIRST_TEMPERATURE, WARMER = 0.01, 0.15
_LARGEST = 1e100  # a model that repeats a digit must not make a mean infinite; the runner would let it

FIRST, REVISED = "First pass scores:", "Revised scores:"
_ANSWER = re.compile(r"(\w+):\s+(\d+)")
_REVISION = re.compile(
    r"(?P<task>.*?) Then critique your answer[^\n]*(?P<form>.*?)First pass scores:\n(?P<names>.*?)"
    r"Critique: <.*?Revised scores:.*?(?P<end>\[End of answer\].*)",
    re.DOTALL,
)


def asks_revision(prompt: str) -> bool:
    """Tell whether a prompt asks for a first pass, a critique and revised scores, in EQ-Bench's form."""
    return _REVISION.fullmatch(prompt) is not None


def cut_revision(prompt: str) -> str:
    """Return a prompt without its revision part, ending as the runner's does; one that has none stays as it is."""
    parts = _REVISION.fullmatch(prompt)
    if parts is None:
        return prompt
    return f"{parts['task']}{parts['form']}{parts['names']}\n{parts['end']}\nYour answer:\n"


def temperatures(attempts: int) -> list[float]:
    """Return the temperature of each attempt."""
    # Rounded, as a request is known by its temperature too, and a sum of floats may have a last digit of its own.
    return [round(FIRST_TEMPERATURE + WARMER * attempt, 2) for attempt in range(attempts)]


def read_passes(text: str, *, revision: bool) -> dict[str, Scores]:
    """Return the scores of an answer's pass `first` and, with revision, of its pass `revised`.

    They are the whole numbers after `name: `, the last one where a name comes again; `7.5` reads 7, and
    `**8**` is no score. With revision the first pass lies between the two headings, and is empty
    where the second heading is missing.
    """
    if not revision:
        return {"first": _scores(text)}
    _, heading, after = text.partition(FIRST)
    first, end, _ = after.partition(REVISED)
    return {"first": _scores(first if heading and end else ""), "revised": _scores(text.partition(REVISED)[2])}


def _scores(text: str) -> Scores:
    return {name: float(score) for name, score in _ANSWER.findall(text)}


def trouble(scores: Scores, emotions: Collection[str]) -> str:
    """Return why scores do not end the asking, in a few words, or "" where they do.

    The runner judges this by version 1's rule for version 2 as well: four scores, of exactly these
    emotions, that do not sum to 0.
    """
    if not scores:
        return "no scores"
    if len(scores) != len(emotions):
        return "not four scores"
    if set(scores) != set(emotions):
        return "other emotions than asked"
    if max(scores.values()) > _LARGEST:
        return "a score without bounds"
    return "" if sum(scores.values()) > 0 else "scores sum to 0"


def question_score(version: Version, reference: Scores, scores: Scores) -> float | None:
    """Return the score of one pass over a question, at most 10 and possibly negative; None where it has none.

    Version 1 brings the scores to a sum of 10, where that is possible. With d, the absolute differences from the
    reference, it gives 10 − Σ d. Version 2 takes them as they are: 10 − 0.7477 Σ f(d), f(0) = 0, f(d) = 6.5 / (1 +
    exp(−1.2 (d − 4))) up to 5, and d above.
    """
    if set(scores) != set(reference) or max(scores.values()) > _LARGEST:
        return None
    if version == "v2":
        return 10 - V2_SCALE * sum(_scaled(abs(scores[name] - reference[name])) for name in scores)
    total = sum(scores.values())
    # There is no sum of 10 to bring it to.
    if total <= 0:
        return None
    return 10 - sum(abs(scores[name] / total * 10 - reference[name]) for name in scores)


def _scaled(distance: float) -> float:
    if distance == 0:
        return 0.0
    if distance > SIGMOID_UP_TO:
        return distance
    return SIGMOID_TOP / (1 + math.exp(-SIGMOID_SLOPE * (distance - SIGMOID_MIDDLE)))


def total(scores: Sequence[float]) -> float:
    """Return the benchmark's score in points of 100: the mean of the questions' scores × 10, and 0 without any."""
    return 10 * sum(scores) / len(scores) if scores else 0.0


def revised_counts(first: Sequence[float], revised: Sequence[float]) -> bool:
    """Tell whether the revised pass stands for the run: no worse a total, and at least 95 % as many parsed."""
    return total(revised) >= total(first) and len(revised) >= LEAST_REVISED * len(first)


def enough(parsed: int, asked: int) -> bool:
    """Tell whether enough was parsed for a total."""
    # The runner fails below 0.8333, so that 5 of 6 and 50 of 60 pass.
    return parsed / asked >= LEAST_PARSED
