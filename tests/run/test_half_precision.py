"""Families whose decoder and head differ in precision score, train and evaluate in 16 bits as their own classes do.

Mamba's decoder gives float32 to a head in 16 bits, and HY 4's head is in float32 beneath a decoder in 16 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from family_configs import FIRST, VOCABULARY, write_tiny
from raised import raises
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods, may_share
from ratchet.model.forward import PairScorer, score
from ratchet.model.head import AnswerHead, as_head_takes
from ratchet.model.load import DTYPES, load_model
from ratchet.model.parts import decoder_of
from ratchet.serving.requests import ContinuationRequest
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from tiny_models import CARRYING, CONFIGS, UNSHARED, family_of_pairs, plain, tiny
from train_bench import CPU, Pairs, reference_of, spec_of, train_whole, write_logps, write_tokens

APART = {"falcon_mamba": False, "hy_v4": False, "mamba": False, "mamba2": True}
"""Families, and whether they share prompts."""
HALF = ("bfloat16", "float16")
NARROW = {"mimo-v2", "nemotron-h", "qwen3-next"}
"""Their tiny experts are narrower than torch's grouped product takes in 16 bits."""


@pytest.fixture(scope="module", params=sorted(APART))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    write_tiny(request.param, folder / "start")
    return request.param, folder / "start"


def precisions(model: nn.Module) -> tuple[torch.dtype, torch.dtype]:
    hidden_1TH = decoder_of(model)(input_ids=torch.arange(20, 32)[None], use_cache=False)[0]
    return hidden_1TH.dtype, model.get_output_embeddings().weight.dtype  # type: ignore[operator]


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", HALF)
def test_scores_are_those_of_the_classes_own_forward(family: tuple[str, Path], dtype: str) -> None:
    name, folder = family
    model, pairs = load_model(folder, dtype), family_of_pairs()
    given, taken = precisions(model)
    assert given != taken and DTYPES[dtype] in {given, taken}
    with torch.no_grad():
        wanted = [torch.stack([plain(model, pair.prompt, getattr(pair, side)) for pair in pairs])
                  for side in ("chosen", "rejected")]  # fmt: skip
    scorer = PairScorer(model)
    assert (scorer.packing.why_padded is None) == APART[name]
    found = score(scorer, pairs, CPU)
    for ours, theirs in zip((found.chosen_B, found.rejected_B), wanted, strict=True):
        assert float((ours - theirs).detach().abs().max()) < 2e-4 * float(theirs.abs().max())
    (found.chosen_B - found.rejected_B).sum().backward()
    grads = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    assert grads and all(bool(grad.isfinite().all()) for grad in grads.values())
    assert any(bool(grad.any()) for key, grad in grads.items() if "layers.0" in key)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", HALF)
def test_evaluation_gives_the_classes_own_likelihoods(family: tuple[str, Path], dtype: str) -> None:
    name, folder = family
    model, random = load_model(folder, dtype), np.random.default_rng(5)
    draw = lambda count: tuple(int(one) for one in random.integers(FIRST, VOCABULARY, count))  # noqa: E731
    asked = [ContinuationRequest(draw(n), tuple(draw(m) for m in (1, 4, 9))) for n in (1, 7, 30)]
    reach = forest_reach(model)
    assert (reach > 0) == APART[name]
    answers = likelihoods(model, asked, share=may_share(model), reach=reach)
    with torch.no_grad():
        for one, answer in zip(asked, answers, strict=True):
            wanted = [float(plain(model, np.array(one.context), np.array(tail))) for tail in one.continuations]
            assert answer.logprobs == pytest.approx(wanted, rel=2e-3, abs=2e-2)


@pytest.mark.heavy
def test_they_train_in_bfloat16_to_a_published_folder(family: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = family
    pairs = Pairs(8)
    write_tokens(tmp_path / "train.arrow", pairs)
    write_logps(tmp_path / "logps", pairs, reference_of(load_model(folder, "bfloat16"), pairs))
    spec = spec_of(
        tmp_path / "out",
        model=str(folder),
        dtype="bfloat16",
        tokens=(str(tmp_path / "train.arrow"),),
        shares=(1.0,),
        references=(str(tmp_path / "logps"),),
        epochs=1,
        batch=4,
        token_budget=2000,
        learning_rate=1e-2,
    )
    train_whole(spec, Alone(), CPU, TorchEngine)
    before, after = (load_model(one, "bfloat16").state_dict() for one in (folder, tmp_path / "out/model"))
    assert before.keys() == after.keys()
    assert all(before[key].dtype == after[key].dtype for key in before)
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert any("layers.0" in key for key in moved)


def test_a_class_that_does_not_run_in_16_bits_is_refused_by_name(tmp_path: Path) -> None:
    """DeepSeek V4 keeps norms in float32, and its own code hands what they give to weights in 16 bits."""
    write_tiny("deepseek_v4", tmp_path)
    PairScorer(load_model(tmp_path, "float32"))
    for dtype in HALF:
        with raises("model.unscorable", f"does not run on token ids alone in {dtype}") as caught:
            PairScorer(load_model(tmp_path, dtype))
        assert "float32" in caught.value.fix and caught.value.where == str(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_precisions_are_equal_nothing_is_computed(dtype: torch.dtype) -> None:
    equal = 0
    for name in sorted((CONFIGS | CARRYING | UNSHARED).keys() - NARROW):
        model = tiny(name, dtype)
        head, hidden = model.get_output_embeddings(), decoder_of(model)(input_ids=torch.arange(3, 9)[None])[0]
        if hidden.dtype == head.weight.dtype:
            equal += 1
            assert as_head_takes(head, hidden) is hidden, name
    assert equal >= 25


def test_a_head_that_says_no_precision_takes_what_comes() -> None:
    hidden_EH: Tensor = torch.ones(3, 8)
    whole = nn.Linear(8, 5)
    whole.weight = nn.Parameter(torch.zeros(5, 8, dtype=torch.int8), requires_grad=False)  # as a quantiser has it
    for head in (whole, nn.Identity()):
        assert as_head_takes(head, hidden_EH) is hidden_EH
    half = AnswerHead.adopt(nn.Linear(8, 5).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert as_head_takes(half, hidden_EH) is hidden_EH
    assert as_head_takes(half, hidden_EH).dtype == torch.bfloat16
