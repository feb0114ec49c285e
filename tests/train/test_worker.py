"""A worker from the spec to the published model, with the plain engine: no Ray, no DeepSpeed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nightly import nightly
from raised import raises
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import load_model
from ratchet.plan.training import Checkpoint, Lora
from ratchet.train.communicate import Alone
from ratchet.train.data import count_steps
from ratchet.train.engine import TorchEngine
from ratchet.train.notice import Ended, Notice, write_notice
from ratchet.train.spec import MODEL, TrainSpec
from train_bench import (
    CPU,
    Pairs,
    reference_of,
    spec_of,
    tiny_model,
    train_whole,
    write_inputs,
    write_logps,
    write_tokens,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def go(spec: TrainSpec) -> dict[str, Any]:
    outcome = train_whole(spec, Alone(), CPU, TorchEngine)
    assert json.loads(json.dumps(outcome)) == outcome
    return outcome


def scores(folder: Path, pairs: Pairs) -> list[float]:
    with torch.no_grad():
        return score(PairScorer(load_model(folder, "float32")), pairs.rows, CPU).chosen_B.tolist()


def test_a_step_makes_a_model_that_prefers_the_chosen(tmp_path: Path, inputs: dict[str, Any]) -> None:
    outcome = go(spec_of(tmp_path, **inputs))
    assert outcome["counts"] == {"steps": 12, "pairs_seen": 88, "pairs": 22, "epochs": 4, "of_file": [22]}
    assert outcome["published"]["difference_nats"] <= outcome["published"]["allowed_nats"] < 1e-3
    assert outcome["first"]["loss"] == pytest.approx(np.log(2), abs=outcome["first"]["loss_tolerance"])
    assert outcome["metrics"]["loss"] < 0.02
    card = (tmp_path / "model/README.md").read_text()
    assert "| kind | dpo |" in card and str(tmp_path) not in card
    trained, start = scores(tmp_path / "model", Pairs(22)), scores(Path(inputs["model"]), Pairs(22))
    assert sum(trained) > sum(start)


def test_a_worker_reads_the_step_s_notice_and_the_sweep_s_stop_file(tmp_path: Path, inputs: dict[str, Any]) -> None:
    stop = tmp_path / "stop.json"
    stop.write_text("{}")
    with pytest.raises(Ended) as ended:
        go(spec_of(tmp_path / "dropped", stop_file=str(stop), **inputs))
    assert (ended.value.notice.kind, ended.value.step) == ("drop", 1)
    (tmp_path / "stopped").mkdir()
    write_notice(tmp_path / "stopped", Notice("stop", "enough"))
    with pytest.raises(Ended) as ended:
        go(spec_of(tmp_path / "stopped", **inputs))
    assert (ended.value.notice, ended.value.step) == (Notice("stop", "enough"), 1)


def test_going_on_after_the_end_only_publishes(tmp_path: Path, inputs: dict[str, Any]) -> None:
    first = go(spec_of(tmp_path, **inputs))
    before = (tmp_path / "model/model.safetensors").read_bytes()
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    (tmp_path / "model").rmdir()
    (tmp_path / ".model.0a1b2c3d").mkdir()  # of a worker that was killed while it published
    again = go(spec_of(tmp_path, **inputs))
    assert again["resumed_from"] == 12
    assert again["metrics"] == first["metrics"] and again["first"] == first["first"]
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_the_best_step_is_published(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """A rate that overfits: the best is not the last, and what is published is what training to there gives."""
    changes: dict[str, Any] = {"epochs": 8, "learning_rate": 2e-2, "schedule": "constant", **inputs}
    best = Checkpoint(every=2, keep=1, publish="best")
    outcome = go(spec_of(tmp_path / "best", checkpoint=best, **changes))
    lines = [json.loads(line) for line in (tmp_path / "best/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["heldout/loss"] for line in lines if "heldout/loss" in line}
    step = min(losses, key=lambda at: losses[at])
    assert outcome["published"]["step"] == step < 24
    go(spec_of(tmp_path / "upto", max_steps=step, **changes))
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("best", "upto")]
    assert weights[0] == weights[1]


def test_adapters_are_merged_and_kept_beside(tmp_path: Path, inputs: dict[str, Any]) -> None:
    lora = Lora(rank=4, alpha=16.0, dropout=0.1, targets=("q_proj", "down_proj"))
    outcome = go(spec_of(tmp_path, lora=lora, learning_rate=2e-2, **inputs))
    assert outcome["metrics"]["loss"] < 0.5
    assert outcome["published"]["difference_nats"] <= outcome["published"]["allowed_nats"]
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    start, model = load_model(Path(inputs["model"]), "float32"), load_model(tmp_path / "model", "float32")
    changed = {
        name
        for (name, old), (_, new) in zip(start.named_parameters(), model.named_parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed and all("q_proj" in name or "down_proj" in name for name in changed)


def test_recomputation_changes_no_bit(tmp_path: Path, inputs: dict[str, Any]) -> None:
    for name, on in (("plain", False), ("again", True)):
        go(spec_of(tmp_path / name, gradient_checkpointing=on, max_steps=3, **inputs))
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("plain", "again")]
    assert weights[0] == weights[1]


def test_a_part_of_the_table_is_trained_on(tmp_path: Path, inputs: dict[str, Any]) -> None:
    np.save(tmp_path / "rows.npy", np.array([3, 5, 8, 13, 21]))
    spec = spec_of(tmp_path / "run", rows=str(tmp_path / "rows.npy"), epochs=2, **inputs)
    assert go(spec)["counts"] == {"steps": 2, "pairs_seen": 10, "pairs": 5, "epochs": 2, "of_file": [5]}
    assert count_steps(spec) == 2
    np.save(tmp_path / "rows.npy", np.array([3, 22]))
    with raises("data", "22"):
        go(dataclasses.replace(spec, folder=str(tmp_path / "other")))


def test_cpo_needs_no_reference_and_sft_no_rejected(tmp_path: Path, inputs: dict[str, Any]) -> None:
    bare = {**inputs, "references": (), "heldout_references": (), "starts_at_reference": False, "max_steps": 2}
    go(spec_of(tmp_path / "cpo", kind="cpo", **bare))
    write_tokens(tmp_path / "demonstrations.arrow", Pairs(12, seed=3, demonstrations=True))
    bare |= {"tokens": (str(tmp_path / "demonstrations.arrow"),), "heldout_tokens": ()}
    outcome = go(spec_of(tmp_path / "sft", kind="sft", options={}, **bare))
    assert outcome["published"]["difference_nats"] == 0.0
    with raises("data.one-sided"):
        go(spec_of(tmp_path / "dpo", **bare))
    with raises("data.unscored"):
        go(spec_of(tmp_path / "dpo", **{**bare, "tokens": inputs["tokens"]}))


def test_a_reference_of_other_weights_stops_before_any_update(tmp_path: Path, inputs: dict[str, Any]) -> None:
    write_logps(tmp_path / "stale", Pairs(22), reference_of(tiny_model(1), Pairs(22)))
    with raises("training.first-step"):
        go(spec_of(tmp_path / "run", **{**inputs, "references": (str(tmp_path / "stale"),)}))
    assert not list((tmp_path / "run/checkpoints").glob("step-*")) and not (tmp_path / "run/model").exists()


@pytest.mark.parametrize(
    ("steps", "warmup", "told"),
    nightly([(1, 0.1, True), (2, 0.9, True), (2, 0.5, False), (1, 0, False)], lambda steps, warmup, told: steps == 2),
)
def test_a_stage_that_is_all_warm_up_says_so_and_yet_trains(
    tmp_path: Path, inputs: dict[str, Any], caplog: Any, steps: int, warmup: float, told: bool
) -> None:
    go(spec_of(tmp_path, max_steps=steps, warmup=warmup, **inputs))
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [f"align has {steps} step" in line and "never falls" in line for line in lines] == [True] * told
    before, after = (load_file(folder / "model.safetensors") for folder in (Path(inputs["model"]), tmp_path / "model"))
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_nothing_to_train_on_is_an_error(tmp_path: Path, inputs: dict[str, Any]) -> None:
    np.save(tmp_path / "rows.npy", np.zeros(0, np.int64))
    with raises("training.no-pairs"):
        go(spec_of(tmp_path / "run", rows=str(tmp_path / "rows.npy"), **inputs))


def test_another_cluster_does_not_go_on_silently(tmp_path: Path, inputs: dict[str, Any]) -> None:
    go(spec_of(tmp_path, max_steps=2, **inputs))

    class Other(TorchEngine):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.layout = {"engine": "other"}

    with raises("run.other-engine", "engine torch → other"):
        train_whole(spec_of(tmp_path, **inputs), Alone(), CPU, Other)


def test_weights_that_do_not_score_as_trained_are_not_published(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lossy(TorchEngine):
        def weights(self) -> dict[str, torch.Tensor] | None:
            found = super().weights()
            assert found is not None
            return {name: tensor * 1.01 for name, tensor in found.items()}

    with raises("model.unlike-trained"):
        train_whole(spec_of(tmp_path, max_steps=2, **inputs), Alone(), CPU, Lossy)
    assert not (tmp_path / MODEL).exists()


@pytest.mark.parametrize("lora", nightly([None, Lora(rank=4, alpha=16.0)], bool))
def test_in_bfloat16_too_what_is_published_scores_as_trained(tmp_path: Path, lora: Lora | None) -> None:
    """By what the engine itself does to the same pairs in two layouts; adapters before they are merged."""

    class Lossy(TorchEngine):
        def weights(self) -> dict[str, torch.Tensor] | None:
            found = super().weights()
            assert found is not None
            return {name: tensor * 1.03 for name, tensor in found.items()}

    changes = write_inputs(tmp_path, torch.bfloat16) | {"dtype": "bfloat16", "lora": lora, "learning_rate": 2e-2}
    published = go(spec_of(tmp_path / "right", max_steps=3, **changes))["published"]
    assert published["difference_nats"] <= published["allowed_nats"] < 0.2
    with raises("model.unlike-trained"):
        train_whole(spec_of(tmp_path / "wrong", max_steps=3, **changes), Alone(), CPU, Lossy)
