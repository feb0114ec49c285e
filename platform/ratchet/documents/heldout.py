"""What held-out data say of models: `scores/<model>.json` of a run folder, and what report.json has of them.

Log-probabilities are in nats, accuracies from 0 to 1. `record` is the folder of the scores that a row is made of.
"""

from __future__ import annotations

import dataclasses
import typing

Split = typing.Literal["heldout", "train"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `count` items with its standard error (sample standard deviation / √count).

    The error is None where there is too little to tell one; 0 is the error of values that do not differ.
    """

    mean: float
    standard_error: float | None  # of one item there is none, and 0 would claim certainty
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutRow:
    """A model on a source's held-out pairs against the model named by `against`: see `evaluate.preference`."""

    source: str
    against: str
    record: str = ""
    against_record: str = ""
    accuracy: Estimate
    margin: Estimate
    chosen_delta: Estimate
    rejected_delta: Estimate
    chosen_per_token: Estimate | None = None
    """None in a document of a version that did not measure it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GammaRow:
    """Mean γ of a model on a split of a source; `seen` says that it has trained on just these pairs."""

    model: str
    source: str
    split: Split
    seen: bool
    record: str
    mean: float
    standard_error: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class ExactAnswer:
    """An answer of a model beside the one that the source has."""

    answer: str
    chosen: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactMatchRow:
    """The share of `count` held-out prompts of `source` that a model answered exactly, with a few of its answers."""

    suite: str
    task: str
    mean: float | None
    standard_error: float | None
    count: int
    source: str
    examples: tuple[ExactAnswer, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelScores:
    """All that held-out data say of one model. `weights` is a digest of them; `written` is UTC, ISO 8601."""

    model: str
    weights: str
    heldout: tuple[HeldOutRow, ...]
    gamma: tuple[GammaRow, ...]
    exact_match: tuple[ExactMatchRow, ...]
    written: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """A model on a source's held-out pairs, measured against the model named by `against`.

    `margin` is h_w − h_l; the deltas are h_w and h_l, the mean log-ratios to `against`, in nats.
    Each `…_error` is the standard error of the mean; `accuracy_low` and `accuracy_high` are the ends of the accuracy's
    exact 95 % interval, whose error is None where all pairs agree. `chosen_per_token` is the mean of h_w a token.
    """

    source: str
    against: str | None = None
    reward_accuracy: float | None
    standard_error: float | None
    margin: float | None = None
    margin_error: float | None = None
    chosen_delta: float | None = None
    chosen_delta_error: float | None = None
    rejected_delta: float | None = None
    rejected_delta_error: float | None = None
    chosen_per_token: float | None = None
    chosen_per_token_error: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    pairs: int
    record: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactMatchScore:
    """Share of `items` answered exactly as the chosen answer is, with the ends of its exact 95 % interval."""

    task: str
    score: float | None
    standard_error: float | None
    items: int
    score_low: float | None = None
    score_high: float | None = None
    examples: tuple[ExactAnswer, ...] = ()
    record: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelEvaluation:
    """Scores of one model: `base` or a step."""

    model: str
    record: str = ""
    heldout: tuple[HeldOutScores, ...] = ()
    exact_match: tuple[ExactMatchScore, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gamma:
    """Mean γ = logπ(w|x) − logπ(l|x) of a model over `pairs` pairs (sDPO, Eq. 1).

    `seen` marks memorisation: the model has trained on just these pairs.
    """

    model: str
    source: str
    split: Split = "heldout"
    seen: bool = False
    record: str = ""
    mean: float | None
    standard_error: float | None
    pairs: int


@dataclasses.dataclass(frozen=True)
class WrittenAnswer:
    """What a model wrote to a prompt: `tokens` of it; `ended` where the model ended it before the limit."""

    model: str
    text: str
    tokens: int
    ended: bool
    record: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledPrompt:
    """A prompt of a source with its chosen answer, and what models wrote to it, the earliest model first.

    `limit` is the most tokens that a model might write. The pair was held out, or (`train`) nothing was.
    """

    source: str
    split: Split
    chosen: str
    chosen_tokens: int
    limit: int
    prompt: str
    answers: tuple[WrittenAnswer, ...]
