"""Small lm-eval tasks and a small model that answers them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from plain_engine import PlainEngine
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.definitions import quiet
from ratchet.plan.model import Scratch
from ratchet.plan.tasks import Harness
from tests.conftest import ROOT

OWN = ROOT / "eval" / "harness"
SPEC = Scratch(
    tokenizer_from=("a",), vocab_size=320, hidden_size=16, layers=2, heads=2, key_value_heads=1, max_positions=96
)


def asking(task: str, metric: str, **more: Any) -> Harness:
    return Harness(kind="harness", task=task, metric=metric, **more)


SUMS = asking("small_sums", "acc", include=str(OWN), limit=8)
WORDS = asking("word_letters", "exact_match", include=str(OWN), limit=6)


def candidate_of(folder: Path, longest: int) -> Candidate:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Candidate(PlainEngine(model, tokenizer), tokenizer, longest, folder.name)


def recorded(candidate: Candidate, work: Any) -> dict[str, Any]:
    """What the engine was asked in the one call that `work` makes."""
    engine = candidate.engine
    assert isinstance(engine, PlainEngine)
    before = len(engine.asked)
    work()
    (groups,) = engine.asked[before:]
    return groups


def own_task(folder: Path, name: str = "mine", rows: int = 4, **more: Any) -> Path:
    """Write a task of one's own with its data: which of two letters comes first?"""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"text": f"{n} of", "choices": ["a", "bb", "ccc"], "answer": n % 3} for n in range(rows)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(definition))
    return folder


def mine(folder: Path, **more: Any) -> Harness:
    return asking("mine", "acc", include=str(folder), **more)


def by_lm_eval(candidate: Candidate, tasks: list[Any], manager: TaskManager, **more: Any) -> Mapping[str, Any]:
    """What lm-eval says with its own model class over the same weights."""
    engine = candidate.engine
    assert isinstance(engine, PlainEngine)
    with quiet():
        model = HFLM(engine.model, tokenizer=candidate.tokenizer, batch_size=1, max_length=candidate.longest)
        options = {"bootstrap_iters": 1, "log_samples": True, **more}
        found = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, **options)
    assert found is not None
    return found
