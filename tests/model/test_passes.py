"""A prompt that stays across passes: the passes themselves, and that scores and gradients are those of one pass."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nightly import nightly
from raised import raises
from ratchet.model.batch import PADDED, Packing, collate
from ratchet.model.divide import Micro, divide_units, units
from ratchet.model.forward import PairScorer, by_side, score
from ratchet.model.passes import batches, divide_passes
from ratchet.model.tree import Branch, lay_out, stretch, without_trunk
from ratchet.model.trunk import Trunk
from ratchet.pairs.pair import TokenisedPair
from tiny_models import CONFIGS, OFTEN_A_PASS, tiny


def answers(count: int, prompt: int, most: int = 6, seed: int = 0, start: int = 0) -> list[TokenisedPair]:
    """Pairs of one prompt."""
    draw = np.random.default_rng(seed)
    one = draw.integers(3, 60, prompt).astype(np.int32)
    answer = lambda: draw.integers(3, 60, draw.integers(1, most + 1)).astype(np.int32)  # noqa: E731
    return [TokenisedPair(str(start + k), one, answer(), answer()) for k in range(count)]


def kinds(workers: list[list[Micro]]) -> list[list[bool]]:
    """Of each worker's passes, whether they have a graph."""
    return [[micro.role != "keep" for micro in passes] for passes in workers]


def test_a_long_prompt_stays_where_its_answers_need_several_passes() -> None:
    prompt, full = np.arange(1500, dtype=np.int32), lambda token: np.full(40, token, np.int32)
    pairs = [TokenisedPair(str(k), prompt, full(k), full(k + 50)) for k in range(50)]
    rows, packing = np.arange(50), Packing()
    for budget, kept in ((5500, 0), (2048, 1), (550, 3)):
        (passes,) = divide_passes(pairs.__getitem__, rows, packing, budget, 1)
        roles = [micro.role for micro in passes]
        assert roles.count("keep") == roles.count("return") == kept
        if not kept:
            assert len(passes) == 1
            continue
        assert roles == ["keep"] * kept + ["score"] * (len(roles) - 2 * kept) + ["return"] * kept
        assert all(micro.cost <= budget for micro in passes)
        # The prompt twice, and each answer once with the prompt's last token once a pass.
        answers_once = sum(micro.cost for micro in passes if micro.role == "score")
        assert answers_once == 50 * 80 + roles.count("score")
        assert sum(micro.cost for micro in passes) == 2 * 1499 + answers_once
        again = divide_units(units(pairs.__getitem__, rows, packing, budget), 1, budget)[0]
        assert len(again) * 1500 + 50 * 80 == sum(micro.cost for micro in again)


def test_a_short_prompt_is_computed_again() -> None:
    """A few tokens do not pay for two passes more."""
    pairs = answers(40, 12, most=30)
    (passes,) = divide_passes(pairs.__getitem__, np.arange(40), Packing(), 300, 1)
    assert {micro.role for micro in passes} == {"score"}
    for packing in (Packing("none"), PADDED):
        (passes,) = divide_passes(answers(20, 50).__getitem__, np.arange(20), packing, 100, 1)
        assert {micro.role for micro in passes} == {"score"}


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(8, 60)), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(10, 120),
    st.booleans(),
    st.integers(0, 20),
)
def test_workers_make_passes_of_one_kind_together_and_score_each_pair_once(
    prompts: list[tuple[int, int]], world: int, budget: int, backward: bool, seed: int
) -> None:
    pairs = [pair for k, (n, long) in enumerate(prompts) for pair in answers(n, long, seed=seed + 97 * k)]
    workers = divide_passes(pairs.__getitem__, np.arange(len(pairs)), Packing(), budget, world, backward=backward)
    assert len({tuple(worker) for worker in kinds(workers)}) == 1
    assert kinds(workers)[0][-1]
    scored = [micro for worker in workers for micro in worker if micro.role == "score"]
    assert sorted(int(row) for micro in scored if micro.weight for row in micro.rows) == list(range(len(pairs)))
    for worker in workers:
        assert next(micro.role for micro in worker if micro.role != "keep") == "score"
        tokens: dict[int | None, int] = {}
        given_back: dict[int | None, int] = {}
        for micro, batch in batches(worker, pairs.__getitem__, Packing()):
            assert batch.computed == micro.cost
            assert micro.cost <= budget or len(micro.rows) == 1
            if micro.role == "keep" and micro.trunk != -1:  # -1 is a stand-in's
                assert micro.before == tokens.get(micro.trunk, 0)
                tokens[micro.trunk] = micro.stop
            if micro.role == "score" and micro.trunk is not None:
                assert tokens[micro.trunk] == micro.before == len(pairs[int(micro.rows[0])].prompt) - 1
                assert micro.trunk not in given_back
            if micro.role == "return" and micro.trunk != -1:
                assert micro.stop == given_back.get(micro.trunk, tokens[micro.trunk])
                given_back[micro.trunk] = micro.before
        assert not backward or all(given_back[trunk] == 0 for trunk in tokens)


