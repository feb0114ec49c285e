"""How the reference is scored, and what its scores must prove before a run trusts them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Strict, wrong


class ReferenceScores(Strict):
    """Who scores the reference. Part of what is made: another engine rounds otherwise."""

    engine: Literal["trainer", "vllm", "auto"] = "trainer"
    """`trainer`: the trainer's own forward pass. `vllm`: vLLM, once its scores agree.
    `auto`: vLLM where it is installed, takes the model and agrees, else the trainer."""
    quantisation: str | None = None
    """How vLLM holds the weights (its `quantization`, such as fp8); left out: as they are."""
    sample: Annotated[int, Field(ge=16)] = 256
    """Pairs of each source that both engines score, for the comparison."""
    otherwise: Literal["refuse", "rescore"] = "refuse"
    """Where vLLM's scores are further off than the stage's loss bears: stop with the figures, or
    score with the trainer's own forward pass. `auto` always does that."""

    @model_validator(mode="after")
    def _quantises_vllm(self) -> ReferenceScores:
        if self.quantisation is not None and self.engine == "trainer":
            raise wrong("quantisation", "is for vLLM, and the engine is trainer: set engine to vllm or auto", "engine")
        return self
