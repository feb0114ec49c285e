"""Requests in the shape of MMLU, five shots a subject: real rows, or made up at their lengths; and vLLM asked for them.

A folder of rows has `dev/SUBJECT_dev.csv` and `test/SUBJECT_test.csv` with question, choice0 to choice3 and answer.
Their tokenizer is made of themselves: BPE with as many words as the model has.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ratchet.serving.requests import ContinuationRequest
from ratchet.serving.served import Served, engine_options

SHOTS, MEAN, SPREAD = 432, 4.2, 0.6
"""Tokens of five shots; a question's are e^N(MEAN, SPREAD), 80 on average: those of the first 20 subjects of MMLU."""
LETTERS = "ABCD"


def made_up(documents: int, vocab: int) -> list[ContinuationRequest]:
    """Return documents of one subject, of random tokens, with four choices of one token."""
    random = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(random.integers(9, vocab, count).tolist())

    shots = ids(SHOTS)
    lengths = np.maximum(20, random.lognormal(MEAN, SPREAD, documents)).astype(int)
    return [ContinuationRequest(shots + ids(length), ((5,), (6,), (7,), (8,))) for length in lengths]


def of_rows(folder: Path, documents: int, vocab: int) -> list[ContinuationRequest]:
    """Return the first documents of each subject of a folder, in turns, after the subject's five shots."""
    heads, asked = [], []
    for path in sorted((folder / "dev").glob("*_dev.csv")):
        subject = path.name.removesuffix("_dev.csv")
        said = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        heads.append(said + "".join(_text(row) + f" {LETTERS[int(row['answer'])]}\n\n" for row in _rows(path)[:5]))
        asked.append([_text(row) for row in _rows(folder / "test" / f"{subject}_test.csv")])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = (text for texts in [heads, *asked] for text in texts)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, show_progress=False))
    choices = tuple(tuple(tokenizer.encode(f" {letter}").ids[:1]) for letter in LETTERS)
    # One subject after the other, so that few documents are of few subjects, as a whole suite's are of each.
    texts_of = [(head, text) for head, questions in zip(heads, asked, strict=True) for text in questions[:100]]
    return [
        ContinuationRequest(tuple(tokenizer.encode(head + text).ids), choices) for head, text in texts_of[:documents]
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _text(row: dict[str, str]) -> str:
    choices = "".join(f"\n{letter}. {row[f'choice{n}']}" for n, letter in enumerate(LETTERS))
    return f"{row['question'].strip()}{choices}\nAnswer:"


class PrefixCached:
    """vLLM with its prefix cache, asked for the log-probabilities of the choices after each context, one token each."""

    def __init__(self, model: torch.nn.Module, precision: str, longest: int) -> None:
        # One process, whose CPU seconds are counted.
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        from vllm import LLM

        self.folder = tempfile.TemporaryDirectory()
        model.save_pretrained(self.folder.name)  # type: ignore[operator]
        served = Served(Path(self.folder.name), precision, longest, gpu=False)
        self.engine = LLM(**engine_options(served) | {"enable_prefix_caching": True})
        self.answer([ContinuationRequest((1, 2), ((3,), (4,)))])  # the first request is slow

    def answer(self, requests: Sequence[ContinuationRequest]) -> list[list[float]]:
        """Return the log-probability of each choice, in nats, with nothing in the cache at first."""
        from vllm import SamplingParams

        self.engine.reset_prefix_cache()
        choices = [one[0] for one in requests[0].continuations]
        asked = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, logprob_token_ids=choices)
        prompts = [{"prompt_token_ids": list(request.context)} for request in requests]
        found = self.engine.generate(prompts, asked, use_tqdm=False)
        return [[one.outputs[0].logprobs[0][choice].logprob for choice in choices] for one in found]
