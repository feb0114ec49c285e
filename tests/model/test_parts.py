"""Models that see: loaded whole, scored as they score themselves, trained in their text alone, published whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from family_configs import write_tiny
from family_folders import BESIDE, FAMILIES, SPARE, VOCABULARY, write_family
from raised import raises
from ratchet.model.batch import collate
from ratchet.model.carried import FILE
from ratchet.model.check import check_model, text_settings
from ratchet.model.export import reload_check, save_model, try_saving
from ratchet.model.folder import model_folder, stored_tensors
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import load_model, skeleton
from ratchet.model.lora import add_lora
from ratchet.model.merge import check_start, merge_models
from ratchet.model.passport import passport_of
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.model import ModelSpec
from ratchet.plan.training import Lora
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from tiny_models import ids, make_pairs, plain
from train_bench import CPU, spec_of, train_whole, write_inputs

TOWERS = {"vision_tower", "multi_modal_projector", "visual", "vision_model"}


def folder_of(root: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    write_family(root / family, family, dtype)
    return root / family


def is_tower(name: str) -> bool:
    """By the names that the hub's folders have."""
    return any(part in TOWERS for part in name.split("."))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_sees_is_loaded_whole_and_scored_as_it_scores_itself(tmp_path: Path, family: str) -> None:
    folder = folder_of(tmp_path, family)
    facts = check_model(folder, None)
    assert (facts.vocabulary, facts.architecture) == (VOCABULARY, FAMILIES[family][0])
    model = load_model(folder, "float32")
    assert type(model).__name__ == FAMILIES[family][0]
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if is_tower(name)} != set()
    pairs = make_pairs(5)
    # Loaded a second time, by transformers alone, and each sequence by itself.
    plainly = getattr(transformers, FAMILIES[family][0]).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found = score(PairScorer(model).eval(), pairs, CPU)
        for side, found_B in (("chosen", found.chosen_B), ("rejected", found.rejected_B)):
            wanted = [plain(plainly, pair.prompt, getattr(pair, side)).item() for pair in pairs]
            torch.testing.assert_close(found_B.double(), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_text_does_not_reach_is_published_byte_for_byte(tmp_path: Path, family: str, dtype: str) -> None:
    """Whatever the precision of the plan: the towers and spare layers keep the folder's own."""
    folder, out = folder_of(tmp_path, family), tmp_path / "out"
    model = load_model(folder, dtype)
    try_saving(model, folder)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.25)
    save_model(model, folder, out, "# card")
    before, after = weights_of(folder), weights_of(out)
    assert before.keys() == after.keys(), "no tensor of the start folder is lost"
    carried = {name for name in before if is_tower(name) or name in SPARE}
    for name in sorted(carried):
        assert before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]), name
    assert set(load_file(out / FILE)) == carried and carried
    assert not any(torch.equal(before[name], after[name]) for name in before.keys() - carried)
    assert (
        stored_tensors(out).keys()
        == json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].keys()
    )
    for file in BESIDE:
        assert (out / file).read_bytes() == (folder / file).read_bytes(), file
    pairs = make_pairs(3)
    reload_check(out, model, pairs, dtype)
    assert type(AutoConfig.from_pretrained(out)) is type(AutoConfig.from_pretrained(folder))


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_stay_away_from_what_text_does_not_reach(tmp_path: Path, family: str) -> None:
    model = add_lora(skeleton(folder_of(tmp_path, family), "float32"), Lora(rank=2))
    adapted = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert adapted and not any(is_tower(name) for name in adapted)


def test_gemma_names_no_vocabulary_and_has_tokens_for_pictures(tmp_path: Path) -> None:
    """Its class fills in 262,208; the tokenizer of the 1B model has one id more than the model."""
    folder = folder_of(tmp_path, "gemma3")
    settings = json.loads((folder / "config.json").read_text())
    del settings["text_config"]["vocab_size"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert text_settings(folder)["vocab_size"] == check_model(folder, None).vocabulary == 262208
    settings["text_config"]["vocab_size"] = VOCABULARY
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    room = VOCABULARY - len(tokenizer)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(room)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<image>") == VOCABULARY
    assert check_model(folder, None).vocabulary == VOCABULARY
    packing = PairScorer(load_model(folder, "float32")).packing
    with raises("data.foreign-token", "300", "0 to 299"):
        collate([TokenisedPair("", ids(5), ids(7, VOCABULARY), ids(8))], packing)
    tokenizer.add_tokens(["<common>"])
    tokenizer.save_pretrained(folder)
    with raises("model.few-ids", "301", "<common>"):
        check_model(folder, None)


def test_a_name_of_the_hub_brings_one_form_of_the_weights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mistral3")
    facts = check_model(folder, None)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert check_model(folder, None) == facts
    assert model_folder(ModelSpec(path=str(folder))) == folder


LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v3": ("model.layers.61.", {}),
    "glm4_moe": ("model.layers.46.", {}),
    "glm4_moe of another depth": ("model.layers.2.", {"num_nextn_predict_layers": 1}),
    "glm_moe_dsa": ("model.layers.78.", {}),
    "qwen3_next": ("mtp.layers.0.", {}),
    "qwen3_5": ("mtp.layers.0.", {}),
    "llama": ("model.mtp_layers.0.", {}),
}
"""A family, where its folders have layers that predict several tokens, and what config.json says besides."""