def test_the_rest_of_a_forest_and_a_prompts_rows_are_the_forests() -> None:
    """Who sees whom, tokens and depths, against the whole forest."""
    pairs = answers(3, 20)
    whole = collate(pairs, Packing())
    branches = [Branch(np.concatenate([pair.prompt, pair.chosen]), 20) for pair in pairs]
    forest = lay_out(branches)
    rest = without_trunk(forest, 19)
    assert (rest.ids_T == forest.ids_T[19:]).all() and (rest.depth_T == forest.depth_T[19:]).all()
    assert rest.rows_E.min() == 0 and (forest.ids_T[rest.rows_E + 19] == rest.ids_T[rest.rows_E]).all()
    assert rest.chains[0].start == 19 and rest.chains[0].ancestors == ((0, 19),) and without_trunk(forest, 0) is forest
    part = stretch(pairs[0].prompt, 7, 19)
    assert (part.ids_T == forest.ids_T[7:19]).all() and (part.depth_T == np.arange(7, 19)).all()
    assert part.targets_E == pairs[0].prompt[19] and part.rows_E == 11 and whole.plan is not None


def test_gradients_of_kept_rows_add_up_in_float32() -> None:
    """256 and a thousand times a half: in bfloat16 each half would be rounded away."""
    trunk, layer = Trunk(), torch.nn.Identity()
    rows = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16)
    trunk.put(layer, 0, rows, rows)
    for value in (256.0, *[0.5] * 1000):
        trunk.add(layer, value * rows[:, :, :2], value * rows[:, :, :2])
    found = trunk.gradient(layer, 0, 3)
    assert found is not None and found[0].dtype == torch.float32
    assert (found[0][:, :, :2] == 756.0).all() and (found[1][:, :, 2:] == 0.0).all()


def test_a_module_that_runs_twice_in_a_pass_keeps_nothing() -> None:
    trunk, layer = Trunk(), torch.nn.Identity()
    rows = torch.ones(1, 2, 3, 4)
    trunk.put(layer, 0, rows, rows)
    with raises("model", "an attention module has 3 kept rows in a pass that follows 0"):
        trunk.put(layer, 0, rows, rows)
    for _ in range(2):  # a step that is computed twice keeps its rows twice
        trunk.begin(3)
        trunk.put(layer, 3, 2 * rows, rows)
        assert trunk.rows(layer, 6)[0][0, 0, :, 0].tolist() == [1, 1, 1, 2, 2, 2]
    with raises("model", "6 kept rows in a pass that follows 3"):
        trunk.put(layer, 3, rows, rows)
    with raises("model", "0 kept rows in a pass that follows 3"):
        trunk.put(torch.nn.Identity(), 3, rows, rows)


def test_workers_that_wait_keep_the_same_rows_in_pass_after_pass() -> None:
    pairs, scorer = [*answers(2, 16), *answers(25, 60, seed=1)], PairScorer(tiny("llama", torch.float32))
    workers = divide_passes(pairs.__getitem__, np.arange(len(pairs)), scorer.packing, 14, 2)
    small = max(([m for m in micros if m.role == "keep" and m.trunk == -1] for micros in workers), key=len)
    assert len(small) > 1
    with torch.no_grad():
        for _, batch in batches(small, pairs.__getitem__, scorer.packing):
            assert scorer(batch).isfinite().all()


