"""How hard a chunk of pairs is for a model, and the order that follows (sDPO, section 3.2).

With M_0 as its own reference the DPO reward is 0 for every pair. So the paper's reward accuracy is read as the share of
pairs whose log-ratio γ = log π(w|x) − log π(l|x) is positive. Naming a base model gives the implicit reward β(log M_0 −
log base) instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ratchet.reference.share import error_of
from ratchet.reference.store import Floats, Logps


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Share of a chunk's pairs that a model orders rightly, with its standard error (`share.error_of`)."""

    chunk: str
    accuracy: float
    standard_error: float | None
    pairs: int


def log_ratio(logps: Logps, *, length_normalised: bool = False, base: Logps | None = None) -> Floats:
    """Return γ of each pair, shape (N,), in nats; by mean token log-probability, or against a base model."""
    chosen, rejected = logps.chosen, logps.rejected
    if base is not None:
        chosen, rejected = chosen - base.chosen, rejected - base.rejected
    if length_normalised:
        chosen, rejected = chosen / logps.chosen_tokens, rejected / logps.rejected_tokens
    return chosen - rejected


def difficulty(chunk: str, ratios: Floats) -> Difficulty:
    """Return the accuracy of `ratios` (N,): the share above 0, with its error."""
    share = float(np.mean(ratios > 0)) if len(ratios) else 0.0
    return Difficulty(chunk, share, error_of(share, len(ratios)), len(ratios))


def order_chunks(order: str, chunks: Sequence[str], accuracy: Mapping[str, float], seed: int) -> list[str]:
    """Return the chunks in the order to train them; ties keep the order of the plan."""
    if order == "random":
        return [chunks[i] for i in np.random.Generator(np.random.Philox(key=seed)).permutation(len(chunks))]
    if order == "easy_to_hard":
        return sorted(chunks, key=lambda chunk: -accuracy[chunk])
    if order == "hard_to_easy":
        return sorted(chunks, key=lambda chunk: accuracy[chunk])
    return list(chunks)


def split_rows(order: str, rows: int, count: int, ratios: Floats | None, seed: int) -> list[npt.NDArray[np.int64]]:
    """Cut one table's rows into `count` chunks of equal size (±1), in the order to train them.

    Sorted by γ for easy_to_hard and hard_to_easy, shuffled by `seed` for random, as they stand
    for listed. Each chunk's rows come back in rising order.
    """
    if order in {"easy_to_hard", "hard_to_easy"}:
        if ratios is None:
            raise ValueError("an order by difficulty needs the log-ratios")
        # Stable, so that pairs of one γ keep the order of the table, whichever way numpy sorts.
        ranked = np.argsort(-ratios if order == "easy_to_hard" else ratios, kind="stable")
    elif order == "random":
        ranked = np.random.Generator(np.random.Philox(key=seed)).permutation(rows)
    else:
        ranked = np.arange(rows)
    return [np.sort(part) for part in np.array_split(ranked, count)]
