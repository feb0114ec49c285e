"""A model's passport says beforehand what a run does with each part, and which storage cannot be trained."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from family_configs import write_tiny
from family_folders import BESIDE, FAMILIES, SPARE, VOCABULARY, write_family
from raised import raises
from ratchet.commands.plans import check_arguments, check_command
from ratchet.documents.passport import Passport, amount_of, passport_in_words
from ratchet.model.check import check_model
from ratchet.model.load import load_model
from ratchet.model.passport import check_trainable, passport_of
from ratchet.model.scratch import make_scratch
from ratchet.pairs.trust import load_config
from ratchet.plan.model import Scratch


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=2, heads=2, key_value_heads=1)
    make_scratch(spec, ["What is 12 + 30?"] * 9, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_passport_says_is_what_a_run_does(tmp_path: Path, family: str) -> None:
    """By the names on the hub on the one side, by the modules that compute a score on the other."""
    write_family(tmp_path, family)
    passport = passport_of(tmp_path)
    assert (passport.architecture, passport.kind, passport.vocabulary) == (FAMILIES[family][0], family, VOCABULARY)
    model = load_model(tmp_path, "float32")
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    spare = sum(map(math.prod, SPARE.values())) if family == "qwen3_5" else 0
    kept = [part for part in passport.parts if part.fate == "kept"]
    assert sum(part.parameters for part in kept) == frozen + spare
    assert passport.parameters == sum(weight.numel() for weight in model.parameters()) + spare
    assert {"vision"} <= {part.name for part in kept} and not passport.refused and passport.storage is None
    assert set(BESIDE) <= set(passport.files) and "config.json" not in passport.files
    assert passport.bytes == sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())


def test_experts_router_head_and_layers_beyond_the_last_are_parts_of_their_own(scratch: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": "embeddings",
        "lm_head.weight": "head",
        "model.layers.0.mlp.gate.weight": "router",
        "model.layers.0.mlp.gate.e_score_correction_bias": "buffers",
        "model.layers.1.mlp.experts.7.gate_proj.weight": "experts",
        "model.layers.1.mlp.shared_experts.gate_proj.weight": "text",
        "model.layers.1.self_attn.q_proj.weight": "text",
        "model.layers.2.mlp.experts.0.up_proj.weight": "more tokens",
        "mtp.fc.weight": "more tokens",
        "model.audio_tower.layers.5.fc1.weight": "audio",
    }
    for name, kind in tensors.items():
        save_file({name: torch.zeros(2, 3)}, scratch / "model.safetensors")
        assert [(part.name, part.parameters) for part in passport_of(scratch).parts] == [(kind, 6)], name


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["deepseek_v3", "gpt_neox", "gpt2", "lfm2_moe", "llama", "minimax_m2", "solar_open"])
def test_buffers_are_a_part_that_no_training_changes(tmp_path: Path, family: str) -> None:
    write_tiny(family, tmp_path)
    model = load_model(tmp_path, "float32")
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    parts = {part.name: part for part in passport_of(tmp_path).parts}
    found = parts["buffers"].tensors if "buffers" in parts else 0
    assert found == len(buffers) and ("buffers" not in parts or parts["buffers"].fate == "held")
    assert sum(one.parameters for one in parts.values() if one.fate == "trained") == model.num_parameters()


def test_a_weight_that_stands_for_two_is_named(scratch: Path) -> None:
    passport = passport_of(scratch)
    assert passport.tied and passport.shared == ("model.embed_tokens.weight",)
    assert "tied (stored as model.embed_tokens.weight)" in passport_in_words(passport)[0]
    weights = load_file(scratch / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, scratch / "model.safetensors")
    assert passport_of(scratch).shared == ("model.embed_tokens.weight", "lm_head.weight")
    edit(scratch / "config.json", tie_word_embeddings=False)
    assert not passport_of(scratch).tied and passport_of(scratch).shared == ()


@pytest.mark.parametrize(("method", "named", "fate"), [("fp8", "FP8", "undone"), ("mxfp4", "MXFP4", "lost")])
def test_storage_that_loading_undoes_is_said(scratch: Path, method: str, named: str, fate: str) -> None:
    weights = {"model.layers.0.x_blocks": torch.zeros(2, 3, 16, dtype=torch.uint8)}
    weights |= {"model.layers.0.x_scales": torch.zeros(2, 3, dtype=torch.uint8), "mtp.x": torch.zeros(5)}
    weights |= {"model.layers.0.q_proj.activation_scale": torch.zeros(1)}
    save_file(weights, scratch / "model.safetensors")
    edit(scratch / "config.json", quantization_config={"quant_method": method})
    found = check_trainable(scratch)
    assert found.storage == named and found.refused is None
    assert [(part.name, part.parameters, part.fate) for part in found.parts] == [
        ("more tokens", 5, fate),
        ("text", 2 * 3 * 16 * 2, "trained"),
    ]
    assert any(named in line for line in passport_in_words(found))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "of-tomorrow"])
def test_storage_that_nobody_can_undo_is_refused(scratch: Path, method: str) -> None:
    edit(scratch / "config.json", quantization_config={"quant_method": method})
    with raises("model.storage", method, str(scratch)):
        check_trainable(scratch)
    said = "\n".join(passport_in_words(passport_of(scratch)))
    assert "cannot be trained" in said and "trained," not in said, "neither as a whole nor by part"
    assert check_model(scratch, None).vocabulary, "an engine of evaluations may read it"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab_size": "many"}, "vocab_size"),
        ({"max_position_embeddings": [5]}, "max_position_embeddings"),
        ({"layer_types": ["x"]}, "layer_type"),
        ({"num_attention_heads": 0}, "by zero"),
        ({"model_type": "of-tomorrow", "vocab_size": "many"}, "vocab_size"),
        ({"model_type": "of-tomorrow", "num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"model_type": "of-tomorrow", "text_config": "x"}, "text_config"),
        ({"model_type": ["llama"]}, "unhashable"),
    ],
)
def test_settings_of_a_wrong_type_are_an_error_that_names_them(
    scratch: Path, changes: dict[str, object], named: str
) -> None:
    edit(scratch / "config.json", **changes)
    for use in (passport_of, lambda folder: check_model(folder, None)):
        with raises("model.settings", named, str(scratch / "config.json")):
            use(scratch)
    if "model_type" not in changes:
        with raises("model.settings", named, str(scratch / "config.json")):
            load_config(scratch)


@pytest.mark.parametrize("value", ["x", [1]])
def test_storage_without_a_name_is_refused(scratch: Path, value: object) -> None:
    edit(scratch / "config.json", quantization_config=value)
    with raises("model.storage", "an unnamed form"):
        check_trainable(scratch)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        *((0, "0"), (999, "999"), (1_000, "1 k"), (999_499, "999 k"), (999_600, "1 M"), (1_234_567, "1.23 M")),
        *((999_600_000, "1 B"), (7_615_616_512, "7.62 B"), (999_600_000_000, "1 T"), (1_040_000_000_000, "1.04 T")),
    ],
)
def test_an_amount_has_the_unit_of_its_rounded_figure(parameters: int, said: str) -> None:
    assert amount_of(parameters) == said


def test_storage_of_the_text_model_alone_counts(tmp_path: Path) -> None:
    write_family(tmp_path, "mistral3")
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    edit(tmp_path / "config.json", text_config=text | {"quantization_config": {"quant_method": "awq"}})
    with raises("model.storage", "awq"):
        check_trainable(tmp_path)


def test_folders_beside_the_weights_are_not_published_and_named(scratch: Path) -> None:
    (scratch / "original").mkdir()
    found = passport_of(scratch)
    assert found.left == ("original/",) and "not published: original/" in passport_in_words(found)
    assert isinstance(found, Passport) and found.longest == 512


def test_check_describes_a_models_folder(scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    check_arguments(parser)
    arguments = parser.parse_args([str(scratch)])
    assert check_command(arguments) == 0
    said = capsys.readouterr().out
    wide = json.loads((scratch / "config.json").read_text())["intermediate_size"]
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * wide
    total = passport_of(scratch).parameters
    assert f"{scratch}: model" in said and "LlamaForCausalLM (llama)" in said
    assert f"reach {100 * 2 * layer / total:.3g} % of" in said and "q_proj × 2" in said
    edit(scratch / "config.json", quantization_config={"quant_method": "gptq"})
    assert check_command(arguments) == 4
    assert "cannot be trained: its weights are stored quantised (gptq)" in capsys.readouterr().out
    (scratch / "config.json").unlink()
    assert check_command(arguments) == 4
    assert "config.json is missing" in capsys.readouterr().err
