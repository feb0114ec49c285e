"""What a step gained is told as it was trained and as it was published, and a loss comes with its remedy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ratchet.model.forward import SideScores
from ratchet.model.load import load_model
from ratchet.plan.training import Lora
from ratchet.train.communicate import Alone
from ratchet.train.effect import effect_of, sample_of
from ratchet.train.engine import TorchEngine
from ratchet.train.objective import Data
from ratchet.train.spec import TrainSpec
from train_bench import CPU, Pairs, reference_of, spec_of, tiny_model, train_whole, write_inputs

pytestmark = pytest.mark.heavy

LORA = Lora(rank=4, alpha=8.0)
HELD = Pairs(9, seed=5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("inputs")
    for dtype in ("float32", "bfloat16"):
        (root / dtype).mkdir()
    return {dtype: write_inputs(root / dtype, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}


def effect(spec: TrainSpec) -> dict[str, Any]:
    found: dict[str, Any] = train_whole(spec, Alone(), CPU, TorchEngine)["published"]["effect"]
    return found


def by_another_way(folder: Path, start: Path, dtype: str) -> tuple[float, float]:
    """Margin and chosen log-probability of a folder, each answer alone, in that folder's precision."""
    after, before = (reference_of(load_model(one, dtype), HELD) for one in (folder, start))
    margins = (after.chosen_N - before.chosen_N) - (after.rejected_N - before.rejected_N)
    return float(margins.mean()), float(after.chosen_N.mean())


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_effect_is_that_of_the_published_folder(
    tmp_path: Path, inputs: dict[str, dict[str, Any]], caplog: pytest.LogCaptureFixture, lora: Lora | None
) -> None:
    found = effect(spec_of(tmp_path, lora=lora, token_budget=1000, **inputs["float32"]))
    margin, chosen = by_another_way(tmp_path / "model", Path(inputs["float32"]["model"]), "float32")
    assert found["of"] == "held-out pairs" and found["pairs"] == 9
    assert found["margin_published"] == pytest.approx(margin, abs=1e-4)
    assert found["chosen_published"] == pytest.approx(chosen, abs=1e-4)
    assert found["margin_trained"] == pytest.approx(margin, abs=1e-4)
    assert abs(margin) > 0.01 and found["kept"] == pytest.approx(1.0, abs=1e-3)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_below_float32_adapters_and_their_merge_are_told_apart(
    tmp_path: Path, inputs: dict[str, dict[str, Any]]
) -> None:
    """Adapters so small that the sum with a weight in bfloat16 is mostly that weight again."""
    changes = {
        "dtype": "bfloat16",
        "lora": LORA,
        "learning_rate": 3e-4,
        "schedule": "constant",
        "epochs": 1,
        "token_budget": 1000,
    }
    found = effect(spec_of(tmp_path / "lora", **changes, **inputs["bfloat16"]))
    margin, chosen = by_another_way(tmp_path / "lora/model", Path(inputs["bfloat16"]["model"]), "bfloat16")
    assert found["margin_published"] == pytest.approx(margin, abs=0.05)
    assert found["chosen_published"] == pytest.approx(chosen, abs=0.2)
    assert found["kept"] == pytest.approx(found["margin_published"] / found["margin_trained"])
    assert found["margin_published"] != found["margin_trained"]
    full = effect(spec_of(tmp_path / "full", **{**changes, "lora": None}, **inputs["bfloat16"]))
    assert full["kept"] == 1.0 and full["margin_trained"] == full["margin_published"]


def scores(chosen: list[float], rejected: list[float]) -> SideScores:
    ones = torch.ones(len(chosen))
    return SideScores(torch.tensor(chosen), torch.tensor(rejected), ones, ones)


def sample(spec: TrainSpec, held: bool = True) -> Any:
    table = Pairs(4)
    data = Data(table, reference_of(tiny_model(), table))
    return sample_of(spec, data, data if held else None)


def test_a_loss_is_warned_of_where_it_is_no_chance(caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(Path("unused"), dtype="bfloat16", lora=LORA)
    one = sample(spec)
    before = one.reference_2B
    trained = scores((before[0] + torch.tensor([1.0, 1.2, 0.8, 1.0])).tolist(), (before[1] - 1.0).tolist())
    kept = scores((before[0] + torch.tensor([1.0, 1.2, 0.8, 1.0]) * 0.96).tolist(), (before[1] - 0.96).tolist())
    assert effect_of(spec, one, trained, kept, None)["kept"] == pytest.approx(0.96, abs=1e-5)
    assert not caplog.records
    lost = scores((before[0] + torch.tensor([1.0, 1.2, 0.8, 1.0]) * 0.58).tolist(), (before[1] - 0.58).tolist())
    found = effect_of(spec, one, trained, lost, None)
    assert (found["margin_trained"], found["margin_published"]) == pytest.approx((2.0, 1.16), abs=1e-4)
    assert found["lost"] is True
    said = caplog.text
    assert "keeps 58 % of what was trained: the margin over 4 held-out pairs is 2 nats as trained and 1.16" in said
    assert "set model.dtype: float32, or serve the adapter in align/adapter" in said
    caplog.clear()
    noisy = scores((before[0] + torch.tensor([3.0, -1.5, 3.0, -1.0])).tolist(), (before[1] - 0.7).tolist())
    found = effect_of(spec, one, trained, noisy, None)
    assert found["kept"] < 0.95 and found["lost"] is False
    assert not caplog.records  # four pairs that differ so much tell nothing


def test_sft_is_held_against_its_start(caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(Path("unused"), kind="sft", options={}, dtype="bfloat16", lora=LORA)
    table = Pairs(4)
    one = sample_of(spec, Data(table, None), None)
    assert one.of == "pairs of the last training batch" and one.reference_2B is None
    start = scores([-9.0, -8.0, -7.0, -6.0], [0.0] * 4)
    trained, half = scores([-7.0, -6.0, -5.0, -4.0], [0.0] * 4), scores([-8.0, -7.0, -6.0, -5.0], [0.0] * 4)
    found = effect_of(spec, one, trained, half, start)
    assert found["margin_trained"] is None and found["kept"] == pytest.approx(0.5)
    assert (found["chosen_trained"], found["chosen_published"]) == (-5.5, -6.5)
    assert "the gain of the chosen answers over 4 pairs of the last training batch is 2 nats" in caplog.text
    assert effect_of(spec, one, start, start, start)["kept"] == 1.0  # nothing was gained, and nothing lost
    tiny = scores([-9.0 + 1e-5, -8.0, -7.0, -6.0], [0.0] * 4)
    assert effect_of(spec, one, tiny, start, start)["kept"] is None


def test_pairs_are_as_many_as_one_pass_holds() -> None:
    spec = spec_of(Path("unused"), token_budget=100)
    found = sample_of(spec, Data(Pairs(2), None), Data(Pairs(200), None))
    tokens = [2 * len(one.prompt) + len(one.chosen) + len(one.rejected) for one in found.pairs]
    assert sum(tokens[:-1]) <= 100 < sum(tokens)
    few = sample_of(spec_of(Path("unused"), token_budget=1), Data(Pairs(2), None), Data(Pairs(200), None))
    assert len(few.pairs) == 4
    none = sample_of(spec_of(Path("unused"), token_budget=10**6), Data(Pairs(22), None), None)
    assert len(none.pairs) == 6  # the last batch of 22 in eights
    rows = {pair.pair_id for pair in none.pairs}
    assert rows < set(Pairs(22).pair_ids) and np.isfinite(len(rows))
