"""Layers that carry a state go on at a fork from a copy of it: the numbers of one plain forward for each sequence."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nightly import examples, nightly
from plain_scores import assert_near_plain, long_pairs
from ratchet.evaluate.engines.likelihood import forest_reach
from ratchet.model import states, support
from ratchet.model.batch import branches_of, collate
from ratchet.model.forward import PairScorer, score
from ratchet.model.segments import groups_of, segments_of
from ratchet.model.states import _Branching, _States, carriers, largest_share
from ratchet.model.tree import Branch, lay_out
from ratchet.model.tree_plan import TreePlan
from ratchet.pairs.pair import TokenisedPair
from tiny_models import CARRYING, UNSHARED, family_of_pairs, plain, tiny


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kind of layer was tried before in this process."""
    monkeypatch.setattr(states, "_verdicts", {})


sequences = st.lists(st.lists(st.integers(3, 4), min_size=2, max_size=14), min_size=1, max_size=9)


@settings(max_examples=examples(60))
@given(sequences, st.integers(1, 3))
def test_a_state_goes_along_the_path_of_each_row(rows: list[list[int]], least: int) -> None:
    """What is carried here is the rows that were seen: each row has to see those of its path, in their order."""
    forest = lay_out([Branch(np.array(ids, np.int32), 1) for ids in rows], "auto", least)
    plan = TreePlan(forest.chains, torch.from_numpy(forest.end_T))
    segments = segments_of(forest.chains)
    seen: dict[int, list[int]] = {}
    carried_on: list[list[list[int]]] = []
    for group in groups_of(segments):
        count, width = group.rows_SL.shape
        assert group.parents is None or width > 1, "transformers has another way for a single row below a state"
        assert not group.inner or {segments[number].rows for number in group.numbers} == {width}
        carried = [[]] * count if group.parents is None else [carried_on[g][place] for g, place in group.parents]
        carried_on.append([])
        for own, before in zip(group.rows_SL.tolist(), carried, strict=True):
            path = list(before)
            for row in own:
                path = [*path, row]
                seen.setdefault(row, path)
            carried_on[-1].append(path)
    for row, sees_T in enumerate(plan.dense):
        assert seen[row] == sees_T.nonzero().flatten().tolist()
    rows_X, sizes, _, back_T = plan.by_segments
    assert rows_X[back_T].tolist() == list(range(len(forest.ids_T))) and sum(sizes) == len(rows_X)


def singly(model: Any, pairs: list[TokenisedPair]) -> tuple[Tensor, Tensor]:
    sides = [(plain(model, pair.prompt, pair.chosen), plain(model, pair.prompt, pair.rejected)) for pair in pairs]
    return torch.stack([chosen for chosen, _ in sides]), torch.stack([rejected for _, rejected in sides])


def in_two_precisions(name: str) -> tuple[Any, Any]:
    """A model in float32, and the same in float64 as plain transformers computes it."""
    ours = tiny(name, torch.float32, experts_implementation="eager")
    theirs = tiny(name, torch.float64, attn_implementation="eager", experts_implementation="eager")
    ours.load_state_dict({key: 0.7 * weight for key, weight in ours.state_dict().items()})
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


LONG = long_pairs(answer=60, prompt=20, chosen=8, rejected=7)
"""Of more rows than a chunk of the layers' scans."""


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", nightly(list(CARRYING), lambda name: name in {"qwen3.5", "lfm2", "nemotron-h", "falcon-h1"})
)
def test_scores_and_gradients_are_those_of_float64_one_sequence_at_a_time(name: str) -> None:
    ours, theirs = in_two_precisions(name)
    scorer = PairScorer(ours)
    assert scorer.packing.why_padded is None and carriers(ours)
    for pairs in (family_of_pairs(), LONG):
        batch = collate(pairs, scorer.packing)
        assert batch.plan is not None
        assert batch.computed < 0.75 * sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
        assert_near_plain(scorer, theirs, pairs, singly)


