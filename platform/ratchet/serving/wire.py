"""The protocol of OpenAI-compatible servers: a request as path and fields, a reply as an answer, a wait, or the end."""

from __future__ import annotations

import http
import json
import math
from typing import Any

from ratchet.errors import PlanError
from ratchet.serving.connection import HttpReply
from ratchet.serving.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Request,
    Sampling,
    ScoreRequest,
    request_words,
)
from ratchet.serving.retry import Trouble

# Besides every 5xx. 409 is what some gateways say while a model is being loaded.
_TEMPORARY = {408, 409, 425, 429}


def compose(model: str, request: Request) -> tuple[str, dict[str, Any]]:
    """Return the path below the base URL, and the fields of the body. Raises PlanError for what no server is asked."""
    match request:
        case ChatRequest(turns=turns, sampling=sampling):
            messages = [{"role": turn.role, "content": turn.content} for turn in turns]
            return "/chat/completions", {"model": model, "messages": messages, **_sampling(sampling)}
        case CompletionRequest(prompt=prompt, sampling=sampling):
            return "/completions", {"model": model, "prompt": prompt, **_sampling(sampling)}
        case ScoreRequest(token_ids=token_ids):
            # The prompt comes back with its log-probabilities, and nothing is generated.
            asked = {"max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0.0}
            return "/completions", {"model": model, "prompt": token_ids, **asked}
        case ContinuationRequest():
            raise PlanError(
                "a server is not asked how likely continuations are", fix="evaluate the model from its folder"
            )


def _sampling(sampling: Sampling) -> dict[str, Any]:
    # What would say nothing is left out: not every server knows every field.
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.stop:
        fields["stop"] = sampling.stop
    if sampling.choice:
        fields["structured_outputs"] = {"choice": sampling.choice}
    return fields


def read_answer(request: Request, body: bytes) -> Answer:
    """Return the answer in the body of a reply of status 200.

    Raises Trouble where it is not JSON, lacks a field, has not one finite log-probability for each
    token id, or is not one of the allowed answers.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _malformed(request, f"not JSON ({error})") from None
    try:
        first = fields["choices"][0]
        reason = _text(first["finish_reason"])
        usage = fields.get("usage") or {}
        counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        match request:
            case ScoreRequest(token_ids=token_ids):
                return Answer("", reason, *counts, _logprobs(first["logprobs"]["token_logprobs"], len(token_ids)))
            case ChatRequest(sampling=sampling):
                said = first["message"]["content"]
                text = "" if said is None else _text(said)  # null where only thoughts or a refusal came
            case CompletionRequest(sampling=sampling):
                text = _text(first["text"])
            case ContinuationRequest():
                raise ValueError("no server is asked how likely continuations are")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _malformed(request, f"{type(error).__name__}: {error}") from None
    if sampling.choice and text not in sampling.choice:
        raise Trouble(
            f"none of the {len(sampling.choice)} allowed answers to {request_words(request)}: {text!r}",
            fix="the server may not know structured_outputs (vLLM does); do without choice, or raise max_tokens",
            code="endpoint.answer",
        )
    return Answer(text, reason, *counts)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    return value


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int):
        raise TypeError(f"not a count: {value!r}")
    return value


def _logprobs(values: Any, tokens: int) -> tuple[float | None, ...]:
    if not isinstance(values, list) or len(values) != tokens:
        raise ValueError(f"not one log-probability for each of {tokens} token ids")
    if values[0] is not None:
        raise ValueError("a log-probability for the first token id, which has nothing before it")
    if not all(type(value) in {int, float} and math.isfinite(value) for value in values[1:]):
        raise ValueError("a log-probability that is not a finite number")
    return (None, *map(float, values[1:]))


def _malformed(request: Request, why: str) -> Trouble:
    return Trouble(
        f"an answer that is not as the protocol says to {request_words(request)}: {why}",
        fix="check that base_url leads to an OpenAI-compatible server that can do this",
        code="endpoint.answer",
    )


def check_status(reply: HttpReply, request: Request, *, model: str, key_variable: str | None) -> None:
    """Return where the reply holds an answer. Raises Trouble, with `again` as the status asks for."""
    status = reply.status
    if 200 <= status < 300:
        return
    what = f"{_status_words(status)}: {error_text(reply.body)}"
    if status in _TEMPORARY or status >= 500:
        fix = "lower concurrency, or wait" if status == 429 else "look at the server's log, or wait; then run again"
        raise Trouble(what, fix=fix, code="endpoint.failing", retry_after=reply.retry_after, shared=status == 429)
    if 300 <= status < 400:
        what = f"{_status_words(status)}: redirects to {reply.location or 'nowhere'}"
        fix = "redirects are not followed: if you trust that place, give it as base_url"
    elif status in {401, 403}:
        fix = (
            f"check that the key in the environment variable {key_variable} is this server's and may use {model!r}"
            if key_variable
            else "the server wants a key: put it into an environment variable and name that as key_variable"
        )
    elif status == 404:
        fix = f"check base_url (it ends before /chat/completions, mostly in /v1) and that the server has {model!r}"
    else:
        what = f"{_status_words(status)} for {request_words(request)}: {error_text(reply.body)}"
        fix = f"check that the request suits {model!r}: its length, token ids, sampling"
    raise Trouble(what, fix=fix, code="endpoint.refused", again=False, shared=status < 400 or status in {401, 403, 404})


def error_text(body: bytes) -> str:
    """Return a server's error message: the one in its JSON, or else the text as it is."""
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace") or "it says no more"
    for name in ("error", "message", "detail"):
        if isinstance(fields, dict) and fields.get(name):
            fields = fields[name]
    return fields if isinstance(fields, str) else json.dumps(fields)


def _status_words(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
