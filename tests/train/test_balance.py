"""The router loss of a step against transformers' own, and the load of experts against tokens routed alone."""

from __future__ import annotations

import copy
import json
import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    DeepseekV3Config,
    Ernie4_5_MoeConfig,
    FlexOlmoConfig,
    GptOssConfig,
    GraniteMoeConfig,
    JambaConfig,
    JetMoeConfig,
    MiniMaxM2Config,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from raised import raises
from ratchet.model.batch import PADDED, Packing, collate
from ratchet.model.forward import PairScorer
from ratchet.model.lora import add_lora
from ratchet.model.router_loss import check_router_loss
from ratchet.model.routing import load_metrics
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.training import Lora
from ratchet.train.batches import GlobalBatch
from ratchet.train.communicate import Alone, Communicator
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, agree_on, works_of
from ratchet.train.objective import Data, Reference
from tiny_models import ENDS, GROUPED, SMALL, exact_norms, family_of_pairs, tiny
from train_bench import CPU, Pairs, spec_of

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
CONFIGS: dict[str, Any] = {
    "ernie": Ernie4_5_MoeConfig(
        **GROUPED, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1
    ),
    "flex-olmo": FlexOlmoConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "gpt-oss": GptOssConfig(**GROUPED, **EXPERTS, head_dim=8, sliding_window=64),
    "granite": GraniteMoeConfig(**GROUPED, **EXPERTS),
    "jamba": JambaConfig(
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "jetmoe": JetMoeConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, kv_channels=4, intermediate_size=24, **EXPERTS, **ENDS
    ),
    "minimax-m2": MiniMaxM2Config(**GROUPED, **EXPERTS, head_dim=8, rotary_dim=4),
    "mixtral": MixtralConfig(**GROUPED, **EXPERTS, sliding_window=None),
    "olmoe": OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "phimoe": PhimoeConfig(**GROUPED, **EXPERTS, sliding_window=None),
    "qwen2-moe": Qwen2MoeConfig(**GROUPED, **MOE, shared_expert_intermediate_size=16),
    "qwen3-moe": Qwen3MoeConfig(**GROUPED, **MOE, head_dim=8),
}
WEIGHT = 0.3
ALONE = Alone()


def made(family: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(2)
    config = copy.deepcopy(CONFIGS[family])
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, experts_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "A_log" not in name:
                weight.normal_(std=0.3)
    return exact_norms(model) if dtype == torch.float64 else model


def sequences(pairs: list[TokenisedPair]) -> list[torch.Tensor]:
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected) if len(side)]
    return [torch.tensor(np.concatenate(side)[None].astype(np.int64)) for side in sides]


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


def loads(scorer: PairScorer, pairs: list[TokenisedPair], packing: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        scorer(collate(pairs, packing))
    return scorer.routers.take().chosen


@pytest.mark.parametrize("family", ["jamba", "mixtral"])
def test_rows_of_a_pass_are_routed_as_alone_and_padding_is_counted_nowhere(family: str) -> None:
    """Experts as chosen by transformers for each sequence alone, against forests and padded rows."""
    model, pairs = made(family), family_of_pairs()
    each = [model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits for ids in sequences(pairs)]
    wanted = [
        torch.bincount(torch.cat([part.topk(2, -1).indices.flatten() for part in layer]), minlength=4).double()
        for layer in zip(*each, strict=True)
    ]
    scorer = PairScorer(model).eval()
    assert (scorer.packing.why_padded is None) == (family == "mixtral")
    packings = [PADDED] + [replace(Packing(one), whole=True) for one in ("auto", "none") if family == "mixtral"]
    for packing in packings:
        found = loads(scorer, pairs, packing)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True)), packing
    assert sum(float(one.sum()) for one in wanted) == len(wanted) * 2 * sum(ids.shape[1] for ids in sequences(pairs))


def test_a_last_layer_that_computes_scored_rows_alone_counts_those(tmp_path: Path) -> None:
    scorer, pairs = PairScorer(made("mixtral")).eval(), family_of_pairs()
    first, last = loads(scorer, pairs, scorer.packing)
    batch = collate(pairs, scorer.packing)
    assert batch.plan is not None and batch.plan.scored_K is not None
    assert float(first.sum()) == 2 * float(batch.times_RT.sum())
    assert float(last.sum()) == 2 * float(batch.times_RT[0, batch.plan.scored_K].sum()) < float(first.sum())


@pytest.mark.parametrize("layout", ["auto", "none"])
def test_a_row_stands_for_as_many_tokens_as_sequences_have_it(layout: Any) -> None:
    pairs = family_of_pairs()
    times_RT = collate(pairs, Packing(layout)).times_RT
    assert int(times_RT.sum()) == sum(ids.shape[1] for ids in sequences(pairs))
    assert (int(times_RT.max()) > 1) == (layout == "auto") and int(times_RT.min()) == 1


def test_a_family_without_a_router_loss_is_refused_and_its_load_is_known_all_the_same() -> None:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        **SMALL, **ENDS, **LATENT, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=16, first_k_dense_replace=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with raises("model.router-loss", "balance by a bias"):
        PairScorer(model, router_loss=0.1)
    with torch.no_grad():  # so that the bias decides: an expert that probability alone would not choose
        model.model.layers[1].mlp.gate.e_score_correction_bias[3] = 9.0
    scorer, pairs = PairScorer(model).eval(), family_of_pairs()
    (found,) = loads(scorer, pairs, replace(scorer.packing, whole=True))
    assert scorer.routers.places == [1] and float(found[3]) == float(found.sum()) / 2
    with raises("model.router-loss", "no routers"):
        PairScorer(tiny("llama"), router_loss="model")


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


def test_a_router_with_an_adapter_is_heard_with_it(tmp_path: Path) -> None:
    model = add_lora(made("jamba", torch.float32), Lora(rank=2, targets=("router",)))
    scorer, pairs = PairScorer(model).eval(), family_of_pairs()
    before = loads(scorer, pairs, PADDED)[0]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=5.0)
    after = loads(scorer, pairs, PADDED)[0]
    assert before.sum() == after.sum() and not torch.equal(before, after)


def test_load_metrics_by_hand() -> None:
    found = load_metrics([1, 3], [torch.tensor([6.0, 2.0, 0.0, 0.0]), torch.tensor([2.0, 2.0, 2.0, 2.0])])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert found == {
        "experts/most": 0.75,
        "experts/least": 0.0,
        "experts/peak": 3.0,
        "experts/entropy": pytest.approx((entropy + 1) / 2),
        "experts/dead": 2.0,
        "experts/peak/1": 3.0,
        "experts/peak/3": 1.0,
    }
    assert load_metrics([], []) == {}
