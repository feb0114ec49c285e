"""Greedy answers to held-out prompts, and whether they are right.

Axes: _S prompts, _T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.errors import PlanError
from ratchet.evaluate.statistics import Estimate, estimate
from ratchet.pairs.pair import Ids
from ratchet.pairs.render import find_style
from ratchet.pairs.tokenizer import load_tokenizer


class Answerer:
    """Holds a model and answers prompts given as token ids, greedily, in batches."""

    def __init__(
        self,
        folder: Path,
        dtype: str,
        device: str,
        *,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from ratchet.model.load import load_model

        self.tokenizer = load_tokenizer(folder, chat_template)
        self.end_id = find_style(self.tokenizer).end_id
        self.model = load_model(folder, dtype, trust_remote_code=trust_remote_code).to(device)
        self.device = device

    def answer(self, prompts: Sequence[Ids], max_new_tokens: int) -> list[str]:
        """Return the text of each answer, without special tokens; at most `max_new_tokens` each."""
        import torch

        width = max(len(prompt) for prompt in prompts)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        ids_ST = torch.full((len(prompts), width), pad, dtype=torch.long)
        mask_ST = torch.zeros_like(ids_ST)
        for line, prompt in enumerate(prompts):
            ids_ST[line, width - len(prompt) :] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
            mask_ST[line, width - len(prompt) :] = 1
        with torch.inference_mode():
            out_ST = self.model.generate(
                input_ids=ids_ST.to(self.device),
                attention_mask=mask_ST.to(self.device),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self.end_id,  # the template's end of turn, whatever the model's own settings say
                repetition_penalty=1.0,
                pad_token_id=pad,
                use_cache=True,
            )
        texts: Any = self.tokenizer.batch_decode(out_ST[:, width:], skip_special_tokens=True)
        return list(texts)


def exact_match(answers: Sequence[str], chosen: Sequence[str], pattern: str) -> Estimate:
    """Return the share of answers whose last match of `pattern` equals the chosen answer's.

    Raises PlanError where the pattern has no group, or finds nothing in a chosen answer.
    """
    wanted = wanted_answers(chosen, pattern)
    compiled = compile_pattern(pattern)
    right = [last_match(compiled, answer) == gold for answer, gold in zip(answers, wanted, strict=True)]
    return estimate(np.asarray(right, dtype=np.float64))


def wanted_answers(chosen: Sequence[str], pattern: str) -> list[str]:
    """Return what `pattern` finds in each chosen answer. Raises PlanError where it finds nothing in one."""
    compiled = compile_pattern(pattern)
    found = []
    for gold in chosen:
        wanted = last_match(compiled, gold)
        if wanted is None:
            raise PlanError(
                f"the pattern {pattern!r} finds nothing in a chosen answer: {gold[-80:]!r}",
                fix="change the task's pattern in the suite",
            )
        found.append(wanted)
    return found


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern. Raises PlanError where it is no pattern with exactly one group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PlanError(f"not a regular expression: {pattern!r}: {error}") from error
    if compiled.groups != 1:
        raise PlanError(f"the pattern {pattern!r} has {compiled.groups} groups", fix="give it exactly one")
    return compiled


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the group of the last match in `text`, stripped, or None."""
    found = pattern.findall(text)
    return found[-1].strip() if found else None
