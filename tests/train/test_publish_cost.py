"""What publishing costs, counted: passes of the plain model, copies of weights, and readings of what was written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raised import raises
from ratchet.model import export, folder, memory, noise
from ratchet.model.export import reload_check, save_model
from ratchet.model.folder import digest_model
from ratchet.model.forward import SideScores
from ratchet.model.load import load_model
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.training import Lora
from ratchet.train import gathered, publish
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from train_bench import CPU, Pairs, spec_of, tiny_model, train_whole, write_inputs

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(("lora", "wanted"), [(None, [5, 1, 1]), (Lora(rank=2), [5, 5, 1, 1])])
def test_a_published_model_is_scored_as_often_as_proofs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None, wanted: list[int]
) -> None:
    """Gathered weights on all pairs, merged ones again, and one pair in memory and as saved."""
    inputs, seen, hashed = write_inputs(tmp_path), list[int](), list[Path]()
    plain, digest = export.score_plain, folder.digest_model

    def counted(model: Any, pairs: Sequence[TokenisedPair], device: torch.device, **options: Any) -> SideScores:
        seen.append(len(pairs))
        return plain(model, pairs, device, **options)

    def hashing(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    for module in (export, gathered, publish):
        monkeypatch.setattr(module, "score_plain", counted)
    monkeypatch.setattr(publish, "digest_model", hashing)
    outcome = train_whole(spec_of(tmp_path / "run", lora=lora, max_steps=2, **inputs), Alone(), CPU, TorchEngine)
    assert seen == wanted and len(hashed) == 1
    assert outcome["published"]["weights"] == digest_model(tmp_path / "run/model")


@pytest.mark.parametrize(("off", "wanted"), [(0.0, []), (0.5, [4])])
def test_each_answer_is_scored_alone_only_where_gathered_weights_score_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, wanted: list[int]
) -> None:
    """The answers of four pairs say what rounding explains, and half a nat it does not."""
    measured, measure, plain = list[int](), noise.measure_noise, gathered.score_plain

    def measuring(scorer: Any, pairs: Sequence[TokenisedPair], *args: Any, **options: Any) -> noise.Noise:
        measured.append(len(pairs))
        return measure(scorer, pairs, *args, **options)

    def moved(*args: Any, **options: Any) -> SideScores:
        found = plain(*args, **options)
        return dataclasses.replace(found, chosen_B=found.chosen_B + off)

    monkeypatch.setattr(gathered, "score_plain", moved)
    monkeypatch.setattr(noise, "measure_noise", measuring)
    spec = spec_of(tmp_path / "run", max_steps=1, starts_at_reference=False, **write_inputs(tmp_path))
    with raises("model.unlike-trained", "0.5 nats") if off else contextlib.nullcontext():
        train_whole(spec, Alone(), CPU, TorchEngine)
    assert measured == wanted


def test_freed_memory_is_handed_back_where_it_will_not_be_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first update, and before publishing: not in the steps between, where each would ask for it again."""
    happened: list[str] = []

    class Told(TorchEngine):
        def step(self, learning_rate: float, norm: float | None) -> Any:
            happened.append("update")
            return super().step(learning_rate, norm)

    monkeypatch.setattr(memory, "trim", lambda device: happened.append("trim"))
    spec = spec_of(tmp_path / "run", max_steps=3, **write_inputs(tmp_path))
    train_whole(spec, Alone(), CPU, Told)
    assert happened == ["update", "trim", "update", "update", "trim"]


def test_gathered_weights_are_held_once(tmp_path: Path) -> None:
    """The plain model has the engine's own memory, but for weights that lie in a buffer of many."""
    tiny_model().save_pretrained(tmp_path / "start")
    model, trained = load_model(tmp_path / "start", "float32"), tiny_model(3)
    state = {f"model.{name}": weight for name, weight in trained.state_dict().items()}
    flat = torch.cat([state["model.model.norm.weight"], torch.ones(5)])
    state["model.model.norm.weight"] = flat[:-5]
    gathered._fill(model, state)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[f"model.{name}"])
        assert (weight.data_ptr() == state[f"model.{name}"].data_ptr()) == (name != "model.norm.weight")


def test_a_bit_that_no_score_shows_is_found(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "start")
    model, out, pairs = load_model(tmp_path / "start", "float32"), tmp_path / "out", Pairs(2).rows
    save_model(model, tmp_path / "start", out, "# card")
    reload_check(out, model, pairs, "float32")
    weights = load_file(out / "model.safetensors")
    used = {token for pair in pairs for part in (pair.prompt, pair.chosen, pair.rejected) for token in part.tolist()}
    spare = min(set(range(len(weights["model.embed_tokens.weight"]))) - used)
    weights["model.embed_tokens.weight"][spare, 0] += 1e-3
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with raises("model.unlike-saved", "embed_tokens"):
        reload_check(out, model, pairs, "float32")
