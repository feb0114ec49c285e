"""A model's held-out figures over all sources together."""

from __future__ import annotations

import dataclasses
from collections import Counter

from ratchet.documents.heldout import HeldOutScores
from ratchet.documents.report import Report

Mean = tuple[float | None, float | None]
"""A mean and its standard error, each None where there is none."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """A model on the held-out pairs of all sources together, weighted by pairs; log-ratios in nats."""

    against: str
    pairs: int
    accuracy: Mean
    margin: Mean
    chosen: Mean
    rejected: Mean
    chosen_per_token: Mean
    records: tuple[str, ...]


def pooled(report: Report, model: str) -> Pooled | None:
    """Pool a model's held-out rows against the model that most models are held against."""
    rows = [(one, found) for one in report.evaluation if one.model == model for found in one.heldout]
    votes = Counter(found.against for one in report.evaluation for found in one.heldout)
    if not rows:
        return None
    against = max((found.against for _, found in rows), key=lambda name: votes[name])
    held = [found for _, found in rows if found.against == against]
    return Pooled(
        against=against or "its reference",
        pairs=sum(found.pairs for found in held),
        accuracy=_pool(held, "reward_accuracy", "standard_error"),
        margin=_pool(held, "margin", "margin_error"),
        chosen=_pool(held, "chosen_delta", "chosen_delta_error"),
        rejected=_pool(held, "rejected_delta", "rejected_delta_error"),
        chosen_per_token=_pool(held, "chosen_per_token", "chosen_per_token_error"),
        records=tuple(found.record or one.record for one, found in rows if found.against == against),
    )


def _pool(rows: list[HeldOutScores], key: str, error: str) -> Mean:
    known = [one for one in rows if getattr(one, key) is not None and one.pairs]
    if not known:
        return None, None
    total = sum(one.pairs for one in known)
    mean = sum(getattr(one, key) * one.pairs for one in known) / total
    errors = [getattr(one, error) for one in known]
    if any(value is None for value in errors):
        return mean, None
    return mean, sum((value * one.pairs) ** 2 for value, one in zip(errors, known, strict=True)) ** 0.5 / total
