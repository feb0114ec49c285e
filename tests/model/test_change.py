"""Adapters, averages and exports: what comes out is what the arithmetic says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raised import raises
from ratchet.model.check import check_model
from ratchet.model.export import reload_check, save_model
from ratchet.model.folder import digest_model
from ratchet.model.forward import PairScorer, SideScores, score
from ratchet.model.load import load_model
from ratchet.model.lora import add_lora, merge_lora, save_adapter
from ratchet.model.merge import merge_models
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import template_text
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.plan.model import Scratch
from ratchet.plan.training import Lora

SPEC = Scratch(
    tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=2, heads=4, key_value_heads=2, intermediate_size=24
)
TEXTS = ["What is 12 + 30?", "12 + 30 = 42. The answer is 42."] * 9


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models that differ in their seeds alone."""
    made = [tmp_path_factory.mktemp(f"m{seed}") for seed in range(3)]
    for seed, folder in enumerate(made):
        make_scratch(SPEC.model_copy(update={"seed": seed}), TEXTS, folder)
    return made


def make_pairs(count: int = 4) -> list[TokenisedPair]:
    random = np.random.default_rng(0)
    ids = lambda: random.integers(4, 260, random.integers(2, 12)).astype(np.int32)  # noqa: E731
    return [TokenisedPair(f"{i:032x}", ids(), ids(), ids()) for i in range(count)]


def scores(model: Any) -> SideScores:
    with torch.no_grad():
        return score(PairScorer(model).eval(), make_pairs(), "cpu")


def trained(model: Any) -> Any:
    """Give the adapters weights as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def test_lora_starts_as_the_model_and_trains_adapters_alone(folders: list[Path]) -> None:
    plain = scores(load_model(folders[0], "float32"))
    before = torch.random.get_rng_state()
    model = add_lora(load_model(folders[0], "float32"), Lora(rank=4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(scores(model).chosen_B, plain.chosen_B)
    score(PairScorer(model), make_pairs(), "cpu").chosen_B.sum().backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if "lora_" in name}
    again = add_lora(load_model(folders[0], "float32"), Lora(rank=4))
    for left, right in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    with raises("model.adapter"):
        add_lora(load_model(folders[0], "float32"), Lora(targets=("nothing",)))


def test_merged_lora_scores_as_the_adapter_did(folders: list[Path], tmp_path: Path) -> None:
    plain = scores(load_model(folders[0], "float64"))
    model = trained(add_lora(load_model(folders[0], "float64"), Lora(rank=4, alpha=8.0)))
    adapted = scores(model)
    assert (adapted.chosen_B - plain.chosen_B).abs().min() > 0.01
    save_adapter(model, tmp_path / "adapter")
    merged = merge_lora(model)
    assert type(merged).__name__ == "LlamaForCausalLM" and not any("lora" in n for n in merged.state_dict())
    torch.testing.assert_close(scores(merged).chosen_B, adapted.chosen_B, rtol=0, atol=1e-5)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) > 5 and targets == sorted(targets), "a set's order differs from process to process"


def test_lora_delta_is_alpha_over_rank_times_b_a(folders: list[Path]) -> None:
    base = load_model(folders[0], "float32").state_dict()
    model = trained(add_lora(load_model(folders[0], "float32"), Lora(rank=4, alpha=8.0)))
    name = "model.layers.1.mlp.down_proj"
    pieces = dict(model.named_parameters())
    a, b = (pieces[f"base_model.model.{name}.lora_{side}.default.weight"].detach().numpy() for side in "AB")
    wanted = base[f"{name}.weight"].numpy().astype(np.float64) + 8.0 / 4 * (b.astype(np.float64) @ a)
    merged = merge_lora(model).state_dict()
    np.testing.assert_allclose(merged[f"{name}.weight"].numpy(), wanted, atol=1e-6)
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_merge_is_the_weighted_average_whatever_the_files(folders: list[Path], tmp_path: Path) -> None:
    shutil.copytree(folders[1], tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    load_model(folders[1], "float32").save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert digest_model(tmp_path / "sharded") == digest_model(folders[1])
    of = [folders[0], tmp_path / "sharded", folders[2]]
    for order in (of, [of[1], of[0], of[2]]):
        merge_models(order, (1.0, 2.0, 5.0), out := tmp_path / f"out{order.index(of[0])}")
        stored = [
            {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()} for folder in order
        ]
        merged = {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}
        assert merged.keys() == stored[0].keys()
        for name, tensor in merged.items():
            wanted = sum(w * part[name].double().numpy() for w, part in zip((1, 2, 5), stored, strict=True)) / 8
            np.testing.assert_allclose(tensor.numpy(), wanted, atol=1e-7)
        check_model(out, None)
        assert torch.isfinite(scores(load_model(out, "float32")).chosen_B).all()
        assert digest_tokenizer(out) == digest_tokenizer(folders[0])


def test_merge_of_a_model_with_itself_is_itself_in_bfloat16_too(folders: list[Path], tmp_path: Path) -> None:
    save_model(load_model(folders[0], "bfloat16"), folders[0], tmp_path / "half", "# card")
    merge_models([tmp_path / "half"] * 3, (1.0, 1.0, 1.0), tmp_path / "out")
    assert digest_model(tmp_path / "out") == digest_model(tmp_path / "half")


def test_models_that_do_not_match_are_not_merged(folders: list[Path], tmp_path: Path) -> None:
    wide, words = tmp_path / "wide", tmp_path / "words"
    make_scratch(SPEC.model_copy(update={"intermediate_size": 32}), TEXTS, wide)
    make_scratch(SPEC, ["Once upon a time"] * 9, words)
    shutil.copytree(folders[1], tmp_path / "less")
    weights = load_file(tmp_path / "less" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "less" / "model.safetensors")
    for other, named in ((wide, "intermediate_size"), (words, ""), (tmp_path / "less", "model.norm.weight")):
        with raises("model.merge", named):
            merge_models([folders[0], other], (1.0, 1.0), tmp_path / "out")
    with raises("model.merge-weights"):
        merge_models(folders[:2], (1.0,), tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_scores_as_in_memory_to_the_bit(folders: list[Path], tmp_path: Path, dtype: str) -> None:
    model, out = load_model(folders[0], dtype), tmp_path / "out"
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.25).add_(0.01)
    save_model(model, folders[0], out, "# Card\n", chat_template=template_text("plain"))
    reload_check(out, model, make_pairs(), dtype)
    assert (out / "README.md").read_text() == "# Card\n"
    assert load_tokenizer(out, None).chat_template == template_text("plain")
    assert digest_tokenizer(out) == digest_tokenizer(folders[0])
    assert (out / "generation_config.json").read_bytes() == (folders[0] / "generation_config.json").read_bytes()
    assert (out / "model.safetensors").stat().st_mode & 0o044
    check_model(out, None)
    weights = load_file(out / "model.safetensors")
    weights["model.norm.weight"][0] += 0.05
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with raises("model.unlike-saved"):
        reload_check(out, model, make_pairs(), dtype)
