"""Judges as suites name them: a server, a model of one's own, a recording."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from ratchet.errors import PlanError
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.engines.kinds import engine_label
from ratchet.evaluate.judges.judge import Judge, endpoint_judge, engine_judge, replay_judge
from ratchet.model.load import resolve
from ratchet.pairs.chat import chat_template_of
from ratchet.plan.judge import EndpointJudge, ModelJudge, ReplayJudge
from ratchet.plan.suite import Answering, MtBench
from ratchet.reference.models import model_of
from ratchet.serving.requests import Answer, Engine, Request
from ratchet.store.fingerprint import fingerprint
from ratchet.store.lease import Wait, leased


@contextlib.contextmanager
def judge_of(candidates: Candidates, task: MtBench, where: str) -> Iterator[Judge]:
    """Yield the judge of a task, once no other process asks it and writes down what it says.

    Raises PlanError where there is none, and what opening one raises.
    """
    bench, said = candidates.bench, task.judge
    match said:
        case EndpointJudge():
            name = fingerprint({"base_url": said.base_url, "model": said.model})
            lease = leased(
                bench.layout.lease(f"judgments-{name}"),
                what=f"judgments of {said.model}",
                wait=Wait(candidates.step_back, bench.end_if_stopped),
            )
            with lease, endpoint_judge(said, bench.layout.judgments(name), look=bench.end_if_stopped) as judge:
                yield judge
        case ReplayJudge():
            yield replay_judge(said)
        case ModelJudge():
            with _own_judge(bench, said, candidates) as judge:
                yield judge
        case None:
            raise PlanError(
                "has no judge",
                where=where,
                fix="set its judge: a server, a model or a recording (docs/evaluation.md)",
            )


@contextlib.contextmanager
def _own_judge(bench: Bench, said: ModelJudge, candidates: Candidates) -> Iterator[Judge]:
    spec = said.model
    model = model_of("judge", spec, resolve(spec))
    bench = dataclasses.replace(bench, chat_template=chat_template_of(spec))
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
