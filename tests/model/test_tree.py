"""The token tree: what is laid out, who sees whom, and what is scored, against definitions."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.model.batch import PADDED, Packing, collate, computed_tokens
from ratchet.model.divide import Unit, divide_units, units
from ratchet.model.tree import Branch, Forest, Sharing, cut_passes, divide_groups, lay_out, rows_laid_out
from ratchet.model.tree_plan import TreePlan
from ratchet.pairs.pair import TokenisedPair

# Two token values and short sequences: prefixes, equal sequences and forks everywhere.
branches = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=7).flatmap(
        lambda ids: st.integers(1, len(ids)).map(lambda start: Branch(np.array(ids, np.int32), start))
    ),
    min_size=1,
    max_size=9,
)
sharings = st.sampled_from(["auto", "prompt", "none"])


def sees(forest: Forest) -> np.ndarray:
    row = np.arange(len(forest.ids_T))
    return (row[None] <= row[:, None]) & (row[:, None] < forest.end_T[None])


def paths(forest: Forest, sequence: int) -> list[tuple[list[int], int]]:
    """For each scored token of a sequence: the tokens that its prediction sees, and the token."""
    entries = forest.entry_C[forest.sequence_C == sequence]
    mask = sees(forest)
    return [(forest.ids_T[mask[forest.rows_E[e]]].tolist(), int(forest.targets_E[e])) for e in entries]


@given(branches, sharings, st.integers(1, 4))
def test_each_answer_token_is_predicted_from_its_own_past(some: list[Branch], sharing: Sharing, least: int) -> None:
    forest = lay_out(some, sharing, least)
    for s, branch in enumerate(some):
        ids = branch.ids.tolist()
        assert paths(forest, s) == [(ids[:t], ids[t]) for t in range(branch.start, len(ids))]


@given(branches, sharings, st.integers(1, 4))
def test_depth_is_the_number_of_tokens_seen_before(some: list[Branch], sharing: Sharing, least: int) -> None:
    forest = lay_out(some, sharing, least)
    assert (sees(forest).sum(1) - 1 == forest.depth_T).all()
    assert len(forest.ids_T) == rows_laid_out(some, sharing, least)


@given(branches, sharings, st.integers(1, 4))
def test_chains_and_subtree_ends_say_the_same(some: list[Branch], sharing: Sharing, least: int) -> None:
    forest = lay_out(some, sharing, least)
    by_chain = np.zeros((len(forest.ids_T),) * 2, bool)
    for chain in forest.chains:
        for row in range(chain.start, chain.stop):
            by_chain[row, chain.start : row + 1] = True
            for first, stop in chain.ancestors:
                by_chain[row, first:stop] = True
    assert (by_chain == sees(forest)).all()
    assert (TreePlan(forest.chains, torch.from_numpy(forest.end_T)).dense.numpy() == by_chain).all()


@given(branches, st.integers(1, 4), st.integers(1, 9))
def test_what_a_pass_sees_is_its_own_rows_and_those_that_are_kept(some: list[Branch], least: int, budget: int) -> None:
    forest = lay_out(some, "auto", least)
    wanted, computed = sees(forest), []
    for one in cut_passes(forest, budget):
        rows = np.concatenate([one.kept_K, np.arange(one.start, one.stop)])
        computed += range(one.start, one.stop)
        kept = len(one.kept_K)
        assert one.stop - one.start <= budget and (forest.depth_T[one.kept_K] == np.arange(kept)).all()
        assert not wanted[one.start : one.stop, [row for row in range(one.start) if row not in one.kept_K]].any()
        found = np.zeros((len(rows) - kept, len(rows)), bool)
        for chain in one.chains:
            for row in range(chain.start, chain.stop):
                found[row - kept, chain.start : row + 1] = True
                for first, stop in chain.ancestors:
                    found[row - kept, first:stop] = True
        assert (found == wanted[one.start : one.stop, rows]).all()
        assert (TreePlan(one.chains, torch.from_numpy(one.end_KT), kept=kept).dense.numpy() == found).all()
    assert computed == list(range(len(forest.ids_T)))


@settings(max_examples=examples(8))
@given(st.lists(branches, min_size=1, max_size=5), st.integers(1, 40))
def test_groups_stay_together_while_their_rows_fit(some: list[list[Branch]], budget: int) -> None:
    groups = [[branch.ids for branch in group] for group in some]
    divided = divide_groups(groups, budget, 1)
    assert sorted(place for places in divided for place in places) == list(range(len(groups)))
    for places in divided:
        prefixes = {tuple(ids[:end]) for place in places for ids in groups[place] for end in range(1, len(ids) + 1)}
        assert len(places) == 1 or len(prefixes) <= budget


@given(branches)
def test_auto_computes_each_distinct_prefix_once(some: list[Branch]) -> None:
    prefixes = {tuple(branch.ids[:t]) for branch in some for t in range(1, len(branch.ids) + 1)}
    assert rows_laid_out(some, "auto", 1) == len(prefixes)
    assert rows_laid_out(some, "none") == sum(len(branch.ids) for branch in some)
    distinct_prompts = {tuple(branch.ids[: branch.start]) for branch in some}
    answers = sum(len(branch.ids) - branch.start for branch in some)
    assert rows_laid_out(some, "prompt", 1) == sum(map(len, distinct_prompts)) + answers


@given(branches, st.integers(1, 8))
def test_short_prefixes_are_not_worth_a_fork(some: list[Branch], least: int) -> None:
    forest = lay_out(some, "auto", least)
    assert all(
        sum(stop - first for first, stop in chain.ancestors) >= least for chain in forest.chains if chain.ancestors
    )


def test_the_shapes_of_preference_data() -> None:
    prompt, chosen = np.arange(100, dtype=np.int32), np.arange(200, 240, dtype=np.int32)
    twin = chosen.copy()
    twin[25] = 7
    wrong = [np.arange(300 + 10 * k, 310 + 10 * k, dtype=np.int32) for k in range(3)]
    pair = lambda rejected: TokenisedPair("x", prompt, chosen, rejected)  # noqa: E731
    tokens = lambda pairs, sharing="auto": computed_tokens(pairs, Packing(sharing))  # noqa: E731
    assert tokens([pair(twin)]) == 100 + 40 + 15
    assert tokens([pair(twin)], "prompt") == 100 + 80
    assert tokens([pair(twin)], "none") == 280
    assert tokens([pair(side) for side in wrong]) == 100 + 40 + 30
    assert computed_tokens([pair(side) for side in wrong], PADDED) == 6 * 140
    assert tokens([TokenisedPair("x", prompt, chosen, chosen[:10])]) == 140  # one side a prefix of the other
    assert tokens([TokenisedPair("x", prompt, chosen, chosen)]) == 140


def test_a_batch_longer_than_the_window_is_padded() -> None:
    pair = TokenisedPair("x", *(np.full(n, 5, np.int32) for n in (10, 3, 4)))
    assert collate([pair], Packing(longest=14)).plan is not None
    assert collate([pair], Packing(longest=13)).input_ids_RT.shape == (2, 14)


# --- batches by tokens


def table(seed: int, count: int) -> list[TokenisedPair]:
    draw = np.random.default_rng(seed)
    prompts = [draw.integers(3, 60, draw.integers(8, 20)).astype(np.int32) for _ in range(max(1, count // 2))]
    answer = lambda: draw.integers(3, 60, draw.integers(1, 12)).astype(np.int32)  # noqa: E731
    return [TokenisedPair(str(i), prompts[draw.integers(len(prompts))], answer(), answer()) for i in range(count)]


packings = st.sampled_from([Packing(), PADDED, Packing(longest=20)])  # with the last, some are padded and some not


@given(st.integers(0, 50), st.integers(1, 24), st.integers(1, 6), st.integers(1, 200), packings)
def test_every_pair_stands_once_and_workers_keep_step(
    seed: int, count: int, world: int, budget: int, packing: Packing
) -> None:
    pairs = table(seed, count)
    rows = np.random.default_rng(seed).permutation(count).astype(np.int64)
    parts = units(pairs.__getitem__, rows, packing, budget)
    assert sorted(row for part in parts for row in part.rows) == list(range(count))
    assert all(part.cost <= budget or len(part.rows) == 1 for part in parts)
    assert all(part.cost == computed_tokens([pairs[row] for row in part.rows], packing) for part in parts)
    workers = divide_units(parts, world, budget)
    assert len({len(passes) for passes in workers}) == 1
    held = [micro for passes in workers for micro in passes]
    assert sorted(int(row) for micro in held if micro.weight == 1.0 for row in micro.rows) == list(range(count))
    assert all(micro.weight in (0.0, 1.0) and len(micro.rows) for micro in held)
    for micro in held:
        assert len(micro.rows) == 1 or computed_tokens([pairs[int(r)] for r in micro.rows], packing) <= budget


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 300))
def test_passes_are_balanced(costs: list[int], world: int, budget: int) -> None:
    """No pass is longer than an equal share and one unit more (Graham 1969), and only a lone unit is over budget."""
    workers = divide_units([Unit((k,), cost) for k, cost in enumerate(costs)], world, budget)
    held = [[costs[int(row)] for row in micro.rows] for passes in workers for micro in passes if micro.weight]
    count = world * len(workers[0])
    assert max(map(sum, held)) <= sum(costs) / count + max(costs)
    assert all(sum(some) <= budget or len(some) == 1 for some in held)


padded_units = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=14)


@given(padded_units, st.integers(1, 4), st.integers(1, 300))
def test_padded_passes_are_divided_among_workers(shapes: list[tuple[int, int]], world: int, budget: int) -> None:
    """No cut of the rows by width, into as many passes, has a cheaper dearest one (tried by dynamic programming)."""
    workers = divide_units([Unit((k,), n * width, width) for k, (n, width) in enumerate(shapes)], world, budget)
    assert len({len(passes) for passes in workers}) == 1
    held = [[int(row) for row in micro.rows] for passes in workers for micro in passes if micro.weight]
    assert sorted(row for some in held for row in some) == list(range(len(shapes)))
    assert len(held) == min(len(shapes), world * len(workers[0]))  # no stand-in while there are pairs to divide

    def cost(rows: list[int]) -> float:
        computed = sum(shapes[row][0] for row in rows) * max(shapes[row][1] for row in rows)
        return computed if computed <= budget or len(rows) == 1 else math.inf

    order = sorted(range(len(shapes)), key=lambda row: (-shapes[row][1], row))
    best = [0.0] + [math.inf] * len(order)  # of the first rows, with the passes so far
    for _ in held:
        best = [0.0] + [
            min(max(best[start], cost(order[start:stop])) for start in range(stop)) for stop in range(1, len(best))
        ]
    assert max(map(cost, held)) == best[-1]


def test_a_pair_beyond_the_window_does_not_send_others_of_its_prompt_the_padded_way() -> None:
    prompt = np.full(30, 5, np.int32)
    pairs = [TokenisedPair(str(k), prompt, *(np.full(n, 7 + k, np.int32) for n in (k, 4))) for k in (3, 5, 90)]
    parts = units(pairs.__getitem__, np.arange(3), Packing(longest=60), 4096)
    assert sorted((part.rows, part.width) for part in parts) == [((0, 1), 0), ((2,), 120)]


def test_long_sequences_do_not_send_short_ones_the_padded_way() -> None:
    pair = lambda n: TokenisedPair(str(n), *(np.full(k, n, np.int32) for k in (n, 50, 40)))  # noqa: E731
    pairs = [pair(2000), *(pair(20 + k) for k in range(20))]
    packing = Packing(longest=500)
    parts = units(pairs.__getitem__, np.arange(21), packing, 4096)
    assert [part.width for part in parts] == [2050] + [0] * 20
    passes = divide_units(parts, 1, 4096)[0]
    assert [0] in [micro.rows.tolist() for micro in passes]
    assert all(computed_tokens([pairs[int(r)] for r in micro.rows], packing) <= 4100 for micro in passes)


def test_the_division_is_fixed() -> None:
    """Written down once: a change here would change what a resumed run computes together."""
    parts = [Unit((k,), cost) for k, cost in enumerate([50, 30, 20, 20, 10, 5])]
    found = [[micro.rows.tolist() for micro in passes] for passes in divide_units(parts, 2, 60)]
    assert found == [[[0], [3, 5]], [[1], [2, 4]]]
    alone = divide_units(parts[:1], 3, 60)
    assert [[(micro.rows.tolist(), micro.weight) for micro in passes] for passes in alone] == [
        [([0], 1.0)],
        [([0], 0.0)],
        [([0], 0.0)],
    ]
