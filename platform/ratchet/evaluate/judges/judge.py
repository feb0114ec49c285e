"""Judges: who they are, what they are asked, and what becomes of their answers.

A judgment without one clear rating from 1 to 10 is asked for again; it is never a score. A rating stands as FastChat
asks for it (Zheng et al. 2023, llm_judge): `[[number]]`, else `Rating: [number]`. It is looked for in what the judge
says, not in what it thinks, and only where the judge came to its end.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

from ratchet.errors import RatchetError
from ratchet.evaluate.judges.guard import in_square_brackets
from ratchet.evaluate.thoughts import UNCLOSED, spoken
from ratchet.pairs.pair import Turn
from ratchet.serving.requests import Answer, ChatRequest, Request, Sampling

FAILED = "judge failed"
"""How the problem of a judgment begins whose request got no answer."""
MAX_TOKENS = 2048
WARMER = 0.1
"""Temperature that each further attempt at one judgment adds; the first is at 0."""
_HEAD = re.compile(r" for the | to the |[:(]")
LOWEST, HIGHEST = 1.0, 10.0
NO_RATING = "no rating"
OUT_OF_RANGE = "rating out of range"
DISPUTED = "disputed: several ratings, or one that may be quoted"

_NUMBER = r"(\d+\.?\d*)"
_STRONG = re.compile(rf"\[\[{_NUMBER}\]\]", re.ASCII)
_LOOSE = r"[^\w\[\]\n]{0,8}"
_CALLED = rf"\b(?:rating|score|grade|verdict)\b{_LOOSE}"
_FLAGS = re.ASCII | re.IGNORECASE | re.MULTILINE
# What is no rating as it was asked for, but shows that another `[[number]]` may be an example: an escaped or bold one,
# `[[7/10]]`, a plain `Rating: 7`.
_OTHER = re.compile(
    r"\\?\[\s?\\?\[[^\w\[\]\n]{0,4}(\d+(?:[.,]\d+)?)[^\[\]\n]{0,12}\]\s?\\?\]"
    r"|\brating\b[^\w\[\n]{0,8}[:=][^\w\[\n]{0,8}(\d+(?:\.\d+)?)(?!\w)",
    _FLAGS,
)
# A bare `[number]` is a citation or a place in a list, unless it is called a rating or is the last line.
_STATED = re.compile(
    rf"\b(?:rating|score|grade|verdict)\b[^\w\[\n:=]{{0,8}}(?:[:=]|\b(?:is|of)\b){_LOOSE}\[{_NUMBER}\](?!\])"
    rf"|{_CALLED}\[{_NUMBER}\]\W*$"
    rf"|^[^\w\[\]]*\[{_NUMBER}\]\W*\Z",
    _FLAGS,
)
_ORDER = r"(?:\d+|one|two|first|second)"
_THING = r"(?:turn|question|answer|response|round)"
# A judge of two turns may rate each of them before it rates what it was asked to rate.
_PART = re.compile(
    rf"\b(?:{_THING}\W{{1,4}}{_ORDER}|{_ORDER}\W{{1,4}}{_THING})\b[^\[\]\n]{{0,24}}\[\[{_NUMBER}\]\]", _FLAGS
)
_WHOLE = re.compile(rf"\b(?:rating|score|grade|verdict|overall|final)\b{_LOOSE}\[\[{_NUMBER}\]\]", _FLAGS)
# What servers call an answer that its author ended: OpenAI and vLLM, Anthropic, TGI, Together, Cohere.
_ENDED = frozenset({"stop", "end_turn", "stop_sequence", "eos_token", "eos", "complete"})


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who judges. `name` and `how` stand beside every number.

    `attempt` gives an answer for each request, in their order, or the error of one that has none; it
    raises what concerns all of them. `control` are the texts that the judge's tokenizer reads as
    control tokens; no candidate may write them into a prompt. `holds` tells whether a prompt was judged
    before the candidate could write anything to this judge, so that it needs no guard.
    """

    name: str
    how: str
    attempt: Callable[[Sequence[Request]], list[Answer | RatchetError]]
    control: tuple[str, ...] = ()
    holds: Callable[[str], bool] = lambda _: False


