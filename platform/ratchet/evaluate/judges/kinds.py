"""The kinds of judges that suites name: a server, your own model, a recording."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ratchet.errors import PlanError
from ratchet.evaluate.bench import Candidates
from ratchet.evaluate.engines.kinds import engine_label
from ratchet.evaluate.judges.judge import Judge, endpoint_judge, engine_judge, replay_judge
from ratchet.model.load import model_folder
from ratchet.pairs.chat import chat_template_of
from ratchet.plan.judge import JUDGE_KINDS, EndpointJudge, ModelJudge
from ratchet.plan.judge import Judge as AnyJudge
from ratchet.plan.task_parts import Answering
from ratchet.reference.models import model_content, model_of
from ratchet.serving.requests import Answer, Engine, Request
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_file, fingerprint
from ratchet.store.lease import Wait, leased


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
        yield engine_judge(name, how, _Alone(candidate.engine, candidates), marks)


class _Alone:
    """An engine that starts once the candidate's processes have ended: one GPU may have to do for both."""

    def __init__(self, engine: Engine, candidates: Candidates) -> None:
        self.engine, self.candidates = engine, candidates

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
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
