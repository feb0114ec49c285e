"""Judges: who they are, what they are asked, and what becomes of their answers.

A judgment without one clear rating from 1 to 10 is asked for again; it is never a score.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ratchet.errors import DataError, ModelError, RatchetError
from ratchet.evaluate.judges.guard import in_square_brackets
from ratchet.evaluate.judges.verdicts import NO_RATING, read_verdict
from ratchet.pairs.pair import Turn
from ratchet.plan.judge import EndpointJudge, ReplayJudge
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.replay import ReplayEngine
from ratchet.serving.requests import Answer, ChatRequest, Engine, Request, Sampling
from ratchet.serving.retry import REAL_PACE, RequestPace
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_file

FAILED = "judge failed"
"""How the problem of a judgment begins whose request got no answer."""
MAX_TOKENS = 2048
WARMER = 0.1
"""Temperature that each further attempt at one judgment adds; the first is at 0."""
_HEAD = re.compile(r" for the | to the |[:(]")


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


@contextlib.contextmanager
def endpoint_judge(
    said: EndpointJudge, journal: Path, pace: RequestPace = REAL_PACE, look: Callable[[], None] = lambda: None
) -> Iterator[Judge]:
    """Yield a server as judge; judgments are kept in `journal`, and none there is asked for twice.

    What `look` raises, which is called before every request, ends the judging. Raises PlanError, RunError,
    CorruptError, StorageError.
    """
    with Journal(journal) as kept:
        settings = EndpointSettings(**said.model_dump(exclude={"kind"}))
        yield Judge(said.model, f"endpoint {said.base_url}", Endpoint(settings, kept, pace, look).attempt)


def replay_judge(said: ReplayJudge) -> Judge:
    """Return a recording as judge. Raises DataError where the file is none, or has nothing by that judge."""
    path = at_home(said.file)
    replay = ReplayEngine(path, said.judge)
    return Judge(said.judge, f"replay of {path.name}, sha256 {digest_file(path)}", replay.attempt, holds=replay.holds)


def engine_judge(name: str, how: str, engine: Engine, control: Sequence[str] = ()) -> Judge:
    """Return a local model as judge; `name` says which, weights included.

    Where the engine refuses requests that come together, each is asked alone, and only those that it
    refuses again fail. Where that is every one, the error is raised.
    """

    def attempt(requests: Sequence[Request]) -> list[Answer | RatchetError]:
        try:
            return list(engine.answer(requests))
        except (ModelError, DataError):
            alone = [_alone(engine, request) for request in requests]
            if all(isinstance(answer, RatchetError) for answer in alone):
                raise
            return alone

    return Judge(name, how, attempt, tuple(control))


def _alone(engine: Engine, request: Request) -> Answer | RatchetError:
    try:
        return engine.answer([request])[0]
    except (ModelError, DataError) as error:
        return error


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

    The first is FastChat's, at temperature 0. Each further one is a little warmer and has its own seed:
    an equal request would be the same answer from the journal.
    """
    turns = (Turn("system", case.system), Turn("user", case.prompt))
    if not attempt:
        return ChatRequest(turns, Sampling(max_tokens=MAX_TOKENS))
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
