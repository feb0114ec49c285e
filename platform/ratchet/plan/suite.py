"""What an evaluation suite may say (`eval/*.yaml`)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Strict, wrong


class ExactMatch(Strict):
    """Greedy answers to held-out prompts, right where the pattern's group equals the chosen answer's."""

    kind: Literal["exact_match"]
    """How answers are judged."""
    source: Name
    """Source of the plan whose held-out prompts are answered."""
    pattern: str
    """Regular expression with one group; its last match in a text is the text's answer."""
    rows: Annotated[int, Field(ge=1)] = 200
    """Prompts to answer, at most."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer, in tokens."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Prompts answered at a time."""
    engine: Literal["trainer", "vllm"] = "trainer"
    """Who writes the answers: transformers, as the trainer loads the model, or vLLM."""

    @model_validator(mode="after")
    def _one_group(self) -> ExactMatch:
        try:
            groups = re.compile(self.pattern).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise wrong("pattern", f"is no regular expression: {error}") from None
        if groups != 1:
            raise wrong("pattern", f"must have one group, not {groups}: (?:…) groups without counting")
        return self


class Suite(Strict):
    """Named tasks. Held-out reward accuracy and γ are computed for every plan, without a suite."""

    tasks: Annotated[dict[Name, ExactMatch], Field(min_length=1)]
    """Tasks, by name."""
