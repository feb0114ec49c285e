"""Model folders: made from scratch, checked, told apart, loaded whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raised import raises
from ratchet.model.check import ModelFacts, check_model
from ratchet.model.folder import digest_model, model_folder
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import keep_rotary_in_float32, load_model, quantisation_config
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import PLAIN
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.tokenizer import digest_vocabulary, load_tokenizer
from ratchet.plan.model import ModelSpec, Scratch

SPEC = Scratch(
    tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=2, heads=4, key_value_heads=2, intermediate_size=24
)
TEXTS = ["What is 12 + 30?", "12 + 30 = 42. The answer is 42.", "How are you today?"] * 9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_scratch(SPEC, TEXTS, folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def edit(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def test_scratch_is_the_same_to_the_byte_and_leaves_random_state_alone(made: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    make_scratch(SPEC, iter(TEXTS), tmp_path / "again")
    assert torch.equal(before, torch.random.get_rng_state())
    names = sorted(path.name for path in made.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} < set(names)
    for name in names:
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    make_scratch(SPEC.model_copy(update={"seed": 1}), TEXTS, tmp_path / "other")
    assert digest_model(tmp_path / "other") != digest_model(made)
    assert digest_vocabulary(tmp_path / "other") == digest_vocabulary(made)


def test_scratch_tokenizer_is_byte_level_with_single_digits(made: Path) -> None:
    tokenizer = load_tokenizer(made, None)
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [1, 3, 0]
    for text in ("1234 and 5.6", "naïve 日本 \x00\n\ttabs", "The answer is"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokenizer.get_vocab())
    assert len(tokenizer.get_vocab()) <= 300


def test_facts_come_from_headers(made: Path) -> None:
    facts = check_model(made, None)
    model = load_model(made, "float32")
    assert facts == ModelFacts(
        vocabulary=model.config.vocab_size,
        parameters=sum(weight.numel() for weight in model.parameters()),
        longest=512,
        architecture="LlamaForCausalLM",
        bytes=(made / "model.safetensors").stat().st_size,
    )


def test_digest_is_of_content(made: Path, copy: Path) -> None:
    assert digest_model(copy) == digest_model(made)
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    for part, names_of in (("b", names[::2]), ("a", names[1::2])):
        save_file({name: weights[name] for name in names_of}, copy / f"{part}.safetensors", metadata={"x": part})
    (copy / "model.safetensors").unlink()
    edit(copy / "config.json", transformers_version="0.0", use_cache=False)
    assert digest_model(copy) == digest_model(made)
    weights[names[0]].view(-1)[3] += 1e-6
    save_file({name: weights[name] for name in names[::2]}, copy / "b.safetensors")
    assert digest_model(copy) != digest_model(made)
    shutil.copyfile(made / "model.safetensors", copy / "model.safetensors")
    with raises("model.two-weights", "model.safetensors"):
        digest_model(copy)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    without_weights(folder)


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def small_vocabulary(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=280)


FAULTS = {
    "gone": (gone, "model.no-folder"),
    "no weights": (without_weights, "model.no-weights"),
    "pickle": (pickled, "model.pickles", "pytorch_model.bin"),
    "no tokenizer": (without_tokenizer, "model.no-tokenizer"),
    "no EOS": (lambda folder: edit(folder / "tokenizer_config.json", eos_token=None), "model.no-end"),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "model.no-template"),
    "few ids": (small_vocabulary, "model.few-ids", "279"),
    "bad config": (lambda folder: (folder / "config.json").write_text("{,"), "model.not-json", "config.json"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "model.not-json", "config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "model.not-json", "config.json"),
    "encoder": (lambda folder: edit(folder / "config.json", architectures=["BertLM"]), "model.not-causal", "BertLM"),
    "bad template": (lambda folder: (folder / "chat_template.jinja").write_text("{{ x( }}"), "model.template-fails"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_folder_is_told_by_name_and_remedy(copy: Path, fault: str) -> None:
    spoil, code, *named = FAULTS[fault]
    spoil(copy)
    with raises(code, str(copy), *named) as caught:
        check_model(copy, None)
    assert caught.value.fix


def test_a_cut_weight_file_is_corrupt(copy: Path) -> None:
    file = copy / "model.safetensors"
    for keep in (-100, 900, 5):
        file.write_bytes(file.read_bytes()[:keep])
        with raises("corrupt.tensors"):
            check_model(copy, None)
    file.write_bytes(b"\xff" * 64)
    with raises("corrupt.tensors"):
        digest_model(copy)


def test_no_weight_is_ever_made_up(copy: Path) -> None:
    file = copy / "model.safetensors"
    whole = load_file(file)
    lost, name = dict(whole), "model.layers.1.mlp.up_proj.weight"
    del lost[name]
    surplus = whole | {"model.layers.7.self_attn.q_proj.weight": torch.ones(2, 2)}
    bent = whole | {name: torch.ones(3, 16)}
    for weights, named in ((lost, name), (surplus, "model.layers.7"), (bent, name)):
        save_file(weights, file, metadata={"format": "pt"})
        with raises("model.weights", named):
            load_model(copy, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_sets_dtype_and_keeps_buffers_in_float32(made: Path, dtype: str) -> None:
    model = load_model(made, dtype)
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{dtype}"}
    assert not model.training
    right = model.model.rotary_emb.inv_freq.clone()
    assert right.dtype == torch.float32
    model.model.rotary_emb.to(torch.bfloat16)  # as ZeRO-3 leaves them
    assert not torch.equal(model.model.rotary_emb.inv_freq.float(), right)
    keep_rotary_in_float32(model)
    assert torch.equal(model.model.rotary_emb.inv_freq, right)
    assert "model.rotary_emb.inv_freq" not in model.state_dict()


def test_every_dropout_is_off(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = GPT2Config(vocab_size=33, n_embd=8, n_layer=1, n_head=2, n_positions=32, **ends)
    assert config.resid_pdrop == 0.1
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float64").train()
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))
    pair = TokenisedPair("a" * 32, *(np.arange(k, k + 5, dtype=np.int32) for k in (3, 9, 14)))
    scorer = PairScorer(model)
    assert torch.equal(score(scorer, [pair], "cpu").chosen_B, score(scorer, [pair], "cpu").chosen_B)


def test_dropout_in_attention_is_off_too(copy: Path) -> None:
    edit(copy / "config.json", attention_dropout=0.4)
    model = load_model(copy, "float32").train()
    ids = torch.arange(4, 20)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_resolve(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder(ModelSpec(path=str(made))) == made
    with raises("model.no-folder"):
        model_folder(ModelSpec(path=str(tmp_path / "none")))
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("1" * 40)
    shutil.copytree(made, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_folder(ModelSpec(name="some/model", revision="1" * 40)) == snapshot
    with raises("model.hub", "other/model"):
        model_folder(ModelSpec(name="other/model"))


def test_quantised_weights_need_a_gpu(made: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for kind in ("4bit", "8bit"):
        with raises("model.quantise", "lora.quantise"):
            quantisation_config(kind, torch.float32)
        with raises("model.quantise"):
            load_model(made, "bfloat16", quantise=kind)


def test_the_published_story_model_scores_stories_well(published: None, stories: Path) -> None:
    facts = check_model(stories, PLAIN)
    assert facts.parameters == 260_032 and facts.vocabulary == 512
    tokenizer, model = load_tokenizer(stories, PLAIN), load_model(stories, "float32")
    opening, *sides = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("Once upon a time, there was a little", "girl named Lily. She loved to play.", "girl xq zzv kk.")
    )
    arrays = (np.array(ids, np.int32) for ids in ([1, *opening], *sides))
    with torch.no_grad():
        out = score(PairScorer(model), [TokenisedPair("a" * 32, *arrays)], "cpu")
    mean = float(out.chosen_B[0] / out.chosen_tokens_B[0])
    assert -1.5 < mean < 0
    assert float(out.rejected_B[0] / out.rejected_tokens_B[0]) < mean - 2
