"""Every row of the table of losses says the truth about its function: whatever row is added, it is tried here."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raised import raises
from ratchet.evaluate.preference import reward_scores
from ratchet.losses.preference import LOSSES, Loss, PairLogps, cpo, likelihood_reward, pair_metrics, preference_loss
from ratchet.pipeline.graph import steps_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import STAGE_KINDS, trains
from ratchet.reference.store import Logps
from ratchet.train import first_step
from ratchet.train.data import open_data
from ratchet.tune.metrics import training_keys
from train_bench import Pairs, spec_of, write_tokens


def options_of(kind: str, **more: Any) -> dict[str, Any]:
    return STAGE_KINDS[kind].settings.model_validate({"kind": kind, "data": ["a"], **more}).model_dump()


def logps_of(policy: tuple[float, float], reference: tuple[float, float], tokens: int = 7) -> PairLogps:
    sides = [torch.tensor([value], dtype=torch.float64) for value in (*policy, *reference)]
    count = torch.tensor([tokens])
    return PairLogps(*sides, count, count)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_kind_reads_the_reference_where_its_row_says_so_and_nowhere_else(kind: str) -> None:
    losses = [
        float(preference_loss(kind, logps_of((-40, -50), reference), options_of(kind)))
        for reference in ((-40.0, -50.0), (-41.0, -50.0), (-40.0, -51.0))
    ]
    assert (len(set(losses)) == 3) is LOSSES[kind].reads_reference
    assert len(set(losses)) in {1, 3}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_kind_starts_where_its_row_says(kind: str) -> None:
    starts = {
        round(float(preference_loss(kind, logps_of(sides, sides), options_of(kind, beta=beta))), 12)
        for sides in ((-40.0, -50.0), (-9.0, -3.0))
        for beta in (0.1, 0.7)
    }
    assert (starts == {round(LOSSES[kind].start or math.nan, 12)}) is (len(starts) == 1)


@pytest.mark.parametrize("kind", [kind for kind, row in LOSSES.items() if row.reads_reference])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_error_of_the_reference_changes_a_pair_s_weight_as_the_gain_says(kind: str, side: str) -> None:
    """The weight is the slope by the rejected answer, which has no kink; an error e changes it by a share gain e/2."""
    options, off = options_of(kind), 1e-6
    gain = LOSSES[kind].gain
    assert gain is not None
    by = gain(options)

    def weight(wrong: tuple[float, float]) -> float:
        logps = logps_of((-40.0, -50.0), (-40.0 + wrong[0], -50.0 + wrong[1]))
        logps.policy_rejected_B.requires_grad_()
        loss = preference_loss(kind, logps, options).sum()
        return float(torch.autograd.grad(loss, logps.policy_rejected_B)[0])

    right, wrong = weight((0, 0)), weight((off, 0) if side == "chosen" else (0, off))
    moved = abs(wrong - right) / abs(right) * (7 if by.per_token else 1)
    assert moved == pytest.approx(getattr(by, side) * off / 2, rel=1e-3)


@pytest.mark.parametrize("kind", LOSSES)
def test_rewards_are_those_of_the_row_in_training_and_in_evaluation(kind: str) -> None:
    policy, reference = (-10.0, -12.0), (-5.0, -12.5)  # the chosen answer is likelier, and fell the more
    row = LOSSES[kind]
    metrics = pair_metrics(kind, logps_of(policy, reference), torch.zeros(1), 0.5)
    own = tuple(row.reward(p, r, 7) for p, r in zip(policy, reference, strict=True))
    assert (own[0] == row.reward(policy[0], 0.0, 7)) is not row.reads_reference
    assert float(metrics["rewards/chosen"]) == pytest.approx(0.5 * own[0])
    assert float(metrics["rewards/rejected"]) == pytest.approx(0.5 * own[1])
    assert float(metrics["rewards/margins"]) == pytest.approx(0.5 * (own[0] - own[1]))
    assert bool(metrics["rewards/accuracies"]) is (own[0] > own[1]) is not row.reads_reference
    assert ("logps/chosen_delta" in metrics) is row.reads_reference
    columns = [np.array([value]) for value in policy], [np.array([value]) for value in reference]
    mine, theirs = (Logps(*sides, *[np.array([7], np.int32)] * 2) for sides in columns)
    found = reward_scores(mine, theirs, row.reward)
    assert (found.accuracy.mean, found.margin.mean) == (float(own[0] > own[1]), pytest.approx(own[0] - own[1]))
    assert found.chosen_delta.mean == pytest.approx(-5.0), "how far an answer moved is the same for all"


def test_cpo_s_reward_is_its_paper_s() -> None:
    """−logσ of the difference of rewards, β logπ(w) − β logπ(l), is the preference term of Eq. 5."""
    logps = logps_of((-10.0, -12.0), (-5.0, -12.5))
    metrics = pair_metrics("cpo", logps, torch.zeros(1), 0.3)
    term = math.log1p(math.exp(-float(metrics["rewards/margins"])))
    assert float(cpo(logps, beta=0.3, nll_weight=0.0)) == pytest.approx(term, rel=1e-12)


def test_simpo_s_reward_is_its_paper_s() -> None:
    """−logσ of the difference of rewards less γ is Eq. 6, in training and on held-out pairs of unequal length."""
    sides = [torch.tensor([value], dtype=torch.float64) for value in (-10.0, -12.0, -5.0, -12.5)]
    logps = PairLogps(*sides, torch.tensor([4]), torch.tensor([8]))
    metrics = pair_metrics("simpo", logps, torch.zeros(1), 2.0)
    assert float(metrics["rewards/margins"]) == pytest.approx(2.0 * (-10 / 4 + 12 / 8))
    assert not bool(metrics["rewards/accuracies"]), "its sum is the greater, and its mean is not"
    term = math.log1p(math.exp(-float(metrics["rewards/margins"]) + 0.5))
    assert float(preference_loss("simpo", logps, options_of("simpo"))) == pytest.approx(term, rel=1e-12)
    mine, theirs = (
        Logps(*(np.array([value]) for value in pair), np.array([4], np.int32), np.array([8], np.int32))
        for pair in ((-10.0, -12.0), (-5.0, -12.5))
    )
    found = reward_scores(mine, theirs, LOSSES["simpo"].reward)
    assert (found.accuracy.mean, found.margin.mean) == (0.0, pytest.approx(-1.0))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_plan_scores_a_reference_where_the_row_says_so(kind: str) -> None:
    stage = {"kind": kind, "data": ["a"]}
    plan = Plan.model_validate(
        {"name": "p", "model": {"path": "m"}, "data": {"a": {"path": "a"}}, "stages": {"s": stage}}
    )
    (step,) = steps_of(plan, "s", ())
    assert (step.reference is not None) is STAGE_KINDS[kind].reads_reference is (LOSSES[kind].gain is not None)
    settings = plan.stages["s"]
    assert trains(settings)
    keys = set(training_keys(plan, settings))
    assert keys >= {"rewards/accuracies", "heldout/accuracy", *STAGE_KINDS[kind].metrics}
    assert ("logps/chosen_delta" in keys) is STAGE_KINDS[kind].reads_reference


def test_a_row_that_lacks_a_column_or_contradicts_itself_does_not_load() -> None:
    whole: dict[str, Any] = {key: getattr(LOSSES["cpo"], key) for key in Loss.__dataclass_fields__}
    assert Loss(**whole) == LOSSES["cpo"]
    for key in whole:
        with pytest.raises(TypeError, match=key):
            Loss(**{name: value for name, value in whole.items() if name != key})
    with pytest.raises(ValueError, match="gain"):
        Loss(**whole | {"reads_reference": True})
    with pytest.raises(ValueError, match="gain"):
        Loss(**whole | {"gain": LOSSES["dpo"].gain})
    with pytest.raises(ValueError, match="reads no reference"):
        Loss(**whole | {"start": math.log(2)})


def test_plans_and_metrics_know_the_kinds_of_the_table() -> None:
    assert {name for name, row in STAGE_KINDS.items() if row.reads_pairs} == set(LOSSES)
    for kind, row in LOSSES.items():
        assert STAGE_KINDS[kind].reads_reference is row.reads_reference
        assert set(row.options) <= set(STAGE_KINDS[kind].settings.model_fields)
        assert set(STAGE_KINDS[kind].metrics) == set(row.metrics)
    assert LOSSES["cpo"].reward is likelihood_reward


@pytest.mark.parametrize("kind", LOSSES)
def test_the_bound_of_the_first_loss_is_met_at_its_worst_and_never_passed(tmp_path: Path, kind: str) -> None:
    spec = spec_of(tmp_path, kind=kind, options=options_of(kind))
    allowed = torch.tensor([0.01, 0.2, 1.0], dtype=torch.float64)
    bound = first_step.loss_bound(spec, allowed)
    random = torch.Generator().manual_seed(0)
    off = (2 * torch.rand((2, 4000, 3), generator=random, dtype=torch.float64) - 1) * allowed
    zero, one = torch.zeros(4000, 3, dtype=torch.float64), torch.ones(4000, 3, dtype=torch.float64)
    there = preference_loss(kind, PairLogps(off[0], off[1], zero, zero, one, one), spec.stage.model_dump())
    start = preference_loss(kind, PairLogps(zero, zero, zero, zero, one, one), spec.stage.model_dump())
    worst = (there - start).abs().amax(0)
    assert (worst <= bound + 1e-12).all() and (worst >= 0.9 * bound).all()


def test_an_unknown_kind_is_an_error_wherever_it_is_asked_about(tmp_path: Path) -> None:
    logps = logps_of((-1, -2), (-1, -2))
    known = spec_of(tmp_path)
    spec = dataclasses.replace(known, stage=known.stage.model_copy(update={"kind": "sppo"}))
    write_tokens(tmp_path / "t.arrow", Pairs(4))
    asked = [
        lambda: preference_loss("sppo", logps, {"beta": 0.1}),
        lambda: pair_metrics("sppo", logps, torch.zeros(1), 0.1),
        lambda: first_step.loss_bound(spec, torch.ones(1)),
        lambda: first_step.check(spec, first_step.Figures(), 0.6931, 1),
        lambda: open_data(dataclasses.replace(spec, tokens=(str(tmp_path / "t.arrow"),), shares=(1.0,))),
    ]
    for ask in asked:
        with raises("plan.kind", "sppo"):
            ask()
