"""What vLLM gave back, as answers and log-probabilities. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.errors import EngineDeathError, ModelError
from ratchet.serving.requests import Answer, ContinuationRequest, Request, request_words


def answer_of(output: Any, request: Request) -> Answer:
    """Return vLLM's answer. Raises EngineDeathError where it gave the request up."""
    (said,) = output.outputs
    if said.finish_reason == "error":
        raise EngineDeathError(f"vLLM gave up {request_words(request)}")
    return Answer(said.text, str(said.finish_reason), len(output.prompt_token_ids), len(said.token_ids))


def continuation_answers(requests: Sequence[ContinuationRequest], outputs: Sequence[Any]) -> list[Answer]:
    """Return the answers to continuation requests from one scored prompt for each continuation, in their order."""
    left = iter(outputs)
    answers = []
    for request in requests:
        first = len(request.context)
        mine = [next(left) for _ in request.continuations]
        sums = tuple(float(answer_logps(output, first).sum(dtype=np.float64)) for output in mine)
        tokens = first + sum(map(len, request.continuations))
        answers.append(Answer("", "scored", tokens, 0, sums, tuple(is_greedy(output, first) for output in mine)))
    return answers


def is_greedy(output: Any, first: int) -> bool:
    """Tell whether every token from `first` on is the most likely one there: its rank is 1."""
    flat = output.prompt_logprobs
    return bool((np.asarray(flat.ranks)[np.asarray(flat.start_indices[first:])] == 1).all())


def answer_logps(output: Any, first: int) -> npt.NDArray[np.float32]:
    """Return an answer's log-probabilities. Raises ModelError where one is not finite."""
    if getattr(output, "prompt_token_id_logprobs", None) is not None:
        logps = np.asarray(output.prompt_token_id_logprobs, np.float32)[:, 0]
    else:
        flat = output.prompt_logprobs
        # The first log-probability of a position is the prompt token's own; position 0 has none.
        logps = np.asarray(flat.logprobs, np.float32)[np.asarray(flat.start_indices[first:])]
    wanted = len(output.prompt_token_ids) - first
    if not np.isfinite(logps).all() or len(logps) != wanted:
        said = f"vLLM gave {int(np.isfinite(logps).sum())} finite log-probabilities for {wanted} tokens"
        raise ModelError(said, fix="set reference.engine to trainer")
    return logps
