"""A rehearsal before the first step: what would fail at publishing fails there, by name, and once for each kind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM
from transformers import modeling_utils as saving

from raised import raises
from ratchet.plan.training import Lora
from ratchet.store.layout import Layout
from ratchet.train import rehearsal
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine, Update
from ratchet.train.here import train_here
from ratchet.train.rehearsal import rehearse
from ratchet.train.spec import TrainSpec
from train_bench import CPU, spec_of, write_inputs

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def asked(spec: TrainSpec) -> dict[str, Any]:
    return rehearse(spec, Alone(), CPU, TorchEngine)


WAYS: list[dict[str, Any]] = [
    {},
    {"kind": "sft"},
    {"dtype": "bfloat16", "keep_masters": True},
    {"dtype": "float16"},
    {"lora": Lora(rank=2)},
    {"dtype": "bfloat16", "lora": Lora(rank=2, dropout=0.1), "keep_masters": True},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way) or "plain")
def test_a_healthy_step_is_rehearsed_whole_and_nothing_is_left(
    tmp_path: Path, inputs: dict[str, Any], way: dict[str, Any]
) -> None:
    found = asked(spec_of(tmp_path / "run", **way, **inputs))
    assert found["of"] == "the whole model" and found["tensors"] == 21 and not found["reused"]
    assert 0.0 < found["seconds"] < 60.0 and list((tmp_path / "run").iterdir()) == []


def test_random_numbers_outside_are_as_they_were(tmp_path: Path, inputs: dict[str, Any]) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    asked(spec_of(tmp_path / "run", lora=Lora(rank=2), **inputs))
    assert torch.equal(before, torch.get_rng_state())


def dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_save", ["model.layers.1.mlp.up_proj.weight"])


def changed(patch: pytest.MonkeyPatch) -> None:
    def save(tensors: dict[str, torch.Tensor], *rest: Any, **more: Any) -> None:
        name = "model.layers.0.self_attn.k_proj.weight"
        return save_file({**tensors, name: tensors[name] * 1.5}, *rest, **more)

    patch.setattr(saving, "safe_save_file", save)


def raised(patch: pytest.MonkeyPatch) -> None:
    def save(*_: Any, **__: Any) -> None:
        raise AttributeError("'Experts' object has no attribute 'weight'")

    patch.setattr(LlamaForCausalLM, "save_pretrained", save)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, tuple[str, ...]]] = {
    "a save drops a tensor": (dropped, "model.weights", ("missing: model.layers.1.mlp.up_proj.weight",)),
    "a reload differs": (changed, "model.unpublishable", ("model.layers.0.self_attn.k_proj.weight", "otherwise")),
    "a library raises": (raised, "model.unpublishable", ("AttributeError", "no attribute 'weight'")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_publishing_would_lose_is_named_before_the_first_step(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    put_in, code, told = FAULTS[fault]
    put_in(monkeypatch)
    with raises(code, "a rehearsal before the first step failed", *told) as error:
        train_here(spec_of(tmp_path / "run", **inputs))
    assert error.value.where == inputs["model"] and error.value.fix
    assert not (tmp_path / "run/metrics.jsonl").exists() and not (tmp_path / "run/rehearsal").exists()


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_weight_that_loading_sets_is_named(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    """The start's is 0 already, as loading has set it, so that a zero update shows nothing. No adapter changes it."""
    right = LlamaForCausalLM.from_pretrained

    def from_pretrained(*where: Any, **more: Any) -> Any:
        model, info = right(*where, **more)
        model.get_input_embeddings().weight.data[0] = 0.0
        return model, info

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", from_pretrained)
    said = "model.embed_tokens.weight is another once it was changed, saved and loaded"
    refused = raises("model.unpublishable", "a rehearsal before the first step failed", said)
    with contextlib.nullcontext() if lora else refused:
        train_here(spec_of(tmp_path / "run", lora=lora, **inputs))
    assert (tmp_path / "run/metrics.jsonl").exists() == (lora is not None)


