"""What an evaluation suite may say (`eval/*.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet.plan.base import Name, Strict


class ExactMatch(Strict):
    """Greedy answers to held-out prompts, right where the pattern's group equals the chosen answer's."""

    kind: Literal["exact_match"]
    source: Name
    """Source of the plan whose held-out prompts are answered."""
    pattern: str
    """Regular expression with one group; its last match in a text is the text's answer."""
    rows: Annotated[int, Field(ge=1)] = 200
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    batch: Annotated[int, Field(ge=1)] = 64


class Suite(Strict):
    """Named tasks. Held-out reward accuracy and γ are computed for every plan, without a suite."""

    tasks: Annotated[dict[Name, ExactMatch], Field(min_length=1)]
