"""The kinds of tasks that come with Ratchet: their settings, and a row for each. `TaskKind` says what columns mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Strict, local, wrong
from ratchet.plan.data import Source
from ratchet.plan.judge import Judge
from ratchet.plan.model import ModelSpec
from ratchet.plan.task_parts import Answering, Comparing, Files, Rows, TaskKind

_NOT_HERE = ("scratch", "system")


class ExactMatch(Answering):
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

    @model_validator(mode="after")
    def _one_group(self) -> ExactMatch:
        try:
            groups = re.compile(self.pattern).groups
        # Nested groups end the stack of `re`, and a huge repetition overflows: both are slips in the pattern.
        except (re.error, RecursionError, OverflowError) as error:
            raise wrong("pattern", f"is no regular expression: {error}") from None
        if groups != 1:
            raise wrong("pattern", f"must have one group, not {groups}: (?:…) groups without counting")
        return self


class Harness(Answering):
    """A task or group of lm-eval, by its own definition."""

    kind: Literal["harness"]
    """lm-eval scores it."""
    task: str
    """Name in lm-eval, such as `arc_challenge` or `mmlu`."""
    metric: str
    """The metric that stands for the task, such as `acc_norm`; all others are kept too."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; left out: what the task says."""
    profile: Literal["openllm-v1", "harness"] = "harness"
    """`openllm-v1`: prompts and settings of the 2023 leaderboard, exactly. `harness`: those of this lm-eval."""
    include: str | None = None
    """Folder of your own task definitions, in lm-eval's format."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Questions of each task, at most, from the first on: for a try. The score says so."""
    chat_template: bool = False
    """Ask through the model's chat template, examples as earlier turns. Not for `openllm-v1`."""

    @model_validator(mode="after")
    def _as_in_2023(self) -> Harness:
        local(self, "include")
        if self.profile == "openllm-v1" and self.chat_template:
            raise wrong("chat_template", "does not go with openllm-v1: the leaderboard used none", "profile")
        return self


class MtBench(Answering):
    """Two-turn conversations rated by a judge, in FastChat's format and by its protocol."""

    kind: Literal["mt_bench"]
    """A judge rates every turn from 1 to 10."""
    questions: Files
    """Folder with `question.jsonl`, `judge_prompts.jsonl` and `reference_answer/`."""
    references: str = "gpt-4"
    """Whose reference answers: a file of `reference_answer/`, without its ending."""
    judge: Judge | None = None
    """Who judges. A suite without one is given its judge by the plan or the command."""
    judge_retries: Annotated[int, Field(ge=0)] = 2
    """Times that a judgment without a rating, or with one that may be a quotation, is asked for again."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 1024
    """Longest answer, in tokens."""


class EqBench(Answering):
    """Emotional intelligence: how strongly a character feels four emotions, held against references."""

    kind: Literal["eq_bench"]
    """EQ-Bench's questions, parsing and formula."""
    questions: Files
    """A file of EQ-Bench's format."""
    version: Literal["v1", "v2"] = "v2"
    """Formula: of the first 60 questions, or of the 171 of version 2."""
    revision: bool = False
    """Ask the model to criticise and revise its answer, and take the better of the two passes."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """Times that a question is asked until its answer can be parsed; each a little warmer."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer, in tokens; left out: 60, and 1000 with revision."""


class TextOverlap(Comparing):
    """BLEU-4 and ROUGE-1, 2 and L of greedy answers against reference texts."""

    kind: Literal["text_overlap"]
    """sacrebleu and rouge-score compare the texts."""


class Chrf(Comparing):
    """chrF of greedy answers against reference texts: overlap of characters, for languages that words part badly."""

    kind: Literal["chrf"]
    """sacrebleu compares the texts."""


