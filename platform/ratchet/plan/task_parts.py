"""What task kinds share: the columns of a kind's row, and parts of their settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Strict, hub_name, local, one_of, wrong
from ratchet.plan.data import Hub
from ratchet.plan.judge import Engine

PathKind = Literal["file", "folder", "file or folder"]


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """All that is known of a kind of task before it is asked. No column has a default.

    settings             its keys in a suite; `kind` is a Literal with the kind's name
    run                  `module:name` of the TaskRun that reads and asks it, loaded when a model is evaluated
    by_content           keys that say where things are: identities hold what `reads` finds there in their place
    paths                keys that name a file or folder, and which; those inside Files, Rows, a source or a model are
                         known already. What is named here is looked for, and goes along with `submit` and `k8s`
    libraries            distributions whose versions decide its numbers
    needs_chat_template  whether it asks through one
    units                what its headline may count, as a Score says it
    averages             whether its headline is a share, which averages may be made of
    """

    settings: type[Strict]
    run: str
    by_content: tuple[str, ...]
    paths: Mapping[str, PathKind]
    libraries: tuple[str, ...]
    needs_chat_template: bool
    units: tuple[str, ...]
    averages: bool

    @property
    def needs_plan(self) -> bool:
        """Whether it asks for the prompts that a plan's `source` holds out."""
        return "source" in self.settings.model_fields

    @property
    def judged(self) -> bool:
        """Whether its key `judge` names who rates the answers."""
        return "judge" in self.settings.model_fields

    @property
    def quantises(self) -> bool:
        """Whether its key `quantise` says in how many bits weights are held."""
        return "quantise" in self.settings.model_fields


class Files(Strict):
    """Exactly one of `path` and `hub`: files that a task reads."""

    path: str | None = None
    """File or folder."""
    hub: str | None = None
    """Repository on the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch of the repository. Pin a commit: names move."""
    repository: Literal["dataset", "space"] = "dataset"
    """What kind of repository it is."""

    @model_validator(mode="after")
    def _one_origin(self) -> Files:
        one_of(self, "path", "hub")
        hub_name(self, "hub", "give it as `path:`")
        local(self, "path")
        if self.hub is None and self.revision is not None:
            raise wrong("revision", "belongs to a hub repository: give it with hub", "hub")
        return self


class Rows(Strict):
    """Exactly one of `path` and `hub`: rows of texts."""

    path: str | None = None
    """File of a form that sources have (JSON, JSON lines, CSV, TSV, Parquet, Arrow), or .txt, which is one row."""
    hub: Hub | None = None
    """A data set on the Hugging Face hub."""

    @model_validator(mode="after")
    def _one_origin(self) -> Rows:
        one_of(self, "path", "hub")
        local(self, "path")
        return self


class Answering(Strict):
    """A task that asks a model for text, or for the likelihood of text."""

    engine: Engine = "trainer"
    """Who runs the model: transformers, as the trainer loads it, or vLLM."""
    # What else is computed with it changes the order in which a matrix product adds up, and so a score's last bits.
    batch_tokens: Annotated[int, Field(ge=1)] = 16_384
    """Tokens of one batch: of texts padding and new ones included, of choices those that differ, each once.
    Part of the result: batches decide the last bits."""


class Comparing(Answering):
    """A task that holds greedy answers to questions against reference texts."""

    rows: Rows
    """Questions and reference answers."""
    question: str = "question"
    """Column of the questions."""
    answer: str = "answer"
    """Column of the reference answers."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows to answer, at most, from the first on."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer, in tokens."""
