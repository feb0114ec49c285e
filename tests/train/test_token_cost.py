"""What tokens come to in each order: against counts of distinct beginnings, and training's own passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from benchmarks.shapes import SHAPES, one_right_three_wrong
from ratchet.model.batch import PADDED, Packing, computed_tokens
from ratchet.model.divide import divide_units, units
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.batches import Course, global_batches
from ratchet.train.token_cost import BatchRoom, CostedRows, Shuffle, token_cost

ORDERS: tuple[Shuffle, ...] = ("pairs", "prompts")


def costed(pairs: Sequence[TokenisedPair], *, sampled: bool = False) -> CostedRows:
    _, numbers = np.unique([pair.prompt.tobytes() for pair in pairs], return_inverse=True)
    return CostedRows(pairs.__getitem__, numbers.astype(np.int64), sampled)


def batches(rows: CostedRows, batch: int, order: str) -> Iterator[list[int]]:
    together = rows.prompt_of_N if order == "prompts" else None
    for one in global_batches(Course(len(rows.prompt_of_N), batch, 1, 5), 0, together):
        yield one.rows.tolist()


def beginnings(pairs: Sequence[TokenisedPair], *, chosen_only: bool) -> int:
    """Distinct beginnings of the sequences: each is one node of a tree of tokens."""
    found = set()
    for pair in pairs:
        for answer in [pair.chosen] if chosen_only else [pair.chosen, pair.rejected]:
            ids = (*pair.prompt.tolist(), *answer.tolist())
            found |= {ids[:end] for end in range(1, len(ids) + 1)}
    return len(found)


@pytest.mark.parametrize("chosen_only", [False, True])
def test_shared_tokens_are_the_distinct_beginnings_of_each_batch(chosen_only: bool) -> None:
    pairs = one_right_three_wrong(24, 300, 3)
    rows = costed(pairs)
    cost = token_cost(rows, BatchRoom(7), 5, chosen_only=chosen_only, least=1)
    sides = [len(pair.prompt) + len(one) for pair in pairs for one in (pair.chosen, pair.rejected)[: 2 - chosen_only]]
    assert cost.packed == pytest.approx(sum(sides) / 24, rel=1e-12)
    for order in ORDERS:
        batch_of = [[pairs[row] for row in one] for one in batches(rows, 7, order)]
        found = sum(beginnings(one, chosen_only=chosen_only) for one in batch_of)
        assert cost.shared[order] == pytest.approx(found / 24, rel=1e-12)
        if order == "pairs":
            widest = [
                max(len(p.prompt) + max(len(p.chosen), 0 if chosen_only else len(p.rejected)) for p in one)
                for one in batch_of
            ]
            padded = sum(width * len(one) * (2 - chosen_only) for width, one in zip(widest, batch_of, strict=True))
            assert cost.padded == pytest.approx(padded / 24, rel=1e-12)
    assert (cost.pairs, cost.several) == (24, 1.0)
    assert cost.shared["prompts"] < 0.6 * cost.shared["pairs"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("budget", "workers", "off"), [(None, 1, 0), (4096, 1, 0.02), (1500, 2, 0.04)])
def test_it_is_what_training_computes(shape: str, budget: int | None, workers: int, off: float) -> None:
    """The stand-in pass that keeps workers in step does not count as tokens of a pair."""
    pairs = SHAPES[shape](36, 300, 1)
    rows, packing, most = costed(pairs), Packing(), budget or 1 << 30
    cost = token_cost(rows, BatchRoom(12, budget, workers), 5)
    for order in ORDERS:
        computed = sum(
            computed_tokens([pairs[int(row)] for row in micro.rows], packing)
            for batch in batches(rows, 12, order)
            for worker in divide_units(units(pairs.__getitem__, np.array(batch), packing, most), workers, most)
            for micro in worker
            if micro.weight
        )
        assert cost.shared[order] == pytest.approx(computed / 36, rel=max(off, 1e-12))
    padded = sum(computed_tokens([pairs[row] for row in one], PADDED) for one in batches(rows, 12, "pairs"))
    assert cost.padded == pytest.approx(padded / 36, rel=1e-12)


def test_one_pair_a_prompt_leaves_nothing_to_the_order() -> None:
    cost = token_cost(costed(SHAPES["near twins"](20, 300, 1)), BatchRoom(8), 5)
    assert cost.several == 0 and cost.shared["pairs"] == cost.shared["prompts"] < cost.packed < cost.padded


def test_a_sample_stands_for_more_so_no_two_pairs_of_a_prompt_meet_by_chance() -> None:
    """Of 60 pairs a batch of 10 would often hold two of a prompt; of a million it would not."""
    pairs = one_right_three_wrong(60, 300, 3)
    alone = sum(beginnings([pair], chosen_only=False) for pair in pairs) / 60
    sampled, whole = (token_cost(costed(pairs, sampled=one), BatchRoom(10), 5, least=1) for one in (True, False))
    # Prompts themselves may begin alike by chance.
    assert sampled.shared["pairs"] == pytest.approx(alone, rel=0.005) and whole.shared["pairs"] < 0.95 * alone
    assert sampled.shared["prompts"] == whole.shared["prompts"]
