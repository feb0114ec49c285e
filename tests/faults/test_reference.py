"""Reference scores are those of one model, tokenizer, template, precision and length policy, or they are not found."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raised import raises
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import ChatTemplate, chat_template_of
from ratchet.pairs.token_flow import tokens_identity
from ratchet.pairs.tokens import Policy
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE
from ratchet.pipeline.prepare import base_model, check_external_models
from ratchet.plan.load import load_plan
from ratchet.reference.models import ScoredPairs
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from token_pairs import CHATML, SPEC, TEXTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "start"
    made.mkdir()
    make_scratch(SPEC, TEXTS, made)
    return made


def found_under(folder: Path, template: ChatTemplate | None = None, longest: int = 96, dtype: str = "float32") -> str:
    """The name under which the store keeps scores, worked out from the model's folder as a run does."""
    tokens = fingerprint(tokens_identity("pairs", folder, Policy(longest, "drop"), template))
    return fingerprint(
        ScoredPairs(
            tokens=tokens,
            split="train",
            rows=None,
            weights=digest_model(folder),
            dtype=dtype,
            quantise=None,
            engine="trainer",
        ).identity
    )


def other_weights(folder: Path) -> dict[str, Any]:
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.nextafter(weights[name], torch.tensor(1e9))  # the smallest change there is
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {}


def other_tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|turn|>"}))
    return {}


def other_template(folder: Path) -> dict[str, Any]:
    (folder / "own.jinja").write_text(CHATML)
    return {"template": ChatTemplate((folder / "own.jinja").read_text())}


CHANGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "model": other_weights,
    "tokenizer": other_tokenizer,
    "template": other_template,
    "dtype": lambda _: {"dtype": "bfloat16"},
    "max_length": lambda _: {"longest": 95},
}


def test_a_change_of_any_one_thing_finds_no_scores(folder: Path, tmp_path: Path) -> None:
    base = found_under(folder)
    names = {base}
    for what, change in CHANGES.items():
        copy = tmp_path / what
        shutil.copytree(folder, copy)
        assert found_under(copy) == base, "a copy elsewhere is the same model"
        names.add(found_under(copy, **change(copy)))
    assert len(names) == len(CHANGES) + 1


PLAN = """\
name: p
model: {{path: {start}}}
data: {{sums: {{generate: {{kind: arithmetic}}, build: arithmetic_corruption}}}}
stages:
  align: {{kind: dpo, data: [sums], max_length: 96, reference: {{path: {reference}}}}}
"""


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def added_token(folder: Path) -> None:
    """As a word that was added, and the embeddings not resized."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = {"content": "<|new|>", "id": 100_000, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(added | {"normalized": False, "special": False})
    path.write_text(json.dumps(tokenizer))


def another_id(folder: Path) -> None:
    """Two tokens of the vocabulary change places: every text has other ids."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("spoilt", "fault", "code"),
    [
        ("start", without_template, "model.no-template"),
        ("start", added_token, "model.few-ids"),
        ("reference", added_token, "model.few-ids"),
        ("reference", another_id, "model.other-ids"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_before_there_is_a_cluster(
    folder: Path, tmp_path: Path, spoilt: str, fault: Callable[[Path], None], code: str
) -> None:
    shutil.copytree(folder, tmp_path / "reference")
    fault(tmp_path / spoilt)
    (tmp_path / "plan.yaml").write_text(PLAN.format(start=folder, reference=tmp_path / "reference"))
    plan = load_plan(tmp_path / "plan.yaml")
    run = Run(plan, Layout(tmp_path / "out"), Console(), False, chat_template_of(plan.model))
    with raises(code):
        run.models[BASE] = base_model(run)
        check_external_models(run)
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
