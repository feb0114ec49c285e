"""Attention over a forest a chain at a time, and the block mask, against attention by its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from ratchet.model import memory
from ratchet.model.attention import attend, dense, over_blocks
from ratchet.model.batch import branches_of, collate
from ratchet.model.forward import PairScorer, score
from ratchet.model.tree import Chain, lay_out
from ratchet.model.tree_plan import TreePlan
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


def branching(*lengths: tuple[int, int]) -> TreePlan:
    """Chains, each of so many rows below the first so many of the chain before it."""
    chains: list[Chain] = []
    end_T: list[int] = []
    for above, own in lengths:
        start = len(end_T)
        if chains:
            first = chains[-1]
            end_T[first.start + above :] = [start] * (start - first.start - above)
            path = (*first.ancestors, (first.start, first.start + above))
        chains.append(Chain(start, start + own, path if chains else ()))
        end_T += [0] * own
    rows = len(end_T)
    return TreePlan(tuple(chains), torch.tensor([end or rows for end in end_T]))


@pytest.mark.parametrize("window", [None, 1, 2, 5, 30])
@pytest.mark.parametrize(("softcap", "value_size"), [(None, 8), (0.5, 8), (None, 6)])
def test_sinks_and_windows_are_those_of_the_definition(
    window: int | None, softcap: float | None, value_size: int
) -> None:
    plan = branching((0, 20), (9, 12), (4, 3), (3, 30))
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, heads, len(plan.end_T), size, dtype=torch.float64, requires_grad=True)
        for heads, size in ((4, 8), (2, 8), (2, value_size))
    ]
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    more: dict[str, Any] = {"softcap": softcap, "s_aux": sinks, "sliding_window": window}
    found, _ = attend(torch.nn.Identity(), *inputs, None, scaling=0.3, tree=plan, **more)
    sees = plan.within(window).dense
    # By the definition in words: so many rows of the path that ends in the row.
    paths = plan.dense
    assert not (sees & ~paths).any()
    assert window is None or (sees.sum(1) == paths.sum(1).clamp(max=window)).all()
    wanted = dense(*inputs, sees, 0.3, softcap, sinks).transpose(1, 2)
    weight = torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs.append(sinks)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, weight) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.heavy
def test_a_long_row_with_a_window_is_computed_in_pieces() -> None:
    """Pieces of several of the kernel's blocks, of which a row sees none at all."""
    plan, window = branching((0, 1900), (1500, 700)), 600
    pieces = plan.within(window).chains
    assert max(piece.stop - piece.start for piece in pieces) <= window
    assert sum(piece.attended for piece in pieces) < 0.8 * sum(chain.attended for chain in plan.chains)
    torch.manual_seed(0)
    inputs = torch.randn(3, 1, 2, len(plan.end_T), 8, dtype=torch.float64, requires_grad=True)
    found = attend(torch.nn.Identity(), *inputs.unbind(), None, tree=plan, sliding_window=window)[0]
    wanted = dense(*inputs.unbind(), plan.within(window).dense, 8**-0.5).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), inputs)[0] for out in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def by_definition(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, return_aux: Any, **more: Any) -> Any:
    """What FlexAttention gives: its backward pass is not for CPUs."""
    scores = (query @ key.repeat_interleave(2, 1).mT * more["scale"]).masked_fill(~block_mask, -torch.inf)
    return scores.softmax(-1) @ value.repeat_interleave(2, 1), AuxOutput(lse=scores.logsumexp(-1))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 5])
def test_a_gpus_block_mask_with_sinks_and_a_window_is_the_definition(window: int | None) -> None:
    plan = branching((0, 150), (90, 40), (4, 130)).within(window)
    torch.manual_seed(0)
    inputs = [torch.randn(1, heads, len(plan.end_T), 16, dtype=torch.float64) for heads in (4, 2, 2)]
    inputs.append(torch.randn(4, dtype=torch.float64))
    query, key, value, sinks = inputs
    found = over_blocks(flex_attention, query, key, value, sinks, plan, 0.25)
    wanted = dense(query, key, value, plan.dense, 0.25, None, sinks)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    plan.blocks = plan.dense
    for some in inputs:
        some.requires_grad_()
    outs = (
        over_blocks(by_definition, query, key, value, sinks, plan, 0.25),
        dense(query, key, value, plan.dense, 0.25, None, sinks),
    )
    for ours, theirs in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in outs), strict=True):
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
