"""Who judges answers: a server, your own model, or a recording of earlier judgments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Strict, local
from ratchet.plan.model import ModelSpec

Engine = Literal["trainer", "vllm"]


class EndpointJudge(Strict):
    """A server that speaks OpenAI's protocol."""

    kind: Literal["endpoint"]
    """An OpenAI-compatible server."""
    base_url: str
    """The URL without `/chat/completions`; it mostly ends in `/v1`."""
    model: str
    """The judge's name there; every score names it."""
    key_variable: str | None = None
    """Environment variable that holds the key. The key itself is in no file."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests under way at once."""
    # A large judge may think for minutes before its first token, and no tokens are streamed.
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for one answer."""
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """Times that a request is sent before it counts as failed."""
    budget: Annotated[int, Field(ge=1)] | None = None
    """Most requests that one run may send, attempts that failed included; kept judgments cost nothing."""
    allow_private: bool = False
    """Let the URL lead to addresses that are not of the open internet, such as your own server."""


class ModelJudge(Strict):
    """A model that Ratchet loads itself."""

    kind: Literal["model"]
    """A local model."""
    model: ModelSpec
    """The judge."""
    engine: Engine = "trainer"
    """Who runs it: transformers, as the trainer loads a model, or vLLM."""


class ReplayJudge(Strict):
    """Judgments that were recorded before, in FastChat's format; a judgment that is not there is missing."""

    kind: Literal["replay"]
    """A recording."""
    file: str
    """JSON lines with `judge`, `user_prompt` and `judgment`."""
    judge: str
    """Name of the judge whose lines count."""

    @model_validator(mode="after")
    def _is_a_file(self) -> ReplayJudge:
        local(self, "file")
        return self


Judge = Annotated[EndpointJudge | ModelJudge | ReplayJudge, Field(discriminator="kind")]


@dataclasses.dataclass(frozen=True)
class JudgeKind:
    """All that is known of a kind of judge before it is asked. No column has a default.

    settings      its keys in a suite
    how_only      keys that say how it is asked, not who it is: they are in no identity
    path          the key that names a file, or None; what is in a model is known already
    key_variable  the key that names the environment variable with a secret, or None
    """

    settings: type[Strict]
    how_only: frozenset[str]
    path: str | None
    key_variable: str | None


JUDGE_KINDS: Mapping[str, JudgeKind] = {
    "endpoint": JudgeKind(
        settings=EndpointJudge,
        how_only=frozenset(
            {"concurrency", "timeout_seconds", "max_attempts", "budget", "key_variable", "allow_private"}
        ),
        path=None,
        key_variable="key_variable",
    ),
    "model": JudgeKind(settings=ModelJudge, how_only=frozenset(), path=None, key_variable=None),
    "replay": JudgeKind(settings=ReplayJudge, how_only=frozenset(), path="file", key_variable=None),
}
"""The rows by kind; `evaluate.judges.kinds` says how each is asked."""
