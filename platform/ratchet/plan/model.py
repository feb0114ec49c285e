"""Which model a plan starts from."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ratchet.plan.base import ARGUMENT_PATTERN, DAY_PATTERN, Name, Seed, Strict, hub_name, local, one_of, wrong

DAY = "2024-07-26"
"""The day that templates are given where the plan names none: Llama 3's own template takes it where it has no clock."""
Argument = bool | int | float | str
ArgumentName = Annotated[str, StringConstraints(pattern=ARGUMENT_PATTERN)]


class Scratch(Strict):
    """A small Llama made here: a tokenizer trained on the plan's data, weights from a seed."""

    tokenizer_from: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    """Sources whose text trains the byte-level BPE tokenizer."""
    # Below 260 there is no room for the 256 bytes and the special tokens.
    vocab_size: Annotated[int, Field(ge=260, le=65536)] = 512
    """Tokens, the 256 bytes and the special ones included; fewer where the text has fewer merges."""
    hidden_size: Annotated[int, Field(ge=8)] = 128
    """Width of the residual stream; divides by `heads`."""
    layers: Annotated[int, Field(ge=1)] = 4
    """Decoder layers."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads."""
    key_value_heads: Annotated[int, Field(ge=1)] = 4
    """Heads of keys and values, which groups of attention heads share; divides `heads`."""
    intermediate_size: Annotated[int, Field(ge=8)] = 352
    """Width of the feed-forward layers."""
    max_positions: Annotated[int, Field(ge=16)] = 512
    """Longest sequence of tokens."""
    tie_embeddings: bool = True
    """Use the input embedding as the output layer too."""
    seed: Seed = 0
    """Seed of the weights."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Scratch:
        if self.hidden_size % self.heads:
            raise wrong("hidden_size", f"{self.hidden_size} does not divide by heads = {self.heads}", "heads")
        if self.heads % self.key_value_heads:
            groups = self.key_value_heads
            raise wrong("heads", f"{self.heads} does not divide by key_value_heads = {groups}", "key_value_heads")
        return self


class ModelSpec(Strict):
    """Exactly one of `name` (a hub model), `path` (a Hugging Face folder) and `scratch`."""

    name: str | None = None
    """Hub name, for example `Qwen/Qwen3-0.6B`."""
    revision: str | None = None
    """Commit, tag or branch of the hub model; left out: the default branch. Pin a commit: a run keeps the one that it
    found first."""
    path: str | None = None
    """Folder with `config.json`, safetensors weights and a tokenizer."""
    scratch: Scratch | None = None
    """Make a small model instead of loading one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights in every stage's forward pass, and of the reference's."""
    chat_template: str | None = None
    """A Jinja chat template in place of the tokenizer's own: a file, or `plain`, which comes with Ratchet."""
    named_template: str | None = None
    """The one of the model's named chat templates that is taken, such as `rag`; left out: `default`. All are
    published."""
    template_arguments: dict[ArgumentName, Argument] = Field(default_factory=dict)
    """What the chat template gets along with the messages, such as `enable_thinking: false`."""
    date: Annotated[str, StringConstraints(pattern=DAY_PATTERN)] = DAY
    """The day that a chat template takes for today, if it asks: the same whenever the plan runs."""
    system: str | None = None
    """System prompt of conversations that have none of their own."""
    system_turns: Literal["fold", "refuse"] = "fold"
    """A system text that the chat template has no place for goes before the first user's text, or its row is left
    out."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Needs `name`, and a commit as `revision`: 40 hex digits, no branch or tag."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        one_of(self, "name", "path", "scratch")
        local(self, "name", "path", "chat_template")
        hub_name(self, "name", "give it as `path:`")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError as error:
            raise wrong("date", f"{self.date} is no day: {error}") from None
        if self.named_template is not None and self.chat_template is not None:
            raise wrong("named_template", "chooses among the model's own: leave one of the two out", "chat_template")
        if self.revision is not None and self.name is None:
            raise wrong("revision", "belongs to a hub model: give it with name", "name")
        if self.trust_remote_code and self.revision is None:
            raise wrong("trust_remote_code", "runs code from the hub: pin its revision", "revision")
        # A branch may move between a person's reading of the code and the next run.
        if self.trust_remote_code and not is_commit(self.revision or ""):
            raise wrong(
                "revision", "is a branch or tag, which may move: trust_remote_code needs a commit's 40 hex digits"
            )
        return self


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit's whole digest, which cannot be moved to other content."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
