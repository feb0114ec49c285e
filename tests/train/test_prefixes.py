"""A prompt that stays across passes, through the loop: what a step's gradient, loss and random numbers are then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nightly import nightly
from prefix_run import TENTH, WHOLE, Worker, accumulated, by_workers, hundred_answers
from ratchet.model.divide import divide_units, units
from ratchet.model.forward import PairScorer
from ratchet.plan.training import Lora
from ratchet.reference.rate import score_rows
from ratchet.train import first_step
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.gathered import add_adapters
from ratchet.train.objective import Data, Work, heldout_metrics, pass_over_prompt
from ratchet.train.scorer import recompute_activations
from ratchet.train.spec import TrainSpec
from tiny_models import exact_norms
from train_bench import CPU, changed, reference_of, spec_of, tiny_model

pytestmark = pytest.mark.heavy

STRAIGHT = {"epsilon": 1e4, "learning_rate": 1e3, "weight_decay": 0.0, "clip": None, "warmup": 0.0}
"""As in `test_precision`: AdamW's first update is then the gradient times 0.1."""


@pytest.fixture(scope="module")
def data() -> Data:
    return hundred_answers()


def step_of(
    spec: TrainSpec, data: Data, dtype: torch.dtype, *, world: int = 1, recompute: bool = False
) -> tuple[float, Tensor, list[list[Work]]]:
    """The loss and the gradient of one batch of all pairs over all workers; and their passes."""
    total, loss, passes = torch.zeros(()), 0.0, []
    for rank in range(world):
        model: Any = tiny_model(dtype=dtype)
        if dtype == torch.float64:
            model = exact_norms(model)
        if recompute:
            recompute_activations(model)
        if spec.stage.lora is not None:
            model = add_adapters(model, spec.stage.lora, 0)
            model, draw = model.to(dtype), torch.Generator().manual_seed(7)
            for name, weight in model.named_parameters():  # adapters begin at 0: nothing would come through them
                if "lora_B" in name:
                    weight.data = 0.3 * torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
        torch.manual_seed(11)
        engine = TorchEngine(spec, PairScorer(model).train(), CPU)
        works, tally = accumulated(spec, engine, data, Worker(rank, world))
        total = total + engine.gradient.double()
        loss += float(tally.sums[tally.names.index("loss")])
        passes.append(works)
    return loss, total, passes


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.06)], ids=str
)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_hundred_answers_in_a_tenth_of_their_tokens_give_the_same_step(
    tmp_path: Path, data: Data, dtype: torch.dtype, allowed: float, recompute: bool
) -> None:
    spec = spec_of(tmp_path, starts_at_reference=False, clip=None, token_budget=WHOLE)
    loss, gradient, ((whole,),) = step_of(spec, data, torch.float64)
    assert whole.batch.computed > 9 * TENTH
    found, parts, (works,) = step_of(changed(spec, token_budget=TENTH), data, dtype, recompute=recompute)
    assert found == pytest.approx(loss, rel=allowed)
    assert float((parts - gradient).norm() / gradient.norm()) < allowed
    # No pass computes more at a time with a graph, and together they compute the prompt twice, and answers once.
    assert max(work.batch.computed for work in works) <= TENTH
    scored = [work for work in works if work.role == "score"]
    lengths_N3 = data.table.lengths_N3  # the prompt of the last pair is too short to be shared
    answers = int(lengths_N3[:50, 1:].sum() + lengths_N3[50].sum() + lengths_N3[50, 0])
    assert sum(work.batch.computed for work in works) <= 2 * 39 + len(scored) + answers
    again = divide_units(
        units(data.table.__getitem__, np.arange(51), PairScorer(tiny_model()).packing, TENTH), 1, TENTH
    )
    assert sum(micro.cost for micro in again[0]) > 2.5 * sum(work.batch.computed for work in works)


def test_bfloat16_is_no_further_off_than_with_the_prompt_in_each_pass(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, starts_at_reference=False, clip=None, token_budget=TENTH)
    _, exact, _ = step_of(spec, data, torch.float64)
    _, kept, _ = step_of(spec, data, torch.bfloat16)
    monkeypatch.setattr("ratchet.model.passes.PAYS", 0.0)
    _, again, (works,) = step_of(spec, data, torch.bfloat16)
    assert {work.role for work in works} == {"score"}
    assert float((kept - exact).norm()) < 1.2 * float((again - exact).norm())


@pytest.mark.parametrize("world", [2, 3])
def test_workers_share_a_prompt_and_their_gradients_add_up(tmp_path: Path, data: Data, world: int) -> None:
    spec = spec_of(tmp_path, starts_at_reference=False, clip=None, token_budget=WHOLE)
    loss, gradient, _ = step_of(spec, data, torch.float32)
    several = changed(spec, token_budget=TENTH, workers=world)
    found, parts, passes = step_of(several, data, torch.float32, world=world)
    assert found == pytest.approx(loss, rel=1e-6)
    assert float((parts - gradient).norm() / gradient.norm()) < 1e-6
    assert len({tuple(work.role == "keep" for work in works) for works in passes}) == 1
    assert all(sum(work.role == "score" and work.weight > 0 for work in works) > 2 for works in passes)