@pytest.mark.heavy
def test_recomputed_activations_go_along_the_same_paths() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny("qwen3.5", torch.float32).train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        scorer, pairs = PairScorer(model), family_of_pairs()
        first = score(scorer, pairs, "cpu").chosen_B.sum()
        with torch.no_grad():
            score(scorer, LONG, "cpu")  # another forest in between
        first.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3.5", "lfm2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_gets_lost_is_found_out_in_any_precision(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = _States.of_parents

    def lost(states: Any, group: Any) -> Any:
        found = right(states, group)
        for kept in (found.conv_states, found.recurrent_states):
            for number in kept:
                kept[number] = torch.zeros_like(kept[number])
        return found

    assert PairScorer(tiny(name, dtype)).packing.why_padded is None
    monkeypatch.setattr(_States, "of_parents", lost)
    states._verdicts.clear()
    why = PairScorer(tiny(name, dtype)).packing.why_padded
    assert why is not None and "which carries a state, is off by" in why


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of layers that are tried from here on, one after the other."""
    tried: list[str] = []
    once = states._off

    def noted(kind: Any, config: Any, plan: TreePlan, device: torch.device) -> float:
        tried.append(type(kind).__name__)
        return once(kind, config, plan, device)

    monkeypatch.setattr(states, "_off", noted)
    return tried


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["qwen3.5", "granite4"])
def test_a_process_tries_a_kind_of_layer_once_in_each_precision(name: str, trials: list[str]) -> None:
    """Training and evaluation share what was found, wherever the model comes from."""
    for place in ("start", "published"):
        for dtype in (torch.float32, torch.bfloat16):
            model, again = tiny(name, dtype), tiny(name, dtype)
            model.config._name_or_path = place
            assert PairScorer(model).packing.why_padded is None and forest_reach(again) > 0
    assert len(trials) == 2


def test_what_a_trial_depends_on_is_tried_again(trials: list[str]) -> None:
    narrow, wide, cpu = tiny("lfm2", torch.float32), tiny("lfm2", torch.float32), torch.device("cpu")
    wide.config.conv_L_cache += 1
    for model in (narrow, wide, narrow, wide):
        assert support.lost_states(model, cpu) is None
    assert len(trials) == 2
    for value in (1.0, 2.0, 1.0):
        carriers(narrow)[0].register_buffer("factor", torch.full((2,), value))
        assert support.lost_states(narrow, cpu) is None
    assert len(trials) == 4
    forest = lay_out(branches_of(family_of_pairs())[0], "auto")
    for _ in range(2):
        assert states.states_disproof(wide, TreePlan(forest.chains, torch.from_numpy(forest.end_T)), cpu) is None
    assert trials == ["Lfm2ShortConv"] * 5


def test_a_verdict_against_a_kind_stands_and_memory_that_runs_out_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> float:
        raise torch.OutOfMemoryError("out of memory")

    model, cpu = tiny("mamba", torch.float32), torch.device("cpu")
    with monkeypatch.context() as within:
        within.setattr(states, "_off", full)
        with pytest.raises(torch.OutOfMemoryError):
            support.lost_states(model, cpu)
    found = support.lost_states(model, cpu)
    assert found is not None and "MambaMixer" in found
    monkeypatch.setattr(states, "_off", full)
    assert support.lost_states(model, cpu) == found


class _Spoiled(torch.autograd.Function):
    """Hands its input on, and in place of its gradient NaN or nothing."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, with_what: float | None) -> Tensor:
        ctx.with_what = with_what
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        return None if ctx.with_what is None else grads[0] * ctx.with_what, None


@pytest.mark.parametrize(("with_what", "off"), [(torch.nan, "nan"), (None, "1"), (0.0, "1")])
def test_a_gradient_that_is_no_number_or_is_lost_is_found_out(
    with_what: float | None, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = _Branching.__call__

    def spoiled(layer: Any, *given: Any, **named: Any) -> Any:
        found = right(layer, *given, **named)
        return found if layer.tree is None else _Spoiled.apply(found, with_what)

    monkeypatch.setattr(_Branching, "__call__", spoiled)
    why = PairScorer(tiny("qwen3.5", torch.float32)).packing.why_padded
    assert why is not None and f"which carries a state, is off by {off} over a forest" in why


def test_a_difference_from_nothing_is_endless_and_of_nothing_none() -> None:
    zero, one = torch.zeros(2), torch.tensor([0.0, 3.0])
    assert largest_share([(zero, zero), (one, one)]) == 0.0
    assert largest_share([(one + 1.5, one), (one, one)]) == 0.5
    assert largest_share([(one, one), (one, zero)]) == torch.inf


def test_a_layer_that_goes_on_from_no_state_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    """A scan of Mamba 1 begins with nothing in each call of several rows."""
    assert "mamba" in UNSHARED
    with caplog.at_level(logging.WARNING, "ratchet"):
        packing = PairScorer(tiny("mamba", torch.float32)).packing
    assert packing.why_padded is not None and "MambaMixer, which carries a state, is off by" in packing.why_padded


def test_without_a_forest_a_layer_is_as_it_was() -> None:
    model = tiny("lfm2", torch.float32)
    tokens = torch.arange(3, 30)[None]
    before = model(input_ids=tokens).logits
    PairScorer(model)
    assert torch.equal(before, model(input_ids=tokens).logits)
    assert all(isinstance(module, nn.Module) and module.forward.tree is None for module in carriers(model))
