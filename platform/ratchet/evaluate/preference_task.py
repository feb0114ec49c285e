"""A task of held-out preference pairs: from log-probabilities to scores and items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.errors import DataError
from ratchet.evaluate.notes import joined, unanimous, without_error
from ratchet.evaluate.ratio import ratio
from ratchet.evaluate.results import Item, Score, TaskResult
from ratchet.pairs.pair import PreferencePair
from ratchet.plan.suite import Preference
from ratchet.reference.store import Floats, Logps

UNITS = {
    "reward_accuracy": "share",
    "margin": "nats",
    "chosen_delta": "nats",
    "rejected_delta": "nats",
    "gamma": "nats",
}
"""The metrics and what they count; without a reference there is γ alone."""


def result(
    name: str,
    task: Preference,
    policy: Logps,
    reference: Logps | None,
    pairs: Sequence[PreferencePair],
    settings: Mapping[str, Any],
) -> TaskResult:
    """Return what the scores of N pairs, in one order, say of a model's preferences.

    Pairs that share a prompt are one cluster, and the errors take prompts as independent, not pairs. `settings` is
    what else decides the numbers: fingerprints of tokens, and of the reference. An item's answer is the side that
    the model puts first: by reward, or by likelihood where there is no reference.

    Raises DataError where there is no pair, or one has no rejected answer.
    """
    if not pairs:
        raise DataError("no pair is left to score", where=f"tasks.{name}", fix="look at its data and max_length")
    values = metrics(policy, reference)
    rejected = [_rejected(pair, name) for pair in pairs]
    first = values["margin" if reference is not None else "gamma"] > 0
    items = tuple(
        Item(
            item=pair.pair_id,
            cluster=pair.prompt_id,
            values={key: float(value[at]) for key, value in values.items()},
            question=_question(pair),
            answer=pair.chosen if first[at] else rejected[at],
            reference=pair.chosen,
        )
        for at, pair in enumerate(pairs)
    )
    prompts = [pair.prompt_id for pair in pairs]
    ids = "\n".join(pair.pair_id for pair in pairs)
    return TaskResult(
        task=name,
        kind=task.kind,
        scores=tuple(_score(key, value, prompts) for key, value in values.items()),
        items=items,
        settings={
            "pairs": hashlib.sha256(ids.encode()).hexdigest()[:20],
            "count": len(pairs),
            "prompts": len(set(prompts)),
            "max_length": task.max_length,
            "max_pairs": task.max_pairs,
            **settings,
        },
    )


def metrics(policy: Logps, reference: Logps | None) -> dict[str, Floats]:
    """Return each metric of N pairs, (N,), the one that stands for the task first.

    With log-ratios h = log π(y|x) − log π_ref(y|x) of the chosen and the rejected answer, the margin is h_w − h_l,
    without β, and the reward is right where that is above 0 (Rafailov et al. 2023); γ = log π(w|x) − log π(l|x)
    (sDPO, Eq. 1). As in `preference.reward_scores`, pair by pair.
    """
    gamma = policy.chosen - policy.rejected
    if reference is None:
        return {"gamma": gamma}
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    margin = chosen - rejected
    right = (margin > 0).astype(np.float64)
    return dict(zip(UNITS, (right, margin, chosen, rejected, gamma), strict=True))


def _score(metric: str, values: Floats, prompts: Sequence[str]) -> Score:
    cluster = np.unique(prompts, return_inverse=True)[1]
    found = ratio(np.bincount(cluster, values).astype(np.float64), np.bincount(cluster).astype(np.float64))
    # Pairs of one prompt are not independent, and the bound is of items that are.
    open_left = unanimous(values) if UNITS[metric] == "share" and found.count == len(values) else ""
    return Score(
        name="γ" if metric == "gamma" else metric.replace("_", " "),
        metric=metric,
        value=found.mean,
        standard_error=found.standard_error,
        count=len(values),
        unit=UNITS[metric],
        note=joined(open_left, without_error(found.standard_error, "prompt")),
    )


def _rejected(pair: PreferencePair, name: str) -> str:
    if pair.rejected is None:
        raise DataError(
            f"the pair of {pair.file}:{pair.row} has no rejected answer",
            where=f"tasks.{name}.data",
            fix="give preference pairs, not demonstrations",
        )
    return pair.rejected


def _question(pair: PreferencePair) -> str:
    if len(pair.prompt) == 1:
        return pair.prompt[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in pair.prompt)
