"""What only a GPU can show: FlexAttention over a forest, no wait within a step, memory that fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import train
from benchmarks.tables import markdown
from ratchet.evaluate.engines.local import LocalEngine
from ratchet.model import memory
from ratchet.model.attention import attend
from ratchet.model.batch import branches_of, collate
from ratchet.model.folder import digest_model
from ratchet.model.forward import PairScorer, by_side, score
from ratchet.model.support import kernel_disproof
from ratchet.model.tree import lay_out
from ratchet.model.tree_plan import TreePlan
from ratchet.pairs.pair import TokenisedPair
from ratchet.reference.models import Passes, ScoreJob, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.reference.store import read_all
from ratchet.serving.requests import CompletionRequest, ContinuationRequest, Sampling
from ratchet.store.layout import Layout
from ratchet.train import budget
from ratchet.train.batches import GlobalBatch
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, works_of
from ratchet.train.objective import Data
from ratchet.train.spec import Owed
from tiny_models import family_of_pairs, plain, tiny
from train_bench import Pairs, reference_of, spec_of, tiny_model, train_whole, write_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_equals_dense(dtype: torch.dtype) -> None:
    branches, _ = branches_of(family_of_pairs() * 8)
    forest = lay_out(branches, "auto")
    plan = TreePlan(forest.chains, torch.from_numpy(forest.end_T).to(GPU))
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, len(forest.ids_T), 64, device=GPU, dtype=dtype, requires_grad=True) for heads in (4, 2, 2)
    )
    grads = []
    for softcap in (None, 1e4):  # a soft cap this high changes nothing, and is computed by `dense`
        out, _ = attend(torch.nn.Identity(), query, key, value, None, tree=plan, softcap=softcap)
        grads.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    allowed = 2e-3 if dtype == torch.float32 else 3e-2
    for flex, dense in zip(*grads, strict=True):
        torch.testing.assert_close(flex, dense, rtol=allowed, atol=allowed)


def test_a_block_mask_takes_little_memory() -> None:
    rows = 32_768
    plan = TreePlan((), (torch.arange(rows, device=GPU) // 128 + 1) * 128)
    before = memory.reset_peak(GPU)
    assert plan.blocks.sparsity() > 99
    assert memory.peak(GPU) - before < rows * rows / 8  # as booleans alone all rows by all rows take rows * rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_trusted_before_a_model_is_moved(dtype: torch.dtype) -> None:
    for sinks, window in ((False, None), (True, None), (True, 5)):
        assert kernel_disproof(8, 2, 64, dtype, GPU, sinks=sinks, window=window) is None
    assert PairScorer(tiny("llama-gqa-tied", dtype), device=GPU).packing.why_padded is None


def test_the_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "cells.json"
    few = ["--vocab", "2k", "--dtype", "bfloat16", "--batch", "8", "--micro", "4", "--rounds", "1"]
    train.main(["--device", "cuda", "--model", "tiny", "--shape", "near twins", *few, "--out", str(out)])
    (cell,) = json.loads(out.read_text())["cells"]
    for side in cell["sides"].values():
        assert side["memory_bytes"] > 0 and side["gradient_difference"]["largest"] < 0.2
    assert "Ratchet" in markdown([cell])


@pytest.mark.parametrize("name", ["llama-gqa-tied", "qwen3", "gemma2-capped", "gpt-neox"])
def test_scores_on_a_gpu_equal_a_plain_float64_forward(name: str) -> None:
    ours, exact, pairs = tiny(name, torch.float32), tiny(name), family_of_pairs()
    exact.load_state_dict(ours.state_dict())
    scores = score(PairScorer(ours.to(GPU)), pairs, GPU)
    chosen = torch.stack([plain(exact, pair.prompt, pair.chosen) for pair in pairs])
    torch.testing.assert_close(scores.chosen_B.double().cpu(), chosen, rtol=1e-4, atol=1e-3)


def test_a_branch_does_not_see_another_branch() -> None:
    scorer, pairs = PairScorer(tiny("llama-gqa-tied", torch.bfloat16).to(GPU)), family_of_pairs()
    other = pairs[2].rejected.copy()
    other[-1] = other[-1] % 50 + 3
    changed = [*pairs[:2], TokenisedPair("x", pairs[2].prompt, pairs[2].chosen, other), *pairs[3:]]
    with torch.no_grad():
        batches = [collate(some, scorer.packing).to(GPU) for some in (pairs, changed)]
        before, after = (by_side(batch, scorer(batch)) for batch in batches)
    assert torch.equal(before.chosen_B, after.chosen_B)
    assert (before.rejected_B != after.rejected_B).nonzero().flatten().tolist() == [2]


def test_passes_do_not_wait_for_the_device(tmp_path: Path) -> None:
    spec, table = spec_of(tmp_path), Pairs(22)
    engine = TorchEngine(spec, PairScorer(tiny_model().to(GPU)), GPU)
    data = Data(table, reference_of(tiny_model(), table))
    parts = Parts(engine, data, None, 96, Alone(), Checkpoints(tmp_path, Alone(), 1), None, None)
    rows = np.arange(8)
    batch = GlobalBatch(2, 1, rows, 0.5)
    works = works_of(spec, parts, rows)
    accumulate(spec, parts, batch, works)  # compiles
    torch.cuda.set_sync_debug_mode("error")  # whatever waits raises
    try:
        tally = accumulate(spec, parts, batch, works)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tally.sums.is_cuda and all(loss_B.is_cuda for _, loss_B in tally.losses)
    same_work = TorchEngine(spec, PairScorer(tiny_model()), torch.device("cpu"))
    on_cpu = accumulate(spec, dataclasses.replace(parts, engine=same_work), batch, works)
    torch.testing.assert_close(tally.sums.cpu(), on_cpu.sums, rtol=1e-4, atol=1e-4)


def test_the_budget_found_fits(tmp_path: Path) -> None:
    spec, table = spec_of(tmp_path, token_budget=None, gradient_checkpointing=None, gpus_per_worker=1.0), Pairs(22)
    engine = TorchEngine(spec, PairScorer(tiny_model().to(GPU)), GPU)
    data = Data(table, reference_of(tiny_model(), table))
    assert budget.choose(spec, engine, data, Alone(), pytest.fail) >= 512


def test_an_engine_on_a_gpu_says_what_one_on_a_cpu_does(stories: Path) -> None:
    there, here = LocalEngine(stories, "float32", "cuda"), LocalEngine(stories, "float32", "cpu")
    ids = tuple(here.tokenizer("Once upon a time, there was a")["input_ids"])
    asked = [
        ContinuationRequest(ids, ((5, 9, 33), (7,), (8, 2, 11, 40))),
        ContinuationRequest(ids[:3], ((4,), (6, 6))),
        CompletionRequest(ids, Sampling(max_tokens=24)),
        CompletionRequest(ids, Sampling(max_tokens=24, temperature=0.8, seed=3)),  # drawn on the CPU, so the same
    ]
    for mine, theirs in zip(there.answer(asked), here.answer(asked), strict=True):
        assert mine.text == theirs.text and mine.greedy == theirs.greedy
        assert mine.logprobs is None or mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-2)


def test_a_model_just_trained_scores_there_once_its_engine_has_gone(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    spec = spec_of(tmp_path / "step", gpus_per_worker=1.0, **inputs)
    job, passes = ScoreJob("t", tmp_path, "train"), Passes(96)
    owed = Owed(Layout(tmp_path / "root"), (job,), passes, actors=1)
    (tmp_path / "step").mkdir()
    outcome = train_whole(dataclasses.replace(spec, owed=owed), Alone(), GPU, TorchEngine)
    assert outcome["scored"]["why_not"] is None and outcome["scored"]["pairs"] == 22
    folder = tmp_path / "step/model"
    model = ScoringModel(folder, digest_model(folder), "float32")
    (mine,) = score_jobs([(model, job)], owed.layout, Pool(1, 1, passes))
    (theirs,) = score_jobs([(model, job)], Layout(tmp_path / "beside"), Pool(1, 1, passes))
    assert mine.reused and not theirs.reused
    np.testing.assert_array_equal(read_all(mine.folder).chosen, read_all(theirs.folder).chosen)


def test_a_released_engine_gives_the_device_back(tmp_path: Path) -> None:
    before = memory.reset_peak(GPU)
    engine = TorchEngine(spec_of(tmp_path), PairScorer(tiny_model().to(GPU)), GPU)
    assert memory.reset_peak(GPU) > before
    engine.release()
    assert memory.reset_peak(GPU) <= before
