"""The router loss on Ray: the same step by ZeRO 0 to 3, on several workers, with activations computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from train_bench import CPU, SIZES, lines_of, train_whole, write_inputs
from train_ray_bench import CALM, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Inputs of a step whose model has experts; its reference is another model's."""
    root = tmp_path_factory.mktemp("routed")
    torch.manual_seed(4)
    config = MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    MixtralForCausalLM(config).save_pretrained(root / "experts")
    changes = {"model": str(root / "experts"), "starts_at_reference": False, "router_loss": 0.5, "epochs": 1}
    return {**write_inputs(root), **CALM, **changes}


@pytest.fixture(scope="module")
def plain(routed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("plain")
    train_whole(spec_at(folder, routed), Alone(), CPU, TorchEngine)
    return lines_of(folder)


@pytest.mark.parametrize(("zero", "recompute"), [(0, False), (1, True), (2, False), (3, False), (3, True)])
def test_the_cluster_changes_no_router_loss(
    session: None, routed: dict[str, Any], plain: list[dict[str, Any]], tmp_path: Path, zero: int, recompute: bool
) -> None:
    go(spec_at(tmp_path, {**routed, "gradient_checkpointing": recompute}, zero=zero, workers=2))
    for line, other in zip(lines_of(tmp_path), plain, strict=True):
        for key in ("loss", "router/loss", "grad_norm"):
            assert line[key] == pytest.approx(other[key], rel=1e-4 if key == "grad_norm" else 1e-5), key
        assert line["experts/most"] == pytest.approx(other["experts/most"], abs=0.02)
