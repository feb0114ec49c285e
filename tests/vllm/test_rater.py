"""vLLM as an engine of scores, in this process: its numbers, its models one after the other, its deaths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from raised import raises
from ratchet.model.lora import add_lora, merge_lora, save_adapter
from ratchet.pairs.table import TokenTable
from ratchet.plan.training import Lora
from ratchet.reference.models import EngineChoice, Passes, ScoringModel, read_adapter, servable
from ratchet.reference.rate import TrainerRater
from ratchet.reference.store import Logps
from vllm_bench import needs_vllm, write_pairs
from wide_heads import widen_heads

pytestmark = needs_vllm
LONGEST = 128
VLLM = EngineChoice("vllm", "test")
ROWS = np.arange(24)
BOUND = 1e-3  # nats a sequence, float32


@pytest.fixture(scope="module")
def base(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen_heads(stories, tmp_path_factory.mktemp("wide"), 32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TokenTable:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.arrow", 40)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The base with a trained-looking adapter: merged, and alone."""
    folder = tmp_path_factory.mktemp("tuned")
    settings = Lora(rank=4, alpha=16.0, targets=("q_proj", "v_proj", "down_proj"))
    model = add_lora(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    save_adapter(model, folder / "adapter")
    merge_lora(model).save_pretrained(folder / "model")
    return folder / "model", folder / "adapter"


@pytest.fixture
def rater(base: Path, tuned: tuple[Path, Path]) -> Iterator[Any]:
    from ratchet.reference.vllm_rater import VllmRater

    made = VllmRater(VLLM, [scoring(base), scoring(tuned[0])], LONGEST, gpu=False)
    yield made
    made.halve()


def scoring(folder: Path) -> ScoringModel:
    return ScoringModel(folder, str(folder), "float32")


def own(folder: Path, table: TokenTable, rows: Any = ROWS) -> Logps:
    return TrainerRater(Passes(2048), "cpu", 1.0).rate(scoring(folder), table, rows)


def assert_close(found: Logps, expected: Logps) -> None:
    np.testing.assert_allclose(found.chosen, expected.chosen, rtol=0, atol=BOUND)
    np.testing.assert_allclose(found.rejected, expected.rejected, rtol=0, atol=BOUND)
    assert np.array_equal(found.chosen_tokens, expected.chosen_tokens)
    assert np.array_equal(found.rejected_tokens, expected.rejected_tokens)


def test_scores_are_the_trainer_s(rater: Any, base: Path, table: TokenTable) -> None:
    found = rater.rate(scoring(base), table, ROWS)
    assert_close(found, own(base, table))
    assert (found.chosen < 0).all() and len(set(found.chosen)) == len(ROWS)


def test_scores_depend_on_neither_order_nor_company(rater: Any, base: Path, table: TokenTable) -> None:
    together = rater.rate(scoring(base), table, ROWS)
    turned = rater.rate(scoring(base), table, ROWS[::-1])
    alone = np.array([rater.rate(scoring(base), table, ROWS[i : i + 1]).chosen[0] for i in range(0, 24, 5)])
    assert np.array_equal(together.chosen, turned.chosen[::-1])
    assert np.array_equal(together.rejected, turned.rejected[::-1])
    assert np.array_equal(together.chosen[::5], alone)


def test_another_model_of_the_same_shape_is_loaded_in_place(
    rater: Any, base: Path, tuned: tuple[Path, Path], table: TokenTable
) -> None:
    rater.rate(scoring(base), table, ROWS[:4])
    starts = rater.starts
    assert_close(rater.rate(scoring(tuned[0]), table, ROWS), own(tuned[0], table))
    assert_close(rater.rate(scoring(base), table, ROWS), own(base, table))
    assert rater.starts == starts


def test_a_tied_head_is_loaded_in_place_too(rater: Any, base: Path, tmp_path: Path, table: TokenTable) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert model.config.tie_word_embeddings
    torch.manual_seed(2)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(torch.randn_like(model.get_input_embeddings().weight), alpha=0.1)
    model.save_pretrained(tmp_path)
    rater.rate(scoring(base), table, ROWS[:2])
    assert_close(rater.rate(scoring(tmp_path), table, ROWS), own(tmp_path, table))
    assert rater.starts == 1


def test_an_adapter_on_the_engine_that_is_up_equals_the_merged_model(
    base: Path, tuned: tuple[Path, Path], table: TokenTable
) -> None:
    from ratchet.reference.vllm_rater import VllmRater

    adapter = read_adapter(tuned[1], base)
    assert servable(adapter) and adapter.rank == 4
    adapted = ScoringModel(tuned[0], "tuned", "float32", adapter=adapter)
    both = VllmRater(VLLM, [scoring(base), adapted], LONGEST, gpu=False)
    try:
        assert_close(both.rate(scoring(base), table, ROWS), own(base, table))
        assert_close(both.rate(adapted, table, ROWS), own(tuned[0], table))
        assert_close(both.rate(scoring(base), table, ROWS), own(base, table))
        assert both.starts == 1
    finally:
        both.halve()
    assert np.abs(own(base, table).chosen - own(tuned[0], table).chosen).max() > 1  # the adapter does something


def test_a_model_of_another_shape_gets_an_engine_of_its_own(
    rater: Any, base: Path, tmp_path: Path, table: TokenTable
) -> None:
    config = AutoModelForCausalLM.from_pretrained(base).config
    config.num_hidden_layers = 2
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    rater.rate(scoring(base), table, ROWS[:2])
    starts = rater.starts
    assert_close(rater.rate(scoring(tmp_path), table, ROWS), own(tmp_path, table))
    assert rater.starts == starts + 1


def test_an_engine_that_dies_is_started_again_with_half_and_then_gives_up(
    rater: Any, base: Path, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import LLM

    before = rater.rate(scoring(base), table, ROWS)
    right, calls = LLM.generate, []

    def dies(failures: int) -> Any:
        def generate(self: Any, prompts: Any, *arguments: Any, **named: Any) -> Any:
            if len(prompts) > 1:  # the warm-up is one
                calls.append(self.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens)
                if len(calls) <= failures:
                    raise RuntimeError("[enforce fail at alloc_cpu.cpp] out of memory")
            return right(self, prompts, *arguments, **named)

        return generate

    monkeypatch.setattr(LLM, "generate", dies(1))
    assert np.array_equal(rater.rate(scoring(base), table, ROWS).chosen, before.chosen)
    assert calls[-1] == calls[0] // 2
    calls.clear()
    monkeypatch.setattr(LLM, "generate", dies(9))
    with raises("data.deadly") as raised:
        rater.rate(scoring(base), table, ROWS)
    assert "0000000000000000, " in raised.value.what
    assert "out of memory" in str(raised.value) and "reference.engine" in raised.value.fix
    monkeypatch.setattr(LLM, "generate", right)
    assert_close(rater.rate(scoring(base), table, ROWS), own(base, table))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_ids_alone_and_whole_prompts_give_the_same_numbers(
    base: Path, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ratchet.reference.vllm_rater import VllmRater

    made = VllmRater(VLLM, [scoring(base)], LONGEST, gpu=True)
    found = made.rate(scoring(base), table, ROWS)
    assert made._engine is not None and made._engine._by_token_ids
    monkeypatch.setattr(made._engine, "_by_token_ids", False)
    assert_close(found, made.rate(scoring(base), table, ROWS))
    assert_close(found, own(base, table))
    made.halve()


def test_heads_of_a_width_that_the_kernel_lacks_are_a_clear_error(stories: Path, table: TokenTable) -> None:
    from ratchet.reference.vllm_rater import VllmRater

    with raises("model") as raised:
        VllmRater(VLLM, [scoring(stories)], LONGEST, gpu=False).rate(scoring(stories), table, ROWS)
    assert "head_dim=8" in raised.value.what
    assert "reference.engine" in raised.value.fix


def test_pairs_beyond_the_model_s_context_are_named(base: Path, tmp_path: Path, table: TokenTable) -> None:
    from ratchet.reference.vllm_rater import VllmRater

    shutil.copytree(base, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 64}))
    with raises("data") as raised:
        VllmRater(VLLM, [scoring(tmp_path / "model")], LONGEST, gpu=False).rate(
            scoring(tmp_path / "model"), table, ROWS
        )
    assert "0000000000000000, " in raised.value.what
    assert "max_length" in raised.value.fix


def test_another_precision_gets_an_engine_of_its_own(rater: Any, base: Path, table: TokenTable) -> None:
    first = rater.rate(scoring(base), table, ROWS[:6])
    half = ScoringModel(base, "half", "bfloat16")
    second = rater.rate(half, table, ROWS[:6])
    assert rater.starts == 2 and not np.array_equal(first.chosen, second.chosen)
    expected = TrainerRater(Passes(2048), "cpu", 1.0).rate(half, table, ROWS[:6])
    np.testing.assert_allclose(second.chosen, expected.chosen, rtol=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["NoSuchModelForCausalLM"], "model_type": "llama"}, "NoSuchModelForCausalLM"),
    ],
)
def test_a_model_that_vllm_does_not_take_is_a_clear_error(
    base: Path, tmp_path: Path, table: TokenTable, change: dict[str, Any], words: str
) -> None:
    from ratchet.reference.vllm_rater import VllmRater

    shutil.copytree(base, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with raises("model") as raised:
        VllmRater(VLLM, [scoring(tmp_path / "model")], LONGEST, gpu=False).rate(
            scoring(tmp_path / "model"), table, ROWS
        )
    assert words in raised.value.what
    assert "reference.engine" in raised.value.fix
