"""Work prepared ahead, and a step that waits for the device once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ratchet.model.forward import PairScorer
from ratchet.train.batches import GlobalBatch
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, agree_on, works_of
from ratchet.train.objective import prefetch
from train_bench import CPU, engine_and_data, tiny_model


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Any:
        for i in range(4):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    with prefetch(items()) as ready:
        assert next(ready) == 0
        assert second.wait(600)  # made while 0 is in use
        assert list(ready) == [1, 2, 3]
    assert made == [0, 1, 2, 3]


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Any:
        yield 1
        raise KeyError("lost")

    with prefetch(items()) as ready:
        assert next(ready) == 1
        with pytest.raises(KeyError, match="lost"):
            next(ready)


def test_leaving_stops_the_thread() -> None:
    threads = threading.active_count()

    def leave() -> None:
        with prefetch(iter(int, 1)) as ready:  # without end
            next(ready)
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        leave()
    assert threading.active_count() == threads


@pytest.mark.parametrize("kind", ["dpo", "dpop", "ipo", "cpo"])
def test_a_step_reads_no_number_before_all_passes_are_done(tmp_path: Path, kind: str) -> None:
    """On a GPU every number that Python reads waits for all work before it. `Reads` counts them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    options = {"beta": 0.1, "length_normalised": True} if kind == "ipo" else {"beta": 0.1}
    spec, engine, data = engine_and_data(tmp_path, kind=kind, options=options)
    parts = Parts(engine, data, None, 96, Alone(), Checkpoints(tmp_path, Alone(), 1), None, None)
    rows = np.arange(8)
    works = works_of(spec, parts, rows)
    assert len(works) > 1
    batch = GlobalBatch(2, 1, rows, 0.5)
    with Reads() as seen:
        tally = accumulate(spec, parts, batch, works)
        assert seen.count == 0
        agreed = agree_on(spec, parts, batch, tally, None)
        engine.step(1e-3, agreed.norm)
    assert seen.count <= 1 and agreed.metrics["loss"] > 0


def test_only_the_last_pass_of_a_step_says_so(tmp_path: Path) -> None:
    """An engine that divides gradients among workers brings them together after the last one."""

    class Told(TorchEngine):
        def backward(self, loss: torch.Tensor, *, last: bool) -> None:
            said.append(last)
            super().backward(loss, last=last)

    said: list[bool] = []
    spec, _, data = engine_and_data(tmp_path)
    engine = Told(spec, PairScorer(tiny_model()), CPU)
    parts = Parts(engine, data, None, 60, Alone(), Checkpoints(tmp_path, Alone(), 1), None, None)
    rows = np.arange(8)
    works = works_of(spec, parts, rows)
    accumulate(spec, parts, GlobalBatch(2, 1, rows, 0.5), works)
    assert len(said) == len(works) > 1 and said == [False] * (len(works) - 1) + [True]
