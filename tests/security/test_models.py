"""Model folders from outside: no code in them runs, no pickle in them is read, and nothing else is loaded for them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness_example import SPEC
from raised import raises
from ratchet.commands.evaluate import read_model
from ratchet.errors import ModelError, PlanError, RatchetError
from ratchet.model.check import check_model
from ratchet.model.folder import digest_code, weight_files
from ratchet.model.load import load_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import PLAIN
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.trust import load_config, refuse_code
from ratchet.plan.model import ModelSpec
from ratchet.reference.models import trusted_code
from ratchet.serving.served import context
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from token_pairs import TEXTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """\
from pathlib import Path
Path({canary!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class C(LlamaConfig):
    pass
class M(LlamaForCausalLM):
    config_class = C
class T(PreTrainedTokenizerFast):
    pass
def generate(*a, **k):
    pass
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    make_scratch(SPEC, TEXTS, folder)
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(made: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a module beside it that writes the canary as soon as it is imported."""
    out = tmp_path / "model"
    shutil.copytree(made, out)
    for path in (out / "evil.py", out / "custom_generate" / "generate.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(CODE.format(canary=str(canary)))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return out


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


AUTO = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
HARMLESS = {
    "auto_map": {"auto_map": AUTO},
    "auto_map elsewhere": {
        "auto_map": {key: f"other/repo--{value}" for key, value in AUTO.items() if key != "AutoTokenizer"}
    },
    "trust_remote_code": {"auto_map": AUTO, "trust_remote_code": True},
    "kernel of the hub": {"_attn_implementation": "kernels-community/evil"},
    "kernel of the hub, inside": {"_attn_implementation_internal": "evil/kernel", "attn_implementation": "evil/kernel"},
    "experts": {
        "_experts_implementation": "evil/kernel",
        "use_kernels": True,
        "kernel_config": {"RMSNorm": "evil/k:K"},
    },
    "another file": {"configuration_files": ["config.json", "config.4.0.0.json"]},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_config_that_names_code_or_kernels_is_read_as_if_it_did_not(
    name: str, folder: Path, made: Path, canary: Path
) -> None:
    clean = json.loads((made / "config.json").read_text())
    (folder / "config.4.0.0.json").write_text(json.dumps({**clean, "auto_map": AUTO, "model_type": "evil"}))
    edit(folder / "config.json", **HARMLESS[name])
    model = load_model(folder, "float32")
    assert type(model).__module__.startswith("transformers.models.llama")
    assert not canary.exists()
    assert model.config._attn_implementation in {"sdpa", "eager"}
    assert context(folder) == context(made)
    wanted = load_model(made, "float32")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))


@pytest.mark.parametrize("name", HARMLESS)
def test_an_engine_that_reads_the_config_itself_is_not_given_it(name: str, folder: Path, made: Path) -> None:
    refuse_code(made, "vLLM")
    edit(folder / "config.json", **HARMLESS[name])
    with raises("model.code", "vLLM"):
        refuse_code(folder, "vLLM")


def test_code_for_a_model_that_transformers_does_not_know_is_refused_in_words(folder: Path, canary: Path) -> None:
    edit(folder / "config.json", model_type="evil", auto_map=AUTO)
    with raises("model.settings", "auto_map", "trust_remote_code", str(folder / "config.json")):
        load_model(folder, "float32")
    assert not canary.exists()


def test_code_of_a_tokenizer_is_never_run(folder: Path, canary: Path) -> None:
    for said in ({"AutoTokenizer": ["evil.T", "evil.T"]}, ["evil.T", None]):
        edit(folder / "tokenizer_config.json", auto_map=said, tokenizer_class="T")
        # A whole tokenizer.json needs no code.
        assert load_tokenizer(folder, PLAIN)("a b")["input_ids"] and check_model(folder, PLAIN).vocabulary
        (folder / "tokenizer.json").rename(folder / "aside")
        with raises("model.code", "auto_map"):
            load_tokenizer(folder, None)
        with raises("model.code", "auto_map"):
            check_model(folder, PLAIN)
        (folder / "aside").rename(folder / "tokenizer.json")
    edit(folder / "tokenizer_config.json", auto_map=None, tokenizer_class=None)
    edit(folder / "config.json", model_type="evil", auto_map=AUTO)
    try:
        load_tokenizer(folder, None)
    except ModelError as error:
        assert error.code == "model.no-tokenizer"
    assert not canary.exists()


def test_an_adapter_in_disguise_loads_no_other_model(folder: Path, made: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(made), "peft_type": "LORA"}))
    with raises("model.is-adapter"):
        load_model(folder, "float32")


def test_trusted_code_runs_and_only_then(folder: Path, canary: Path) -> None:
    """The canary works: with leave, the very same folder writes it."""
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    load_config(folder)
    assert not canary.exists()
    load_config(folder, trust_remote_code=True)
    assert canary.read_text() == "ran"


def test_code_of_another_repository_is_not_run_even_where_code_is_trusted(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoConfig": "other/repo--evil.C"})
    with raises("model.unpinned-code", "other/repo"):
        load_config(folder, trust_remote_code=True)


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", COMMIT[:-1], COMMIT.upper(), COMMIT + "\n", None])
def test_trust_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(ValidationError, match=r"commit's 40 hex digits|pin its revision"):
        ModelSpec(name="a/b", revision=revision, trust_remote_code=True)
    with pytest.raises(PlanError, match=r"(?s)pin its revision|neither a folder nor"):
        read_model(f"a/b@{revision}" if revision else "a/b", "float32", None, trust=True)
    assert ModelSpec(name="a/b", revision=revision).trust_remote_code is False


def test_what_is_trusted_is_told_with_its_commit_and_a_digest_of_the_code(folder: Path) -> None:
    name, spec = read_model(f"x=a/b@{COMMIT}", "float32", None, trust=True)
    code = trusted_code(spec, folder)
    assert name == "x" and code is not None
    assert (code.model, code.revision, code.digest) == ("a/b", COMMIT, digest_code(folder))
    assert COMMIT in str(code) and code.digest in str(code)
    (folder / "evil.py").write_text("pass\n")
    assert trusted_code(spec, folder) != code
    assert trusted_code(ModelSpec(name="a/b", revision=COMMIT), folder) is None


class Bomb:
    """A pickle of it makes a file where it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "adapter_model.bin"])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_that_are_pickles_are_refused_unread(name: str, raw: bool, folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    if raw:
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    else:
        torch.save({"weight": Bomb(canary)}, folder / name)
    for read in (weight_files, lambda at: check_model(at, PLAIN), lambda at: load_model(at, "float32")):
        with raises("model.pickles", name):
            read(folder)
    assert not canary.exists()
    canary.mkdir()
    with pytest.raises(FileExistsError):  # the bomb is one
        pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301


def test_a_pickle_beside_good_weights_is_not_read(folder: Path, canary: Path) -> None:
    torch.save({"model.norm.weight": Bomb(canary)}, folder / "pytorch_model.bin")
    load_model(folder, "float32")
    assert not canary.exists()


def test_a_pickle_under_the_name_of_safetensors_is_refused(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    for read in (lambda at: check_model(at, PLAIN), lambda at: load_model(at, "float32")):
        with pytest.raises(RatchetError):
            read(folder)
    assert not canary.exists()


def test_a_checkpoint_that_was_changed_is_set_aside_before_anything_reads_it(tmp_path: Path, canary: Path) -> None:
    def save(step: int) -> Callable[[Path], list[Path]]:
        def write(at: Path) -> dict[Path, str]:
            torch.save({"step": step}, at / "state.pt")
            return {at / "state.pt": hashlib.sha256((at / "state.pt").read_bytes()).hexdigest()}

        return write

    checkpoints = Checkpoints(tmp_path / "step", Alone(), keep=2)
    for step in (1, 2):
        checkpoints.save(step, save(step), {"workers": 1})
    torch.save({"step": Bomb(canary)}, tmp_path / "step" / "checkpoints" / "step-000002" / "state.pt")
    found = Checkpoints(tmp_path / "step", Alone(), keep=2).newest()
    assert found is not None and found.step == 1
    assert not canary.exists()
    with pytest.raises(pickle.UnpicklingError):  # and the reader of our own state takes tensors alone
        bad = next((tmp_path / "step" / "checkpoints").glob("bad-*"))
        torch.load(bad / "state.pt", weights_only=True)
    assert not canary.exists()
