"""Attention over a forest a chain at a time, and the block mask, against attention by its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ratchet.model import memory
from ratchet.model.attention import TreePlan, attend, dense
from ratchet.model.batch import branches_of, collate
from ratchet.model.forward import PairScorer, score
from ratchet.model.tree import Chain, lay_out
from ratchet.pairs.pair import TokenisedPair
from tiny_models import family_of_pairs, make_pairs, tiny


def plan_of(pairs: list[TokenisedPair]) -> TreePlan:
    forest = lay_out(branches_of(pairs)[0], "auto")
    return TreePlan(forest.chains, torch.from_numpy(forest.end_T))


@pytest.mark.parametrize(("softcap", "value_size"), [(0.5, 8), (None, 6), (2.0, 12)])
def test_chains_give_what_the_whole_row_gives(softcap: float | None, value_size: int) -> None:
    plan = plan_of(family_of_pairs())
    rows = len(plan.end_T)
    assert any(chain.ancestors for chain in plan.chains)
    torch.manual_seed(0)
    inputs = tuple(
        torch.randn(1, heads, rows, size, dtype=torch.float64, requires_grad=True)
        for heads, size in ((4, 8), (2, 8), (2, value_size))
    )
    found, _ = attend(torch.nn.Identity(), *inputs, None, scaling=0.3, tree=plan, softcap=softcap)
    wanted = dense(*inputs, plan.dense, 0.3, softcap).transpose(1, 2)
    weight = torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, weight) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


class Backwards(TorchDispatchMode):
    """The precisions in which chains' backward passes run, by their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype_of: dict[int, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
            self.dtype_of[args[0].shape[2]] = args[0].dtype
        return func(*args, **(kwargs or {}))


class Masks(TorchDispatchMode):
    """Whether each forward call of the kernel has a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.masked: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.masked.append((kwargs or {}).get("attn_mask") is not None)
        return func(*args, **(kwargs or {}))


def chains_apart(own: int, other: int) -> TreePlan:
    """Two chains that share 8 rows: of `own` rows, and of `other` below its first 8."""
    return TreePlan((Chain(0, own, ()), Chain(own, own + other, ((0, 8),))), torch.tensor([own + other]))


@pytest.mark.parametrize(
    ("dtype", "size", "rows", "in_float32"),
    [
        (torch.bfloat16, 64, (512, 7), (True, True)),
        (torch.bfloat16, 64, (513, 512), (False, True)),
        (torch.bfloat16, 128, (256, 257), (True, False)),
        (torch.float16, 64, (513, 9), (True, True)),
        (torch.float64, 64, (9, 513), (False, False)),
    ],
)
def test_short_chains_of_low_precision_go_back_in_float32(
    dtype: torch.dtype, size: int, rows: tuple[int, int], in_float32: tuple[bool, bool]
) -> None:
    query, key, value = torch.randn(3, 1, 1, sum(rows), size, dtype=dtype, requires_grad=True).unbind()
    with Backwards() as seen:
        out, _ = attend(torch.nn.Identity(), query, key, value, None, tree=chains_apart(*rows))
        out.sum().backward()
    led = (rows[0], rows[1] + 8 * (rows[1] > 8))
    assert seen.dtype_of == {own: torch.float32 if wide else dtype for own, wide in zip(led, in_float32, strict=True)}


@pytest.mark.parametrize("forks", [(3, 9), (8, 4), (9, 9), (20, 1)])
def test_a_chain_with_few_rows_above_is_computed_as_a_triangle(forks: tuple[int, int]) -> None:
    """A chain of 20 rows, below its first ones another, and a third below these."""
    above, own = forks
    middle, last = Chain(20, 20 + own, ((0, above),)), Chain(20 + own, 25 + own, ((0, above), (20, 21)))
    chains, rows = (Chain(0, 20, ()), middle, last), 25 + own
    sees = torch.zeros(rows, rows, dtype=torch.bool)
    for chain in chains:
        for first, stop in (*chain.ancestors, (chain.start, chain.stop)):
            sees[chain.start : chain.stop, first:stop] = True
    sees &= torch.ones_like(sees).tril()
    torch.manual_seed(0)
    inputs = torch.randn(3, 1, 2, rows, 8, dtype=torch.float64, requires_grad=True)
    with Masks() as seen:
        found = attend(torch.nn.Identity(), *inputs.unbind(), None, tree=TreePlan(chains, torch.zeros(rows)))[0]
    # Without a mask the kernel is causal, and has as many rows as keys.
    assert seen.masked == [False, above >= own, above + 1 >= 5]
    wanted = dense(*inputs.unbind(), sees, 8**-0.5).transpose(1, 2)
    weight = torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out, inputs, weight)[0] for out in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_bfloat16_chains_are_as_near_as_those_of_torchs_own_attention() -> None:
    torch.manual_seed(0)
    rows, size = 120, 64
    exact = torch.randn(3, 1, 4, rows, size).bfloat16().double()
    weight = torch.randn(1, 4, rows, size).bfloat16()
    plan = TreePlan((Chain(0, rows, ()),), torch.full((rows,), rows))

    def ours(inputs: Tensor) -> Tensor:
        return attend(torch.nn.Identity(), *inputs.unbind(), None, tree=plan)[0].transpose(1, 2)

    def theirs(inputs: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*inputs.unbind(), is_causal=True)

    def gradient(attention: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        inputs = exact.to(dtype).requires_grad_()
        return torch.autograd.grad(attention(inputs), inputs, weight.to(dtype))[0].double()

    truth = gradient(theirs, torch.float64)
    off = [float((gradient(way, torch.bfloat16) - truth).norm() / truth.norm()) for way in (ours, theirs)]
    assert off[0] <= off[1] < 0.01


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.heavy
def test_capped_scores_of_strangers_are_not_computed() -> None:
    """The largest tensor, forward and backward, grows with the row and not with its square."""
    scorer, found = PairScorer(tiny("gemma2-capped"), head_rows=7), []
    for count in (20, 80):
        pairs = make_pairs(count)
        rows = collate(pairs, scorer.packing).computed
        with Largest() as seen:
            score(scorer, pairs, "cpu").chosen_B.sum().backward()
        found.append(seen.elements / rows)
    assert found[1] < 1.2 * found[0] and found[1] < 50  # layers are up to 24 wide


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])  # needs a C++ compiler
def test_a_block_mask_sees_what_the_forest_says(compiled: bool) -> None:
    for count in (30, 40, 50):
        plan = plan_of(make_pairs(count))
        blocks = plan.block_mask(compiled=compiled)
        side = -(-len(plan.end_T) // 128) * 128
        seen = torch.zeros(side, side, dtype=torch.bool)
        seen[: len(plan.end_T), : len(plan.end_T)] = plan.dense
        tiles = seen.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).any(3).any(1)
        assert blocks.to_dense()[0, 0].bool().equal(tiles)
        assert not tiles[-1, 0]  # strangers


@pytest.mark.slow  # needs a C++ compiler
def test_a_compiled_block_mask_never_writes_all_rows_by_all_rows() -> None:
    rows, cpu = 20_000, torch.device("cpu")
    end_T = (torch.arange(rows) // 100 + 1) * 100
    for few in (700, 1500, 9000):  # compiles, for any number of rows
        TreePlan((), end_T[:few]).block_mask(compiled=True)
    before = memory.reset_peak(cpu)
    TreePlan((), end_T).block_mask(compiled=True)
    assert memory.peak(cpu) - before < rows * rows / 4  # as booleans alone they take rows * rows
