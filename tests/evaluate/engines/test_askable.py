"""What a local model must be before it is asked: it reads tokens alone, from left to right; else an error names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from family_configs import FIRST, VOCABULARY, write_tiny
from raised import raises
from ratchet.evaluate.engines.likelihood import may_share
from ratchet.evaluate.engines.local import LocalEngine
from ratchet.model.causal import need_causal
from ratchet.model.forward import PairScorer
from ratchet.model.load import load_model
from ratchet.pipeline.standalone_evaluation import EvaluationRequest, evaluate_models
from ratchet.plan.cluster import Cluster
from ratchet.plan.loose import model_named
from ratchet.plan.suite import Suite
from ratchet.serving.requests import CompletionRequest, ContinuationRequest, Sampling
from tiny_models import plain, tiny

MORE_THAN_IDS = ("blip", "kosmos-2", "pix2struct", "udop")
"""Families that want a picture or a page besides."""
NOT_CAUSAL = ("cpmant", "paligemma", "prophetnet", "xlnet")
LEFT_TO_RIGHT = ("bert", "electra", "roberta")
"""Encoders that were made to read from left to right."""


def engine_of(family: str, folder: Path, **settings: Any) -> LocalEngine:
    write_tiny(family, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return LocalEngine(folder, "float32", "cpu")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("family", "what"),
    [(name, "does not run on token ids alone") for name in MORE_THAN_IDS]
    + [(name, "not causal") for name in NOT_CAUSAL],
)
def test_what_is_no_causal_model_of_texts_is_refused_by_name(family: str, what: str, tmp_path: Path) -> None:
    with raises("model.unscorable", what) as caught:
        engine_of(family, tmp_path)
    assert caught.value.where == str(tmp_path) and caught.value.fix
    with raises("model.unscorable", what) as trained:
        PairScorer(load_model(tmp_path, "float32"))
    assert trained.value.what == caught.value.what


@pytest.mark.parametrize("family", LEFT_TO_RIGHT)
def test_an_encoder_that_reads_from_left_to_right_is_asked(family: str, tmp_path: Path) -> None:
    engine, random = engine_of(family, tmp_path), np.random.default_rng(5)
    draw = lambda count: tuple(int(one) for one in random.integers(FIRST, VOCABULARY, count))  # noqa: E731
    asked = [ContinuationRequest(draw(n), tuple(draw(m) for m in (1, 4, 9))) for n in (1, 7, 30)]
    model = load_model(tmp_path, "float32")
    with torch.no_grad():
        for one, answer in zip(asked, engine.answer(asked), strict=True):
            wanted = [float(plain(model, np.array(one.context), np.array(tail))) for tail in one.continuations]
            assert answer.logprobs == pytest.approx(wanted, abs=1e-3)


def test_an_encoder_that_sees_all_is_refused(tmp_path: Path) -> None:
    with raises("model.unscorable", "not causal"):
        engine_of("bert", tmp_path, is_decoder=False)


def test_a_model_that_generate_cannot_run_says_so(tmp_path: Path) -> None:
    """xLSTM's own cache has another shape than its states, where heads have fewer queries than values."""
    engine = engine_of("xlstm", tmp_path)
    (scored,) = engine.answer([ContinuationRequest((20, 21), ((22, 23),))])
    assert scored.logprobs is not None
    with raises("model.unscorable", "xLSTMForCausalLM", "generate") as caught:
        engine.answer([CompletionRequest("What is", Sampling(max_tokens=4))])
    assert caught.value.where == str(tmp_path)


def test_a_fault_over_padded_rows_or_continuations_names_the_model(tmp_path: Path) -> None:
    engine = engine_of("llama", tmp_path)
    inner, places = engine.model.forward, 3

    def short(*args: Any, input_ids: torch.Tensor, **named: Any) -> Any:
        if input_ids.shape[1] > places:
            raise IndexError("index out of range in self")
        return inner(*args, input_ids=input_ids, **named)

    engine.model.forward = short
    with raises("model.unscorable", "padded rows", "index out of range"):
        may_share(engine.model)
    engine.share, engine.reach = False, 0
    with raises("model.unscorable", "continuations", "index out of range"):
        engine.answer([ContinuationRequest((20, 21, 22), ((22, 23, 24),))])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_says_nothing_of_a_model(error: RuntimeError) -> None:
    model = tiny("llama")

    def full(*_: Any, **__: Any) -> None:
        raise error

    model.forward = full
    for masked in (False, True):
        with pytest.raises(type(error), match="memory"):
            need_causal(model, masked=masked)


@pytest.mark.parametrize("masked", [False, True])
def test_the_logits_that_are_compared_are_the_models_own(masked: bool) -> None:
    model, seen = tiny("qwen3"), list[bool]()
    inner = model.forward

    def forward(*args: Any, attention_mask: Any = None, **named: Any) -> Any:
        seen.append(attention_mask is not None)
        return inner(*args, attention_mask=attention_mask, **named)

    model.forward = forward
    found_TV, ids_T = need_causal(model, masked=masked), torch.arange(1, 13) * 7919 % 61
    assert set(seen) == {masked}
    torch.testing.assert_close(found_TV, inner(input_ids=ids_T[None], use_cache=False).logits[0].float())


@pytest.mark.heavy
@pytest.mark.parametrize("family", [*MORE_THAN_IDS, "cpmant"])
def test_a_whole_evaluation_ends_with_the_name_of_the_model(family: str, tmp_path: Path) -> None:
    write_tiny(family, tmp_path / "subject")
    (tmp_path / "text.txt").write_text("How are you today? " * 9, encoding="utf-8")
    tasks = {"text": {"kind": "perplexity", "rows": {"path": str(tmp_path / "text.txt")}, "window": 32}}
    (tmp_path / "mine.yaml").write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    spec = model_named({"path": str(tmp_path / "subject"), "dtype": "float32"})
    evaluated = evaluate_models(
        [EvaluationRequest("subject", spec)],
        tmp_path / "mine.yaml",
        Suite.model_validate({"tasks": tasks}),
        Cluster(storage=str(tmp_path / "out")),
        None,
        here=True,
    )
    error = evaluated.error()
    assert error is not None and error.code == "model.unscorable" and error.fix
    assert "tasks.text of subject was not asked" in error.what and str(tmp_path / "subject") in error.what
    assert evaluated.report.is_file()
