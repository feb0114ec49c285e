"""`docs/examples/dpo_step.py`: its two losses, beside the same step by transformers, torch and numpy alone."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = Path(__file__).parents[2] / "docs/examples/dpo_step.py"


def _logp(model: Any, tokenizer: Any, prompt: str, answer: str) -> torch.Tensor:
    """Return the summed log-probability of an answer and its end of turn, by the model's own forward pass."""
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    start = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = [*tokenizer(text + answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    logps_TV = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return torch.stack([logps_TV[at - 1, whole[at]] for at in range(len(start), len(whole))]).sum()


def _gaps(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> torch.Tensor:
    """Return log π(chosen) − log π(rejected) of each row, (B,)."""
    answers = [[_logp(model, tokenizer, row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in rows]
    return torch.stack([chosen - rejected for chosen, rejected in answers])


def test_the_first_loss_is_ln_2_and_the_second_is_what_plain_code_says(tmp_path: Path) -> None:
    example = runpy.run_path(str(FILE))
    before, after = example["main"](tmp_path)
    assert before == pytest.approx(math.log(2), abs=1e-6)

    rows, beta = example["ROWS"], example["BETA"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=example["LEARNING_RATE"], weight_decay=0.0)
    with torch.no_grad():
        reference_B = _gaps(model, tokenizer, rows)
    margins_B = beta * (_gaps(model, tokenizer, rows) - reference_B)
    (-torch.log(torch.sigmoid(margins_B))).mean().backward()
    optimizer.step()
    with torch.no_grad():
        ratios_B = (_gaps(model, tokenizer, rows) - reference_B).double().numpy()
    assert after == pytest.approx(np.log1p(np.exp(-beta * ratios_B)).mean(), abs=2e-5)
    assert after < before - 0.01


def test_it_is_short_and_reads_from_top_to_bottom() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "TrainSpec" not in text and "ray" not in text.split()
