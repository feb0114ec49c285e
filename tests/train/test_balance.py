"""The router loss of a step against transformers' own, and how it is asked for."""

from __future__ import annotations

import copy
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    MixtralConfig,
)

from raised import raises
from ratchet.model.forward import PairScorer
from ratchet.model.router_loss import check_router_loss
from ratchet.pairs.pair import TokenisedPair
from ratchet.train import budget
from ratchet.train.batches import GlobalBatch
from ratchet.train.communicate import Alone, Communicator
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, agree_on, works_of
from ratchet.train.objective import Data, Reference
from routed_models import CONFIGS, made, sequences
from tiny_models import family_of_pairs
from train_bench import CPU, Pairs, spec_of

WEIGHT = 0.3
ALONE = Alone()


def theirs(model: Any, pairs: list[TokenisedPair], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The loss by transformers' own function, of each sequence alone and unpadded."""
    each = [model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits for ids in sequences(pairs)]
    joined = tuple(torch.cat(layers) for layers in zip(*each, strict=True))
    function = sys.modules[type(model).__module__].load_balancing_loss_func
    with monkeypatch.context() as patch:
        if model.dtype == torch.float64:  # it would add up in float32
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            patch.setattr(torch, "float32", torch.float64)
        found: torch.Tensor = function(joined, 4, 2)
    return found


class Some(Pairs):
    """A table of given pairs."""

    def __init__(self, pairs: list[TokenisedPair]) -> None:
        super().__init__(len(pairs))
        self.rows, self.pair_ids = pairs, [pair.pair_id for pair in pairs]
        sides = [(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs]
        self.lengths_N3 = np.array(sides, dtype=np.int32)


def step_of(
    model: Any,
    pairs: list[TokenisedPair],
    folder: Path,
    budget: int,
    worker: Communicator = ALONE,
    **changes: Any,
) -> tuple[TorchEngine, dict[str, float], list[str]]:
    """One worker's gradient of a step, its metrics, and the kinds of its passes."""
    # With so small a beta the pairs add next to nothing to the gradient: families compute a part of it in float32.
    fields = {"router_loss": WEIGHT, "beta": 1e-10, **changes}
    spec = spec_of(folder, dtype="float64", starts_at_reference=False, **fields)
    scorer = PairScorer(model, sharing=spec.cluster.sharing, router_loss=spec.stage.router_loss)
    engine = TorchEngine(spec, scorer, CPU)
    engine.train(True)
    zeros = np.zeros(len(pairs))
    nothing: Any = None
    data = Data(Some(pairs), Reference(zeros, zeros))
    parts = Parts(engine, data, None, budget, worker, nothing, None, None)
    batch = GlobalBatch(1, 1, np.arange(len(pairs)), 1.0)
    works = works_of(spec, parts, batch.rows)
    tally = accumulate(spec, parts, batch, works)
    return engine, agree_on(spec, parts, batch, tally, None).metrics, [work.role for work in works]


def gradient_of(engine: TorchEngine) -> dict[str, torch.Tensor]:
    engine.finish_gradient()
    names = {id(weight): name for name, weight in engine.scorer.causal.named_parameters()}
    return {names[id(w)]: total.clone() for w, total in zip(engine.trained, engine.sums, strict=True)}


def added_gradient(model: Any, pairs: list[TokenisedPair], folder: Path, budget: int, **changes: Any) -> Any:
    """What the router loss adds to a step's gradient, and the step's metrics and kinds of passes."""
    engine, metrics, kinds = step_of(copy.deepcopy(model), pairs, folder, budget, **changes)
    without, plain, _ = step_of(copy.deepcopy(model), pairs, folder, budget, **{**changes, "router_loss": "off"})
    assert "router/loss" not in plain and plain["loss"] == pytest.approx(metrics["loss"], rel=1e-9)
    other = gradient_of(without)
    return {name: mine - other[name] for name, mine in gradient_of(engine).items()}, metrics, kinds


def wide_pairs() -> list[TokenisedPair]:
    """A prompt of 40 tokens with many answers, beside strangers."""
    random = np.random.default_rng(1)
    draw = lambda n: random.integers(3, 61, n).astype(np.int32)  # noqa: E731
    prompt = draw(40)
    some = [TokenisedPair(f"{i:032x}", prompt, draw(11), draw(9)) for i in range(8)]
    return [*some, *(TokenisedPair(f"{i:032x}", draw(6), draw(7), draw(5)) for i in range(9, 12))]


def assert_theirs(model: Any, pairs: list[TokenisedPair], found: Any, metrics: Any, patch: Any, off: float) -> None:
    model.zero_grad()
    loss = theirs(model, pairs, patch)
    (WEIGHT * loss).backward()
    assert metrics["router/loss"] == pytest.approx(float(loss.detach()), rel=off)
    wanted = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    largest = max(float(one.abs().max()) for one in wanted.values())
    assert largest > 1e-4
    for name, one in found.items():
        zero = torch.zeros_like(one)
        torch.testing.assert_close(one, wanted.get(name, zero), rtol=0, atol=off * largest, msg=name)


@pytest.mark.heavy
@pytest.mark.parametrize(("budget", "sharing"), [(2000, "auto"), (2000, "none"), (40, "auto"), (70, "prompt")])
@pytest.mark.parametrize("family", ["gpt-oss", "granite", "mixtral", "qwen3-moe"])
def test_the_router_loss_is_that_of_unpadded_sequences_whatever_is_shared_and_however_passes_are_divided(
    family: str, budget: int, sharing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = made(family), family_of_pairs()
    found, metrics, kinds = added_gradient(model, pairs, tmp_path, budget, sharing=sharing)
    assert (len(kinds) > 1) == (budget < 2000)
    # Granite's routers give their logits in float32, whatever the model's precision is.
    assert_theirs(model, pairs, found, metrics, monkeypatch, 1e-6 if family == "granite" else 1e-7)


def test_a_prompt_that_stays_across_passes_counts_for_all_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = made("mixtral"), wide_pairs()
    found, metrics, kinds = added_gradient(model, pairs, tmp_path, 64)
    assert {"keep", "return", "score"} == {*kinds}
    assert_theirs(model, pairs, found, metrics, monkeypatch, 1e-7)


@pytest.mark.heavy
def test_activations_that_are_computed_again_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = made("qwen3-moe"), wide_pairs()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found, metrics, kinds = added_gradient(model, pairs, tmp_path, 64)
    model.gradient_checkpointing_disable()
    assert "return" in kinds
    assert_theirs(model, pairs, found, metrics, monkeypatch, 1e-7)


@pytest.mark.heavy
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_with_a_router_loss_has_it_here(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = made(family, torch.float32), family_of_pairs()
    with torch.no_grad():
        wanted = float(theirs(model, pairs, monkeypatch))
    _, metrics, _ = step_of(model, pairs, tmp_path, 70)
    assert metrics["router/loss"] == pytest.approx(wanted, rel=1e-4)


class Side:
    """One of two workers in threads of this process."""

    world = 2

    def __init__(self, rank: int, met: threading.Barrier, given: list[Any]) -> None:
        self.rank, self.met, self.given = rank, met, given

    def gather(self, value: Any) -> list[Any]:
        self.given[self.rank] = value
        self.met.wait(60)
        found = [*self.given]
        self.met.wait(60)
        return found

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.detach().double().clone())).sum(0)

    def reached(self, step: int) -> None:
        """Nobody waits by steps."""


@pytest.mark.parametrize(("budget", "few"), [(2000, False), (64, False), (24, True)])
def test_workers_add_up_to_the_gradient_of_one_also_where_a_worker_only_waits(
    tmp_path: Path, budget: int, few: bool
) -> None:
    model, pairs = made("mixtral"), wide_pairs()[-3:] if few else wide_pairs()
    one, alone, _ = step_of(copy.deepcopy(model), pairs, tmp_path, budget)
    met, given = threading.Barrier(2), [None, None]
    with ThreadPoolExecutor(2) as threads:
        sides = [Side(rank, met, given) for rank in range(2)]
        jobs = [threads.submit(step_of, copy.deepcopy(model), pairs, tmp_path, budget, side) for side in sides]
        (left, together, kinds), (right, same, _) = (job.result() for job in jobs)
    assert together == same
    assert kinds == ["score"] * 2 or not few  # four passes for three pairs: one is a stand-in
    for key in ("router/loss", *(key for key in alone if key.startswith("experts/"))):
        assert together[key] == pytest.approx(alone[key], rel=1e-9), key
    ours, others = gradient_of(left), gradient_of(right)
    whole = gradient_of(one)
    largest = max(float(part.abs().max()) for part in whole.values())
    for name, part in whole.items():
        torch.testing.assert_close(ours[name] + others[name], part, rtol=0, atol=1e-8 * largest)


@pytest.mark.heavy
def test_a_family_without_a_router_loss_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """By the source of each family alone; whether a loaded model has it is asked above."""
    kinds = {AutoConfig.for_model(config.model_type).model_type for config in CONFIGS.values()}
    for kind in (*sorted(kinds), "deepseek_v3", "doge", "llama", "qwen3_5_moe_text", "glm4_moe", "no_such_family"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        if kind in {"deepseek_v3", "doge", "llama", "glm4_moe"}:
            with raises("model.router-loss", "stages.align.router_loss"):
                check_router_loss(tmp_path, "stages.align.router_loss")
        else:
            check_router_loss(tmp_path, "stages.align.router_loss")


def test_the_weight_is_the_configurations_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PairScorer(made("olmoe", torch.float32), router_loss="model").routers.weight == 0.01
    assert PairScorer(made("jetmoe", torch.float32), router_loss="model").routers.weight == 0.01
    assert PairScorer(made("olmoe", torch.float32)).routers.weight == 0
    nameless = made("mixtral", torch.float32)
    nameless.router_aux_loss_coef = None
    monkeypatch.delattr(MixtralConfig, "router_aux_loss_coef")
    object.__delattr__(nameless.config, "router_aux_loss_coef")
    with raises("model.router-loss", "router_aux_loss_coef"):
        PairScorer(nameless, router_loss="model")


def test_a_pass_that_is_tried_for_its_memory_has_the_router_loss_too(tmp_path: Path) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class OverExperts(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.count += func is torch.ops.aten._softmax_backward_data.default and out.shape[-1] == 4
            return out

    spec = spec_of(tmp_path, dtype="float64", starts_at_reference=False, router_loss=WEIGHT, token_budget=None)
    found = []
    for router_loss in ("off", WEIGHT):
        engine = TorchEngine(spec, PairScorer(made("mixtral"), router_loss=router_loss), CPU)
        data, nothing = Some(wide_pairs()), np.zeros(len(wide_pairs()))
        with OverExperts() as seen:
            budget.choose(spec, engine, Data(data, Reference(nothing, nothing)), ALONE, lambda: None)
        found.append(seen.count)
        (tmp_path / "budget.json").unlink()
        assert not engine.gradient.any()
    assert found[1] == 2 * found[0] > 0  # Mixtral's own, and the loss's
