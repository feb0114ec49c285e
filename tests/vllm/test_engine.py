"""vLLM's numbers against transformers' own forward pass, with a published checkpoint."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from wide_heads import widen_heads

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM here; `make test-vllm` sets it up"),
]
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
HEAD = 32  # the narrowest that vLLM's attention has on a CPU; the checkpoint's are 8 wide


@pytest.fixture(scope="module")
def wide(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen_heads(stories, tmp_path_factory.mktemp("wide"), HEAD)


@pytest.fixture(scope="module")
def engine(wide: Path) -> Iterator[Any]:
    # vLLM compiles one small function for the first request, which needs g++: not so under this stance.
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        from vllm import LLM

        llm = LLM(
            model=str(wide),
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=16,
            max_num_batched_tokens=2048,
            kv_cache_memory_bytes=64 << 20,
        )
        yield llm
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def sequences() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [[1, *random.integers(3, 512, int(random.integers(4, 400))).tolist()] for _ in range(10)]


def by_transformers(folder: Path, ids: list[int]) -> np.ndarray:
    """log p of each token after the first, given those before it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.tensor(ids)
    with torch.no_grad():
        logps = model(input_ids=tokens[None], use_cache=False).logits[0].log_softmax(-1)
    return logps[:-1].gather(-1, tokens[1:, None])[:, 0].numpy()


def by_vllm(engine: Any, sequences: list[list[int]]) -> list[np.ndarray]:
    from vllm import SamplingParams

    settings = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in sequences], settings, use_tqdm=False)
    found = [output.prompt_logprobs for output in outputs]
    return [np.asarray(flat.logprobs, np.float32)[np.asarray(flat.start_indices[1:])] for flat in found]


def test_wider_heads_are_the_same_model(stories: Path, wide: Path) -> None:
    for ids in sequences():
        np.testing.assert_allclose(by_transformers(wide, ids), by_transformers(stories, ids), rtol=0, atol=1e-4)


def test_scores_equal_those_of_transformers(engine: Any, wide: Path) -> None:
    given = sequences()
    for ids, found in zip(given, by_vllm(engine, given), strict=True):
        expected = by_transformers(wide, ids)
        assert len(found) == len(ids) - 1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert found.sum(dtype=np.float64) == pytest.approx(expected.sum(dtype=np.float64), abs=1e-3, rel=0)


def test_scores_depend_on_neither_order_nor_company(engine: Any) -> None:
    given = sequences()
    together = by_vllm(engine, given)
    turned = by_vllm(engine, given[::-1])[::-1]
    alone = [by_vllm(engine, [ids])[0] for ids in given]
    for first, second, third in zip(together, turned, alone, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
