"""The last layer's queries and feed-forward part are those of scored rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ratchet.model.batch import Packing, SequenceBatch, collate
from ratchet.model.forward import PairScorer
from ratchet.model.last_layer import scored_chains
from ratchet.model.tree import Chain
from ratchet.pairs.pair import TokenisedPair
from tiny_models import ids, tiny

PROMPT = np.arange(3, 43, dtype=np.int32)
PAIRS = [
    TokenisedPair("one", PROMPT, ids(5, 6, 7, 8), ids(9, 10)),
    TokenisedPair("two", PROMPT, ids(5, 6, 7, 8), ids(11, 12, 13)),
]


class Attended(TorchDispatchMode):
    """Query rows and keys of each call of torch's flash kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.calls.append((args[0].shape[2], args[1].shape[2]))
        return func(*args, **(kwargs or {}))


def scored(name: str) -> tuple[PairScorer, SequenceBatch]:
    scorer = PairScorer(tiny(name, torch.float32))
    return scorer, collate(PAIRS, scorer.packing)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_last_feed_forward_part_sees_scored_rows_alone(recompute: bool) -> None:
    scorer, batch = scored("llama")
    if recompute:
        scorer.causal.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    seen: list[list[int]] = [[], []]
    for layer, counts in zip(scorer.causal.model.layers, seen, strict=True):
        layer.mlp.up_proj.register_forward_hook(lambda _m, args, _o, counts=counts: counts.append(args[0].shape[1]))
    scorer(batch).sum().backward()
    # 40 of the prompt, of which the last predicts; 3, 1 and 2 rows of answers that predict a token.
    assert seen == [[40 + 4 + 2 + 3] * (1 + recompute), [1 + 3 + 1 + 2] * (1 + recompute)]


class LastPart(nn.Module):
    """Another layer's feed-forward part, called as families do, which gives a tuple with `routed`."""

    def __init__(self, mlp: nn.Module, *, routed: bool) -> None:
        super().__init__()
        self.mlp, self.routed, self.rows = mlp, routed, 0

    def forward(self, hidden_states: Tensor) -> Any:
        self.rows, out = hidden_states.shape[1], self.mlp(hidden_states)
        return (out, hidden_states[..., :2]) if self.routed else out


class Layer(nn.Module):
    """Calls a layer's feed-forward part by keyword, or unpacks the tuple that it gives."""

    def __init__(self, layer: Any, *, routed: bool) -> None:
        super().__init__()
        self.self_attn, self.norms = layer.self_attn, (layer.input_layernorm, layer.post_attention_layernorm)
        self.mlp, self.routed = LastPart(layer.mlp, routed=routed), routed

    def forward(self, hidden: Tensor, **named: Any) -> Tensor:
        hidden = hidden + self.self_attn(hidden_states=self.norms[0](hidden), **named)[0]
        rows = self.norms[1](hidden)
        if not self.routed:
            return hidden + self.mlp(hidden_states=rows)  # type: ignore[no-any-return]
        out, logits = self.mlp(rows)
        assert logits.shape[1] == self.mlp.rows
        return hidden + out  # type: ignore[no-any-return]


@pytest.mark.parametrize(("routed", "rows"), [(False, 49), (True, 7)])
def test_a_last_part_called_by_keyword_sees_all_rows_and_one_that_gives_a_tuple_the_scored(
    routed: bool, rows: int
) -> None:
    model = tiny("llama", torch.float32)
    model.model.layers[1] = Layer(model.model.layers[1], routed=routed)
    scorer = PairScorer(model)
    assert scorer.packing == Packing(vocabulary=61)
    batch = collate(PAIRS, scorer.packing)
    found, (plain, _) = scorer(batch), scored("llama")
    assert model.model.layers[1].mlp.rows == rows
    torch.testing.assert_close(found, plain(batch))


def test_the_last_queries_are_those_of_scored_rows() -> None:
    scorer, batch = scored("llama")
    with torch.no_grad(), Attended() as seen:
        scorer(batch)
    assert seen.calls == [(44, 44), (2, 42), (3, 43), (4, 43), (1, 41), (2, 42)]


def test_a_model_scored_twice_is_narrowed_once() -> None:
    scorer, batch = scored("llama")
    again = PairScorer(scorer.causal)
    assert len(scorer.causal.model.layers[-1].mlp._forward_pre_hooks) == 1
    assert torch.equal(again(batch), scorer(batch))


@pytest.mark.parametrize(
    ("scored_rows", "wanted"),
    [
        ([], ()),
        ([9], (Chain(9, 10, ((0, 9),)),)),
        # Causal, 55 pairs of rows: as 9 rows of 10 keys each it would be 90.
        ([1, 9], (Chain(0, 10, ()),)),
        # Its first row is scored: nothing stands before it.
        ([0, 4], (Chain(0, 5, ()),)),
        ([14], (Chain(14, 15, ((0, 6), (10, 14))),)),
        ([12, 13, 17], (Chain(12, 14, ((0, 6), (10, 12))), Chain(17, 18, ((0, 6), (10, 13), (16, 17))))),
    ],
)
def test_chains_of_scored_rows(scored_rows: list[int], wanted: tuple[Chain, ...]) -> None:
    chains = (Chain(0, 10, ()), Chain(10, 16, ((0, 6),)), Chain(16, 20, ((0, 6), (10, 13))))
    assert scored_chains(chains, scored_rows) == wanted
