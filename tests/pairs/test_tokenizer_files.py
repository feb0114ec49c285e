"""The files that tokenizers and chat templates come in: each works, or an error says what is missing and what to do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from family_folders import BESIDE, write_family
from raised import raises
from ratchet.model.check import check_model
from ratchet.model.export import save_model
from ratchet.model.load import load_model
from ratchet.model.scratch_tokenizer import write_scratch_tokenizer
from ratchet.pairs.chat import ChatTemplate, chat_template_of, template_identity
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.plan.model import ModelSpec, Scratch

TEXT = "What is 12 + 30?"
SPEC = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
OWN_CODE = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}, "tokenizer_class": "OwnTokenizer"}
SHORT = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scratch_tokenizer(SPEC, [TEXT, "How are you today?"] * 9, tmp_path)
    return tmp_path


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def ranks(count: int = 256) -> str:
    """In tiktoken's form: every byte is a token."""
    return "".join(f"{base64.b64encode(bytes([rank])).decode()} {rank}\n" for rank in range(count))


def tekken() -> dict[str, Any]:
    """In the form of tekken.json: five special tokens, then every byte."""
    special = [
        {"rank": rank, "token_str": token, "is_control": True}
        for rank, token in enumerate(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))
    ]
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"
    config = {"pattern": pattern, "num_vocab_tokens": 256, "default_vocab_size": 261, "version": "v3"}
    plain = [
        {"rank": at, "token_bytes": base64.b64encode(bytes([at])).decode(), "token_str": None} for at in range(256)
    ]
    return {"config": config | {"default_num_special_tokens": 5}, "vocab": plain, "special_tokens": special}


def test_code_beside_a_whole_tokenizer_is_left_alone(folder: Path) -> None:
    plain = load_tokenizer(folder, None)
    (folder / "tokenization_own.py").write_text("raise SystemExit('its code was run')\n")
    settings(folder, **OWN_CODE)
    found = load_tokenizer(folder, None)
    assert found(TEXT)["input_ids"] == plain(TEXT)["input_ids"]
    assert (found.eos_token, found.chat_template) == (plain.eos_token, plain.chat_template)


@pytest.mark.parametrize("file", ["tiktoken.model", "own.tiktoken"])
def test_ranks_that_code_of_their_own_reads_are_refused(folder: Path, file: str) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / file).write_text(ranks())
    settings(folder, **OWN_CODE)
    with raises("model.code", file, "auto_map", "tokenizer.json"):
        load_tokenizer(folder, None)


@pytest.mark.parametrize(
    ("content", "library"),
    [(b"\n\x0c\n\x05<unk>\x15\0\0\0\0\x18\x02", "sentencepiece"), (ranks().encode(), "tiktoken")],
)
def test_a_library_that_is_missing_is_named(
    folder: Path, content: bytes, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forms go by the name tokenizer.model: the first line says which it is."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(content)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises("model.no-tokenizer", f"{library} is not installed", f"pip install {library}", "tokenizer.json"):
        load_tokenizer(folder, None)


def test_sentencepiece_alone_gives_its_own_ids(folder: Path) -> None:
    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    (folder / "texts").write_text("\n".join([TEXT, "How are you today?", "a b c d e f 0 1 2 3"] * 20))
    library.SentencePieceTrainer.train(  # as Llama 2's and Mistral's were
        input=str(folder / "texts"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer", "extra_special_tokens": []}
    settings(folder, **ends)
    model = library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    found = load_tokenizer(folder, None)
    for text in (TEXT, "you are 3", "two  blanks", "é"):
        assert found(text, add_special_tokens=False)["input_ids"] == model.encode(text)


def test_tekken_alone_works_with_a_template_that_the_plan_gives(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    tokenizer = load_tokenizer(tmp_path, None)
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [5 + ord("a"), 5 + ord("b")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    with raises("model.no-template", "model.chat_template"):
        find_style(tokenizer)
    turn = "{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + '</s>' }}"
    inst = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    assert find_style(load_tokenizer(tmp_path, ChatTemplate(inst))).end_id == 2
    before = digest_tokenizer(tmp_path)
    (tmp_path / "tekken.json").write_text(json.dumps(tekken() | {"more": 1}))
    assert digest_tokenizer(tmp_path) != before


def test_a_folder_without_a_tokenizer_is_an_error(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with raises("model.no-tokenizer", "tokenizer.json"):
        load_tokenizer(folder, None)


def test_the_template_of_a_processor_is_read_where_the_tokenizer_has_none(folder: Path) -> None:
    own = load_tokenizer(folder, None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": SHORT}))
    assert load_tokenizer(folder, None).chat_template == own.chat_template, "the tokenizer's own comes first"
    (folder / "chat_template.jinja").rename(folder / "aside")
    assert load_tokenizer(folder, None).chat_template == SHORT
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": own.chat_template}))
    assert find_style(load_tokenizer(folder, None)) == find_style(own)
    assert load_tokenizer(folder, ChatTemplate(SHORT)).chat_template == SHORT, "the plan's own comes before both"


def in_settings(folder: Path, names: dict[str, str]) -> None:
    (folder / "chat_template.jinja").unlink()
    settings(folder, chat_template=[{"name": name, "template": text} for name, text in names.items()])


def in_files(folder: Path, names: dict[str, str]) -> None:
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    for name, text in names.items():
        (folder / f"additional_chat_templates/{name}.jinja").write_text(text)


@pytest.mark.parametrize("write", [in_settings, in_files])
def test_a_named_template_is_chosen_by_its_name(folder: Path, write: Callable[[Path, dict[str, str]], None]) -> None:
    own = load_tokenizer(folder, None)
    write(folder, {"tool_use": SHORT, "rag": own.chat_template})
    with raises("model.no-template", "rag, tool_use", "model.named_template"):
        find_style(load_tokenizer(folder, None))
    with raises("model.no-template", "'chat'", "rag, tool_use"):
        load_tokenizer(folder, ChatTemplate(named="chat"))
    one, other = (
        load_tokenizer(folder, chat_template_of(ModelSpec(path="m", named_template=name)))
        for name in ("rag", "tool_use")
    )
    assert find_style(one) == find_style(own)
    assert one.chat_template != other.chat_template
    assert template_identity(one) == template_identity(own) != template_identity(other)


def test_a_name_where_there_are_none_and_two_ways_at_once_are_refused(folder: Path) -> None:
    with raises("model.no-template", "one without a name"):
        load_tokenizer(folder, ChatTemplate(named="rag"))
    with pytest.raises(ValueError, match="named_template"):
        ModelSpec(path="m", named_template="rag", chat_template="plain")


def test_all_named_templates_are_published(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    write_family(start, "qwen3_moe")
    text = (start / "chat_template.jinja").read_text()
    in_files(start, {"rag": text})
    named = ChatTemplate(named="rag")
    assert check_model(start, named).vocabulary
    save_model(load_model(start, "float32"), start, out, "# card")
    assert find_style(load_tokenizer(out, named)) == find_style(load_tokenizer(start, named))
    assert sorted(load_tokenizer(out, None).chat_template) == ["rag", "tool_use"]
    assert all((out / file).read_bytes() == (start / file).read_bytes() for file in BESIDE)