def test_an_adapter_that_merges_into_another_weight_is_named(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters begin at 0, so that a wrong merge shows only where they are not."""
    right = peft.tuners.lora.layer.Linear.get_delta_weight

    def wrong(layer: Any, name: str) -> torch.Tensor:
        return right(layer, name) * (2.0 if layer.in_features == 48 else 1.0)  # down_proj alone has so many

    monkeypatch.setattr(peft.tuners.lora.layer.Linear, "get_delta_weight", wrong)
    with raises("model.adapter", "once they are merged", ": down_proj") as error:
        train_here(spec_of(tmp_path / "run", lora=Lora(rank=2), **inputs))
    assert error.value.where == "lora.targets" and "o_proj" in error.value.fix
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_an_adapter_that_cannot_be_merged_is_named(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(layer: Any, *_: Any, **__: Any) -> None:
        raise NotImplementedError("no merge of this layer")

    monkeypatch.setattr(peft.tuners.lora.layer.Linear, "merge", fail)
    with raises("model.adapter", "q_proj", "no merge of this layer"):
        train_here(spec_of(tmp_path / "run", lora=Lora(rank=2, targets=("q_proj",)), **inputs))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_an_engine_that_updates_at_a_rate_of_0_is_found(tmp_path: Path, inputs: dict[str, Any]) -> None:
    class Eager(TorchEngine):
        def step(self, learning_rate: float, norm: float | None) -> Update:
            return super().step(learning_rate or 1e-3, norm)

    with raises("model.unpublishable", "weight is published otherwise than it was loaded"):
        rehearse(spec_of(tmp_path / "run", **inputs), Alone(), CPU, Eager)


def test_the_same_is_rehearsed_once(tmp_path: Path, inputs: dict[str, Any]) -> None:
    kept = Layout(tmp_path / "store")
    spec = dataclasses.replace(spec_of(tmp_path / "run", **inputs), store=kept)
    first = asked(spec)
    other = write_inputs(tmp_path)["model"]
    settings = json.loads((Path(other) / "config.json").read_text())
    same = [
        spec,
        dataclasses.replace(spec, folder=str(tmp_path / "another"), step="later"),
        dataclasses.replace(spec_of(tmp_path / "sft", kind="sft", learning_rate=1.0, **inputs), store=kept),
        dataclasses.replace(spec, model=other),  # other weights
    ]
    assert not first["reused"]
    for one in same:
        assert asked(one) == {**first, "reused": True}
    (Path(other) / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-4}))
    unlike: list[dict[str, Any]] = [{"dtype": "bfloat16"}, {"lora": Lora(rank=2)}, {"model": other}]
    for change in unlike:
        one = dataclasses.replace(spec_of(tmp_path / "run", **{**inputs, **change}), store=kept)
        assert not asked(one)["reused"], change


def test_a_large_model_is_rehearsed_by_a_clone(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "WHOLE", 1000)
    found = asked(spec_of(tmp_path / "run", lora=Lora(rank=2), **inputs))
    assert found["of"] == "a clone with 2 of 2 layers" and found["tensors"] == 21
    dropped(monkeypatch)
    with raises("model.weights", "model.layers.1.mlp.up_proj.weight"):
        asked(spec_of(tmp_path / "run", **inputs))


def test_its_seconds_are_in_what_a_step_returns(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec = dataclasses.replace(spec_of(tmp_path / "run", max_steps=2, **inputs), store=Layout(tmp_path / "store"))
    made = train_here(spec)
    assert made.rehearsal is not None and made.rehearsal["of"] == "the whole model"
    assert made.seconds["rehearsal"] == made.rehearsal["seconds"] > 0
    again = train_here(dataclasses.replace(spec, folder=str(tmp_path / "again")))
    assert again.rehearsal is not None and again.rehearsal["reused"] and again.seconds["rehearsal"] == 0.0
