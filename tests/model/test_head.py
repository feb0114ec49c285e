"""The head computes no logit twice that it can keep, none that has no gradient, and few in float32 at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ratchet.model.head import WIDE_ELEMENTS, AnswerHead, LogitScaling

HIDDEN = 8


class Products(TorchDispatchMode):
    """Rows of the matrix products that have the vocabulary as a side, and the most elements of a float32 tensor."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows, self.widest = vocabulary, list[int](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default}:
            sides = {*args[-2].shape, *args[-1].shape}
            if self.vocabulary in sides:
                self.rows += sorted(sides - {self.vocabulary, HIDDEN})
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.widest = max(self.widest, out.numel())
        return out


def scored(entries: int, vocabulary: int, dtype: torch.dtype) -> tuple[AnswerHead, Tensor, Tensor]:
    """A head, hidden states and targets."""
    torch.manual_seed(0)
    head = AnswerHead.adopt(nn.Linear(HIDDEN, vocabulary).to(dtype))
    return head, torch.randn(entries, HIDDEN, dtype=dtype, requires_grad=True), torch.arange(entries) % vocabulary


def gradients(head: AnswerHead, hidden: Tensor, loss: Tensor, **options: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()], **options))


@pytest.mark.parametrize(
    ("rows", "forward", "backward"), [(10, [10], [10, 10]), (4, [4, 4, 2], [2, 2, 4, 4, 4, 4, 4, 4])]
)
def test_logits_of_the_last_chunk_are_not_computed_again(rows: int, forward: list[int], backward: list[int]) -> None:
    head, hidden, targets = scored(10, 61, torch.float32)
    with Products(61) as first:
        logps = head(hidden, targets, LogitScaling(), rows)
    with Products(61) as second:
        gradients(head, hidden, logps.sum())
    assert first.rows == forward
    assert second.rows == backward


@pytest.mark.parametrize("rows", [10, 4])
def test_entries_without_a_gradient_cost_nothing_and_change_nothing(rows: int) -> None:
    head, hidden, targets = scored(10, 61, torch.float64)
    scaling, weight = LogitScaling(0.7, 2.0), torch.tensor([1.0, 0, 0, -2, 0, 3, 0, 0, 0, 0.5], dtype=torch.float64)
    with Products(61) as seen:
        found = gradients(head, hidden, (head(hidden, targets, scaling, rows) * weight).sum())
    with_gradient = {10: 4, 4: 2 + 1 + 1}[rows]
    assert sum(seen.rows) == 10 + 2 * with_gradient + {10: 0, 4: 2 + 1}[rows]
    logits = scaling.apply(head(hidden))
    wanted = gradients(head, hidden, (logits.log_softmax(1)[range(10), targets] * weight).sum())
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_second_backward_pass_gives_the_same() -> None:
    head, hidden, targets = scored(10, 61, torch.float64)
    loss = head(hidden, targets, LogitScaling(), 10).sum()
    first = gradients(head, hidden, loss, retain_graph=True)
    for before, after in zip(first, gradients(head, hidden, loss), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-12)


def test_few_logits_are_float32_at_a_time() -> None:
    vocabulary = WIDE_ELEMENTS["cpu"] // 4
    head, hidden, targets = scored(12, vocabulary, torch.bfloat16)
    with Products(vocabulary) as seen:
        logps = head(hidden, targets, LogitScaling(), 12)
        gradients(head, hidden, logps.sum())
    assert seen.widest == WIDE_ELEMENTS["cpu"] < 12 * vocabulary
