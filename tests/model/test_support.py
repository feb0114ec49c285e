"""The kernel that a device has is compared with attention by its definition before a model trusts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from nightly import nightly
from ratchet.model import attention
from ratchet.model.batch import branches_of
from ratchet.model.support import kernel_disproof
from ratchet.model.tree import lay_out
from ratchet.model.tree_plan import TreePlan
from tiny_models import family_of_pairs

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(4, 4, 16), (6, 2, 64), (8, 1, 32)])
def test_a_right_kernel_is_trusted(dtype: torch.dtype, heads: int, key_heads: int, size: int) -> None:
    for sinks, window in ((False, None), (True, None), (True, 5)):
        assert kernel_disproof(heads, key_heads, size, dtype, CPU, sinks=sinks, window=window) is None


def test_a_kernel_that_sees_another_branch_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal_alone(query: Any, key: Any, value: Any, sinks: Any, plan: TreePlan, scale: float) -> Any:
        rows = len(plan.end_T)
        return attention.dense(query, key, value, torch.ones(rows, rows, dtype=torch.bool).tril(), scale)

    monkeypatch.setattr(attention._ChainAttention, "apply", causal_alone)
    said = kernel_disproof(4, 2, 16, torch.float32, CPU)
    assert said is not None and "is off by" in said


def test_a_kernel_that_forgets_a_sinks_gradient_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._ChainAttention.apply

    def detached(query: Any, key: Any, value: Any, sinks: Any, plan: TreePlan, scale: float) -> Any:
        return right(query, key, value, sinks.detach(), plan, scale) + 0 * sinks.sum()

    monkeypatch.setattr(attention._ChainAttention, "apply", detached)
    said = kernel_disproof(4, 2, 16, torch.float32, CPU, sinks=True)
    assert said is not None and "is off by 1 on" in said


def test_a_kernel_whose_gradient_is_wrong_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._flash_backward

    def half(*arguments: Any, **named: Any) -> Any:
        query, key, value = right(*arguments, **named)
        return query, key / 2, value

    monkeypatch.setattr(attention, "_flash_backward", half)
    said = kernel_disproof(4, 2, 16, torch.float32, CPU)
    assert said is not None and "is off by" in said


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_kernel_with_a_gradient_that_is_no_number_is_not(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._flash_backward

    def broken(*arguments: Any, **named: Any) -> Any:
        return [grad * torch.nan if at == place else grad for at, grad in enumerate(right(*arguments, **named))]

    monkeypatch.setattr(attention, "_flash_backward", broken)
    said = kernel_disproof(4, 2, 16, torch.float32, CPU)
    assert said is not None and "is off by nan" in said


def test_memory_that_runs_out_says_nothing_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(attention, "_flash", full)
    with pytest.raises(torch.OutOfMemoryError):
        kernel_disproof(4, 2, 16, torch.float32, CPU)


def test_a_kernel_that_does_not_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel\nfor this device")

    monkeypatch.setattr(attention, "_flash", refuse)
    said = kernel_disproof(4, 2, 16, torch.float32, CPU)
    assert said == "attention over a forest does not run on cpu (no such kernel)"


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "copies", nightly([1, 8], lambda copies: copies == 1)
)  # one block of FlexAttention, and several
def test_the_block_mask_of_a_gpu_says_what_the_dense_mask_says(copies: int) -> None:
    pairs = [pair for turn in range(copies) for pair in family_of_pairs(turn)]
    forest = lay_out(branches_of(pairs)[0], "auto")
    plan = TreePlan(forest.chains, torch.from_numpy(forest.end_T))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, len(forest.ids_T), 16, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)
    )
    flex = flex_attention(query, key, value, block_mask=plan.blocks, scale=0.25, enable_gqa=True)  # uncompiled
    torch.testing.assert_close(flex, attention.dense(query, key, value, plan.dense, 0.25), rtol=1e-12, atol=1e-12)