LORA = Lora(rank=2, alpha=4, targets=("q_proj", "v_proj", "down_proj"))


def test_the_gradient_of_adapters(tmp_path: Path, data: Data) -> None:
    spec = spec_of(tmp_path, starts_at_reference=False, clip=None, token_budget=WHOLE, lora=LORA)
    loss, gradient, _ = step_of(spec, data, torch.float64)
    found, parts, _ = step_of(changed(spec, token_budget=TENTH), data, torch.float64)
    assert found == pytest.approx(loss, rel=1e-12) and gradient.norm() > 0
    assert float((parts - gradient).norm() / gradient.norm()) < 1e-12


def test_a_prompt_is_computed_again_with_the_same_dropout(tmp_path: Path, data: Data) -> None:
    """Its last pass must differentiate what its answers saw."""
    spec = spec_of(tmp_path, starts_at_reference=False, token_budget=TENTH)
    model: Any = add_adapters(tiny_model(), LORA.model_copy(update={"dropout": 0.5}), 0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    engine, seen = TorchEngine(spec, PairScorer(model).train(), CPU), []
    values = model.get_base_model().model.layers[1].self_attn.v_proj
    with values.register_forward_hook(lambda _module, _given, made: seen.append(made.detach().clone())):
        works, _ = accumulated(spec, engine, data, Alone())
    roles = [work.role for work in works]
    assert len(seen) == len(works) and roles.count("keep") == roles.count("return") == 1
    assert torch.equal(seen[roles.index("keep")], seen[roles.index("return")])
    engine.train(False)
    with values.register_forward_hook(lambda _module, _given, made: seen.append(made.detach().clone())):
        pass_over_prompt(engine, works[0], last=False)
    assert not torch.equal(seen[0], seen[-1])


def test_what_is_forward_alone_keeps_prompts_too(tmp_path: Path, data: Data) -> None:
    spec = spec_of(tmp_path, token_budget=WHOLE)
    scorer = PairScorer(tiny_model(1)).eval()
    assert data.reference is not None
    found = score_rows(scorer, data.table, np.arange(51), TENTH, "cpu")  # type: ignore[arg-type]
    np.testing.assert_allclose(found.chosen, data.reference.chosen_N, rtol=2e-6)
    np.testing.assert_allclose(found.rejected, data.reference.rejected_N, rtol=2e-6)
    engine = TorchEngine(spec, PairScorer(tiny_model()), CPU)
    held = [heldout_metrics(spec, engine, data, budget, Alone()) for budget in (WHOLE, TENTH)]
    assert held[1] == pytest.approx(held[0], rel=1e-6)


def test_the_first_step_is_checked_all_the_same(tmp_path: Path, data: Data) -> None:
    own = Data(data.table, reference_of(tiny_model(), data.table))
    spec = spec_of(tmp_path, token_budget=TENTH)
    works, tally = accumulated(spec, TorchEngine(spec, PairScorer(tiny_model()).train(), CPU), own, Alone(), step=1)
    assert works[0].role == "keep"
    loss = float(tally.sums[tally.names.index("loss")]) / 51
    checked = first_step.check(spec, tally.first, loss, 51)
    assert checked.answers == 102 and checked.noise > 0


@pytest.mark.parametrize("zeros", nightly([((3,),), ((0, 1, 2),)], lambda zeros: 3 in zeros))
def test_engines_of_two_workers_make_the_step_of_one(tmp_path: Path, zeros: tuple[int, ...]) -> None:
    """Under ZeRO each pass gathers weights and adds up gradients: workers out of step would end, or add up wrongly."""
    ask = lambda zero, budget, recompute: {  # noqa: E731
        "zero": zero,
        "budget": budget,
        "recompute": recompute,
        "changes": STRAIGHT,
        "folder": str(tmp_path),
    }
    (one,), *_ = by_workers(tmp_path, [ask(0, WHOLE, False)], 1)
    runs = [ask(zero, TENTH, zero == max(zeros)) for zero in zeros]
    both = by_workers(tmp_path, runs, 2)
    for zero, first, second in zip(zeros, *both, strict=True):
        assert first["roles"][0] == "keep" and first["roles"].count("return") == 1, zero
        assert first["loss"] + second["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert first["norm"] == pytest.approx(one["norm"], rel=1e-5), zero
        assert float((first["moved"] - one["moved"]).norm() / one["moved"].norm()) < 1e-5, zero
