"""An engine without batches, in the open: one forward pass for each continuation and each new token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ratchet.errors import RatchetError
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness import run as harness
from ratchet.evaluate.results import TaskResult
from ratchet.plan.tasks import Harness
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest, Request


class PlainEngine:
    """Answers as `evaluate.engines.pool.GroupEngine` says; `asked` keeps the groups of each call."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.asked: list[dict[str, list[Request]]] = []

    def answer_groups(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[Answer]]:
        self.asked.append({name: list(requests) for name, requests in groups.items()})
        return {name: self.answer(requests) for name, requests in groups.items()}

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        with torch.inference_mode():
            return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        match request:
            case ContinuationRequest(context=context, continuations=continuations):
                scored = [self._score(context, continuation) for continuation in continuations]
                return Answer("", "stop", logprobs=tuple(s for s, _ in scored), greedy=tuple(g for _, g in scored))
            case CompletionRequest(prompt=prompt) if not isinstance(prompt, str):
                return self._complete(list(prompt), request)
        raise TypeError(type(request).__name__)

    def _score(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> tuple[float, bool]:
        ids = torch.tensor([*context, *continuation])
        logits = self.model(input_ids=ids[None, :-1]).logits[0, -len(continuation) :].float()
        target = torch.tensor(continuation)
        score = logits.log_softmax(-1).gather(1, target[:, None]).sum()
        return float(score), bool((logits.argmax(-1) == target).all())

    def _complete(self, ids: list[int], request: CompletionRequest) -> Answer:
        new: list[int] = []
        cache = None
        for _ in range(request.sampling.max_tokens):
            out = self.model(input_ids=torch.tensor([new[-1:] or ids]), past_key_values=cache, use_cache=True)
            cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
            if token == self.tokenizer.eos_token_id:
                break
            new.append(token)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            cuts = [text.index(stop) for stop in request.sampling.stop if stop in text]
            if cuts:
                return Answer(text[: min(cuts)], "stop")
        return Answer(self.tokenizer.decode(new, skip_special_tokens=True), "stop")


def run_all(
    tasks: Mapping[str, Harness], candidate: Candidate, *, data_root: Path | None, store: Path
) -> dict[str, TaskResult]:
    """Load lm-eval's tasks and score them. Raises the first error of a task that cannot be asked."""
    loaded = {name: harness.load_task(name, task, data_root, store) for name, task in tasks.items()}
    results = {}
    for name, (result, _) in harness.run_all(loaded, candidate, store).items():
        if isinstance(result, RatchetError):
            raise result
        results[name] = result
    return results


def run(name: str, task: Harness, candidate: Candidate, *, data_root: Path | None, store: Path) -> TaskResult:
    """Load and score one of them."""
    return run_all({name: task}, candidate, data_root=data_root, store=store)[name]
