"""DeepSpeed goes on after any step: to the bit with as many workers, and on the same pairs with fewer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from ratchet.plan.training import Checkpoint
from train_bench import Pairs, lines_of, reference_of, tiny_model, write_inputs, write_logps
from train_ray_bench import CALM, assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
DPOP = {"kind": "dpop", "options": {"beta": 0.5, "penalty": 5.0}}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Inputs of each kind of step; `stepwise` refers to another model than the one that it starts from."""
    root = tmp_path_factory.mktemp("inputs")
    plain = write_inputs(root)
    for name, pairs in (("other", Pairs(22)), ("other-heldout", Pairs(9, seed=5))):
        write_logps(root / name, pairs, reference_of(tiny_model(1), pairs))
    other = {"references": (str(root / "other"),), "heldout_references": (str(root / "other-heldout"),)}
    return {
        "dpo": plain | CALM | {"weight_decay": 0.1},
        "dpop": plain | DPOP,
        "stepwise": plain | DPOP | other | {"starts_at_reference": False},
    }


@pytest.mark.parametrize("kind", ["dpo", "dpop", "stepwise"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_going_on_after_a_random_step_is_the_uninterrupted_run(
    session: None, kinds: dict[str, dict[str, Any]], tmp_path: Path, zero: int, kind: str
) -> None:
    every = Checkpoint(every=1, keep=99)
    base = spec_at(tmp_path / "base", kinds[kind], zero=zero, workers=2, checkpoint=every)
    go(base)
    step = random.Random(f"{zero} {kind}").randrange(1, 12)
    sizes = {2: "same"} | ({1: "fewer"} if kind == "dpo" else {})
    for workers, name in sizes.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "base", folder)
        shutil.rmtree(folder / "model")
        for path in folder.glob("checkpoints/step-*"):
            if int(path.name[5:]) > step:
                shutil.rmtree(path)
        result = go(spec_at(folder, kinds[kind], zero=zero, workers=workers, checkpoint=every))
        assert (result.resumed_from, result.workers) == (step, workers)
        if workers == 2:
            assert_same_end(folder, tmp_path / "base")
            continue
        assert (folder / "ledger.jsonl").read_bytes() == (tmp_path / "base/ledger.jsonl").read_bytes()
        losses = [[line["loss"] for line in lines_of(one)] for one in (folder, tmp_path / "base")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