class Perplexity(Answering):
    """Perplexity of running text in sliding windows."""

    kind: Literal["perplexity"]
    """Every token is predicted once, from at least `window` − `stride` tokens before it."""
    rows: Rows
    """The text, whose rows are joined by blank lines."""
    column: str = "text"
    """Column of the text."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Longest window, in tokens; left out: all positions of the model, 4096 at most."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Tokens from one window to the next; left out: half a window."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows to read, at most, from the first on."""
    quantise: Literal["4bit", "8bit"] | None = None
    """Hold the weights in 4 or 8 bits (bitsandbytes; needs a GPU), to see what that costs."""

    @model_validator(mode="after")
    def _windows_overlap(self) -> Perplexity:
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            raise wrong("stride", f"must be below the window of {self.window}: a token needs some before it", "window")
        if self.quantise and self.engine != "trainer":
            raise wrong("quantise", "is not done by vLLM here: leave engine out", "engine")
        return self


class Preference(Strict):
    """Held-out preference pairs: reward accuracy and margin against a reference model, and γ."""

    kind: Literal["preference"]
    """Whether the model puts the chosen answer before the rejected one."""
    data: Source
    """Pairs; what `held_out` sets aside is scored, and all of them where it is 0."""
    reference: ModelSpec | None = None
    """The model that rewards are measured against; left out: γ alone."""
    max_length: Annotated[int, Field(ge=2)] = 1024
    """Longest pair, in tokens; longer ones are skipped and counted."""
    max_pairs: Annotated[int, Field(ge=1)] = 2000
    """Pairs to score, at most."""

    @model_validator(mode="after")
    def _no_scratch(self) -> Preference:
        for key in _NOT_HERE:
            if self.reference is not None and getattr(self.reference, key) is not None:
                raise wrong(f"reference.{key}", "has no effect here: leave it out", "reference")
        return self


BUILT_IN: Mapping[str, TaskKind] = {
    "exact_match": TaskKind(
        settings=ExactMatch,
        run="ratchet.evaluate.exact_match:TASK",
        by_content=("source",),
        paths={},
        libraries=(),
        needs_chat_template=False,
        units=("share",),
        averages=True,
    ),
    "harness": TaskKind(
        settings=Harness,
        run="ratchet.evaluate.harness.run:TASK",
        by_content=("include",),
        paths={"include": "folder"},
        libraries=("lm_eval",),
        needs_chat_template=False,
        units=("share", "perplexity", "bits", "points"),
        averages=True,
    ),
    "mt_bench": TaskKind(
        settings=MtBench,
        run="ratchet.evaluate.mt_bench.run:TASK",
        by_content=("questions", "judge"),
        paths={},
        libraries=(),
        needs_chat_template=True,
        units=("points",),
        averages=False,
    ),
    "eq_bench": TaskKind(
        settings=EqBench,
        run="ratchet.evaluate.eq_bench.run:TASK",
        by_content=("questions",),
        paths={},
        libraries=(),
        needs_chat_template=True,
        units=("points",),
        averages=False,
    ),
    "text_overlap": TaskKind(
        settings=TextOverlap,
        run="ratchet.evaluate.text_overlap:TASK",
        by_content=("rows",),
        paths={},
        libraries=("sacrebleu", "rouge_score"),
        needs_chat_template=True,
        units=("percent",),
        averages=False,
    ),
    "chrf": TaskKind(
        settings=Chrf,
        run="ratchet.evaluate.text_overlap:CHRF",
        by_content=("rows",),
        paths={},
        libraries=("sacrebleu",),
        needs_chat_template=True,
        units=("percent",),
        averages=False,
    ),
    "perplexity": TaskKind(
        settings=Perplexity,
        run="ratchet.evaluate.perplexity:TASK",
        by_content=("rows",),
        paths={},
        libraries=(),
        needs_chat_template=False,
        units=("perplexity",),
        averages=False,
    ),
    "preference": TaskKind(
        settings=Preference,
        run="ratchet.evaluate.preference:TASK",
        by_content=("data", "reference"),
        paths={},
        libraries=(),
        needs_chat_template=True,
        units=("share", "nats"),
        averages=False,
    ),
}
"""The rows by kind."""