@pytest.mark.heavy
@pytest.mark.parametrize("family", LAYERS)
def test_layers_for_several_tokens_are_carried_over_byte_for_byte(tmp_path: Path, family: str) -> None:
    name, (prefix, said) = family.partition(" ")[0], LAYERS[family]
    folder, out = tmp_path / "start", tmp_path / "out"
    write_tiny(name, folder)
    spare = {f"{prefix}eh_proj.weight": torch.randn(8, 16).bfloat16(), f"{prefix}enorm.weight": torch.randn(8)}
    with_spare(folder, spare, **said)
    parts = {part.name: part for part in passport_of(folder).parts}
    assert (parts["more tokens"].tensors, parts["more tokens"].fate) == (2, "kept")
    model = load_model(folder, "bfloat16")
    try_saving(model, folder)
    save_model(model, folder, out, "# card")
    found = weights_of(out)
    assert found.keys() == weights_of(folder).keys()
    assert all(torch.equal(found[key], one) and found[key].dtype == one.dtype for key, one in spare.items())
    assert passport_of(out).parts[-1].tensors == passport_of(folder).parts[-1].tensors
    merge_models([folder, out], [0.5, 0.5], tmp_path / "merged")
    assert all(torch.equal(weights_of(tmp_path / "merged")[key], one) for key, one in spare.items())


def test_biases_by_which_a_router_chooses_are_not_trained(tmp_path: Path) -> None:
    """They are parameters in this family: no gradient comes to them, and weight decay would."""
    write_tiny("afmoe", tmp_path)
    frozen = {name for name, weight in load_model(tmp_path, "float32").named_parameters() if not weight.requires_grad}
    assert frozen and all(name.endswith("expert_bias") for name in frozen)


def test_layers_beyond_the_last_of_another_models_settings_are_no_spare_ones(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    with_spare(tmp_path, {"model.layers.2.self_attn.q_proj.weight": torch.zeros(4, 4)})
    with raises("model.weights", "model.layers.2.self_attn.q_proj.weight"):
        load_model(tmp_path, "float32")


def with_spare(folder: Path, spare: dict[str, torch.Tensor], **said: Any) -> None:
    weights = load_file(folder / "model.safetensors") | spare
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | said))


def test_a_start_model_that_sees_can_be_averaged_with_its_child(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path, "qwen3_5"), tmp_path / "child"
    check_start(folder, "float32", "merge")
    model = load_model(folder, "float32")
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    save_model(model, folder, out, "# card")
    merge_models([folder, out], [0.3, 0.7], tmp_path / "merged")
    start, merged = weights_of(folder), weights_of(tmp_path / "merged")
    assert {name for name in start if not torch.equal(start[name], merged[name])} == {"lm_head.weight"}
    torch.testing.assert_close(merged["lm_head.weight"], start["lm_head.weight"] + 0.7)
    load_model(tmp_path / "merged", "float32")


def trained(tmp_path: Path, family: str, **changes: Any) -> tuple[Path, Path]:
    inputs = write_inputs(tmp_path)
    folder = folder_of(tmp_path, family)
    spec = spec_of(tmp_path / "run", starts_at_reference=False, epochs=1, **{**inputs, "model": str(folder)}, **changes)
    train_whole(spec, Alone(), CPU, TorchEngine)
    return folder, tmp_path / "run/model"


@pytest.mark.heavy
@pytest.mark.parametrize("adapters", [None, Lora(rank=2)])
def test_training_with_decay_leaves_the_tower_as_it_came(tmp_path: Path, adapters: Lora | None) -> None:
    folder, out = trained(tmp_path, "gemma3", weight_decay=0.1, learning_rate=1e-2, lora=adapters)
    before, after = weights_of(folder), weights_of(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed and not any(is_tower(name) for name in changed)
    assert all((out / file).is_file() for file in BESIDE)