@pytest.mark.parametrize("name", sorted(OFTEN_A_PASS))
def test_no_prompt_stays_where_attention_runs_several_times_in_a_pass(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet"):
        packing = PairScorer(tiny(name, torch.float32)).packing
    assert packing.why_padded is None and packing.why_repeated is not None
    assert "computes a prompt in each pass of its answers: its keys and values cannot be kept" in caplog.text
    pairs = answers(25, 45)
    for budget in (40, 12):
        (passes,) = divide_passes(pairs.__getitem__, np.arange(25), packing, budget, 1)
        assert {micro.role for micro in passes} == {"score"}


def test_a_model_whose_kept_rows_are_wrong_is_found_out() -> None:
    """One that computes otherwise where a pass has just so many rows: its forests are right."""
    model = tiny("llama", torch.float32)
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: inner(x) * (1 + (x.shape[1] == 8) / 10)
    packing = PairScorer(model).packing
    assert packing.why_padded is None and packing.why_repeated is not None
    assert "its scores after a kept prompt are off by" in packing.why_repeated


def divided(scorer: PairScorer, pairs: list[TokenisedPair], weight_B: torch.Tensor, budget: int) -> tuple[Any, int]:
    """Scores by pair, gradients left at the weights; and how many passes saw the prompt."""
    (micros,) = divide_passes(pairs.__getitem__, np.arange(len(pairs)), scorer.packing, budget, 1)
    chosen, rejected = torch.zeros(2, len(pairs), dtype=torch.float64).unbind()
    for micro, batch in batches(micros, pairs.__getitem__, scorer.packing):
        with torch.set_grad_enabled(micro.role != "keep"):
            logps_S = scorer(batch)
        if micro.role == "score":
            sides, at = by_side(batch, logps_S), torch.from_numpy(micro.rows)
            ((sides.chosen_B - 0.7 * sides.rejected_B) * weight_B[at]).sum().backward()
            chosen[at], rejected[at] = sides.chosen_B.detach().double(), sides.rejected_B.detach().double()
        elif micro.role == "return":
            (logps_S.sum() * 0.0).backward()
    return (chosen, rejected), sum(micro.role == "score" and micro.trunk is not None for micro in micros)


IN_FLOAT32 = {"cohere", "mixtral", "diffllama"}
"""As in `test_exact`: parts of these are float32 inside a float64 model."""


@pytest.mark.heavy
@pytest.mark.parametrize("budget", [40, 12])
@pytest.mark.parametrize(
    "name",
    nightly(
        CONFIGS,
        lambda name: name in {"llama-gqa-tied", "gemma2-capped", "gpt-neox", "gpt2", "mistral", *OFTEN_A_PASS},
    ),
)
def test_scores_and_every_gradient_are_those_of_one_pass(name: str, budget: int) -> None:
    """In float64. With 12 tokens a pass the prompt itself is in four parts; where it may not stay, each pass has it."""
    pairs = answers(25, 45)
    weights = torch.linspace(-1, 2, 25, dtype=torch.float64)
    extra = {"experts_implementation": "eager"} if name == "mixtral" else {}
    found = []
    for apart in (False, True):
        scorer = PairScorer(tiny(name, **extra), head_rows=7)
        assert scorer.packing.why_padded is None
        assert (scorer.packing.why_repeated is not None) == (name in OFTEN_A_PASS)
        if apart:
            sides, seen = divided(scorer, pairs, weights, budget)
            assert seen == 0 if name in OFTEN_A_PASS else seen >= 4
        else:
            whole = score(scorer, pairs, "cpu")
            ((whole.chosen_B - 0.7 * whole.rejected_B) * weights).sum().backward()
            sides = whole.chosen_B.detach(), whole.rejected_B.detach()
        gradient = torch.cat([w.grad.flatten() for w in scorer.model.parameters() if w.grad is not None])
        found.append((*sides, gradient))
    allowed = 1e-6 if name in IN_FLOAT32 else 1e-10
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) <= allowed * float(one.abs().max())
