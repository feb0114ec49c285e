"""The kinds of judges that suites name: a server, your own model, a recording."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import DataError, ModelError, PlanError, RatchetError
from ratchet.evaluate.bench import Candidates
from ratchet.evaluate.engines.kinds import engine_label
from ratchet.evaluate.judges.judge import Judge
from ratchet.model.folder import model_folder
from ratchet.pairs.chat import chat_template_of
from ratchet.plan.judge import JUDGE_KINDS, EndpointJudge, ModelJudge, ReplayJudge
from ratchet.plan.judge import Judge as AnyJudge
from ratchet.plan.task_parts import Answering
from ratchet.reference.models import model_content, model_of
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import Answer, ChatRequest, Engine, Request, request_words
from ratchet.serving.retry import REAL_PACE, RequestPace
from ratchet.store.codec import json_rows
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_file, fingerprint
from ratchet.store.lease import Wait, leased

_NAMES_SHOWN = 8


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
    """Return a recording as judge. Raises DataError where the file is not a recording, or has nothing by that judge."""
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
            # Together first: batches of one would take many times as long.
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


class ReplayEngine:
    """Judgments of one judge, found by the prompt that the judge was given.

    A line has `judge` (a list of the judge's name and the prompt's), `user_prompt` and `judgment`.
    Recordings were drawn at temperature 0: a request at another one is not in them.
    Raises DataError where the file cannot be read, a line is not a judgment, or none is by `judge`.
    """

    def __init__(self, path: Path, judge: str) -> None:
        self.path, self.judge = path, judge
        self._said: dict[str, set[str]] = {}
        others = set()
        for number, row in json_rows(path):
            by = row.get("judge")
            name = by[0] if isinstance(by, list) and by else by
            texts = name, row.get("user_prompt"), row.get("judgment")
            if not all(isinstance(text, str) for text in texts):
                raise DataError(
                    "no judgment: judge, user_prompt or judgment is missing, or no text",
                    where=f"{path}:{number}",
                    fix="give a file of FastChat's model_judgment",
                    code="data.questions",
                )
            others.add(str(name))
            if name == judge:
                self._said.setdefault(row["user_prompt"], set()).add(row["judgment"])
        if not self._said:
            there = ", ".join(sorted(others)[:_NAMES_SHOWN])
            raise DataError(
                f"has no judgment by {judge!r}",
                where=str(path),
                fix=f"it has judgments by {there}",
                code="data.questions",
            )

    def holds(self, prompt: str) -> bool:
        """Return whether this prompt has a recorded answer."""
        return prompt in self._said

    def attempt(self, requests: Sequence[Request]) -> list[Answer | RatchetError]:
        """Return the recorded answer to each request, or a DataError where there is none, in their order."""
        return [self._find(request) for request in requests]

    def _find(self, request: Request) -> Answer | RatchetError:
        said: set[str] = set()
        if isinstance(request, ChatRequest) and request.turns and not request.sampling.temperature:
            said = self._said.get(request.turns[-1].content, set())
        if len(said) == 1:
            return Answer(next(iter(said)), "stop")
        if said:
            return DataError(
                f"several judgments in the recording for {request_words(request)}",
                where=str(self.path),
                fix="keep the lines of one model and one run",
            )
        return DataError(f"not in the recording for {request_words(request)}", where=str(self.path))


@contextlib.contextmanager
def _own_judge(candidates: Candidates, said: ModelJudge) -> Iterator[Judge]:
    spec = said.model
    model = model_of("judge", spec, model_folder(spec))
    bench = dataclasses.replace(candidates.bench, chat_template=chat_template_of(spec))
    with Candidates(bench, model, f"judge-of-{candidates.model.weights}-") as own:
        asked = Answering(engine=said.engine)
        own.alone([asked], candidates.step_back)
        candidate = own.of(asked)
        marks = [token.content for token in own.tokenizer.added_tokens_decoder.values() if token.special]
        name = spec.name or model.folder.name
        how = f"{engine_label(said.engine, gpu=bool(bench.cluster.gpus_per_worker))}, weights {model.weights}"
        yield engine_judge(name, how, _InTurn(candidate.engine, candidates), marks)


class _InTurn:
    """An engine that starts once the candidate's processes have ended."""

    def __init__(self, engine: Engine, candidates: Candidates) -> None:
        self.engine, self.candidates = engine, candidates

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        # One GPU may have to do for both.
        self.candidates.rest()
        return self.engine.answer(requests)


@contextlib.contextmanager
def _served(candidates: Candidates, said: EndpointJudge) -> Iterator[Judge]:
    bench, name = candidates.bench, fingerprint({"base_url": said.base_url, "model": said.model})
    lease = leased(
        bench.layout.lease(f"judgments-{name}"),
        what=f"judgments of {said.model}",
        wait=Wait(candidates.step_back, bench.end_if_stopped),
    )
    with lease, endpoint_judge(said, bench.layout.judgments(name), look=bench.end_if_stopped) as judge:
        yield judge


def _own_identity(said: ModelJudge, gpu: bool) -> dict[str, Any]:
    engine = engine_label(said.engine, gpu=gpu)
    return {"engine": engine, "name": said.model.name or said.model.path, "model": model_content(said.model)}


@dataclasses.dataclass(frozen=True)
class JudgeRun:
    """How a kind of judge is asked. No column has a default.

    identity  its settings, and whether it runs on a GPU, in; who judges out, wherever it is and however it is asked
    open      the judge as a context, once no other process asks it and writes down what it says
    """

    identity: Callable[[Any, bool], Any]
    open: Callable[[Candidates, Any], contextlib.AbstractContextManager[Judge]]


JUDGES: Mapping[str, JudgeRun] = {
    "endpoint": JudgeRun(
        identity=lambda said, gpu: said.model_dump(mode="json", exclude=JUDGE_KINDS["endpoint"].how_only), open=_served
    ),
    "model": JudgeRun(identity=_own_identity, open=_own_judge),
    "replay": JudgeRun(
        identity=lambda said, gpu: {"judge": said.judge, "recording": digest_file(at_home(said.file))},
        open=lambda candidates, said: contextlib.nullcontext(replay_judge(said)),
    ),
}
"""The rows by kind: those of `plan.judge.JUDGE_KINDS`."""


def open_judge(candidates: Candidates, judge: AnyJudge | None, where: str) -> contextlib.AbstractContextManager[Judge]:
    """Return the judge of a task as a context.

    Raises PlanError where there is none, and what opening one raises.
    """
    if judge is None:
        raise PlanError(
            "has no judge", where=where, fix="set its judge: a server, a model or a recording (docs/evaluation.md)"
        )
    return JUDGES[judge.kind].open(candidates, judge)


def judge_identity(judge: AnyJudge | None, *, gpu: bool) -> Any:
    """Return what decides a judge's verdicts; None where there is no judge. Raises DataError, ModelError."""
    return None if judge is None else JUDGES[judge.kind].identity(judge, gpu)