@dataclasses.dataclass(frozen=True)
class JudgeCase:
    """One thing to judge: the judge's prompts, and the texts of others that were put into them.

    `answers` are the candidate's, as it wrote them; `given` are questions and references.
    """

    system: str
    prompt: str
    answers: tuple[str, ...]
    given: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of a case: a rating, or the problem. `texts` is what the judge said at each attempt.

    `unanswered` says that the judge never answered: asked again, it may.
    """

    rating: float | None
    problem: str
    texts: tuple[str, ...]
    unanswered: bool = False


def request_of(case: JudgeCase, attempt: int) -> ChatRequest:
    """Return what is asked at an attempt, from 0.

    The first is FastChat's, at temperature 0. Each further one is a little warmer and has its own seed.
    """
    turns = (Turn("system", case.system), Turn("user", case.prompt))
    if not attempt:
        return ChatRequest(turns, Sampling(max_tokens=MAX_TOKENS))
    # With a seed of its own: an equal request would be the same answer from the journal.
    return ChatRequest(turns, Sampling(max_tokens=MAX_TOKENS, temperature=WARMER * attempt, seed=attempt))


def judge_cases(judge: Judge, cases: Sequence[JudgeCase], retries: int) -> list[Verdict]:
    """Return a verdict on each case, in their order.

    A judgment without one clear rating in range is asked for again, `retries` times. A failed request is
    not: it had the endpoint's own attempts.
    """
    found: list[Verdict] = [Verdict(None, NO_RATING, ())] * len(cases)
    waiting = list(range(len(cases)))
    for attempt in range(retries + 1):
        answers = judge.attempt([request_of(cases[n], attempt) for n in waiting]) if waiting else []
        again = []
        for n, answer in zip(waiting, answers, strict=True):
            found[n], unclear = _verdict(answer, cases[n], found[n])
            again += [n] if unclear else []
        waiting = again
    return found


def _verdict(answer: Answer | RatchetError, case: JudgeCase, before: Verdict) -> tuple[Verdict, bool]:
    """Return the verdict after one more attempt, and whether another may do better."""
    if isinstance(answer, RatchetError):
        # What the judge said before tells more than that it fell silent.
        problem = before.problem if before.texts else f"{FAILED}: {_HEAD.split(answer.what, maxsplit=1)[0].strip()}"
        return Verdict(None, problem, (*before.texts, f"$ERROR$ {answer.what}"), unanswered=not before.texts), False
    texts = (*before.texts, answer.text)
    # The judge sees no `[[number]]` in an answer, so a judgment's only one is its own, whatever the answer holds:
    # else an answer could list the ratings that it would be spared.
    quotable = in_square_brackets((*case.answers, *case.given))
    reading = read_verdict(answer.text, answer.finish_reason, quotable)
    return Verdict(reading.rating, reading.problem, texts), reading.rating is None


@dataclasses.dataclass(frozen=True)
class VerdictReading:
    """What a judgment says: a rating from 1 to 10, else the problem."""

    rating: float | None
    problem: str = ""


def read_verdict(text: str, finish_reason: str = "stop", quotable: Iterable[float] = ()) -> VerdictReading:
    """Return the rating in a judgment, or why it has none.

    There is none in a judgment that did not come to its end, in thoughts, and where several ratings differ. `quotable`
    are numbers that others wrote in square brackets, so that a bare `[number]` among them may be a quotation.
    """
    said = spoken(text)
    if finish_reason.lower() not in _ENDED:
        return VerdictReading(None, f"{NO_RATING} ({finish_reason or 'unfinished'})")
    if said is None:
        return VerdictReading(None, f"{NO_RATING} ({UNCLOSED})")
    whole = _of_the_whole(said)
    strong = _values(_STRONG, whole)
    found = strong | _values(_STATED, said)
    if not found:
        return VerdictReading(None, NO_RATING)
    # Where several ratings differ nobody can tell which one is meant.
    if len(found) > 1 or not _values(_OTHER, whole) <= found or (not strong and found & set(quotable)):
        return VerdictReading(None, DISPUTED)
    (rating,) = found
    return VerdictReading(rating) if LOWEST <= rating <= HIGHEST else VerdictReading(None, OUT_OF_RANGE)


def _of_the_whole(said: str) -> str:
    """Return what is said without ratings of single turns, where there is one of the whole beside them."""
    rest = _PART.sub("", said)
    return rest if _WHOLE.search(rest) else said


def _values(pattern: re.Pattern[str], text: str) -> set[float]:
    return {float(next(filter(None, found.groups())).replace(",", ".")) for found in pattern.finditer(text)}
