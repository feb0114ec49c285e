"""Score choices as lm-eval's own class does and as Ratchet does: `python -m benchmarks.evaluate`.

Both sides hold the same model in one process and take turns on the same requests, made of random tokens:
contexts with four continuations each, as a few-shot task has. Compared are CPU seconds, and the numbers themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks import machine
from benchmarks.models import PRECISIONS, build, sizes
from ratchet.evaluate.engines.likelihood import likelihoods
from ratchet.evaluate.engines.pool import units_of
from ratchet.serving.requests import ContinuationRequest

SHAPES = {
    "25 shots, 12 tokens": (1500, 12),
    "10 shots, 30 tokens": (900, 30),
    "5 shots, one token": (600, 1),
    "no shots, 15 tokens": (60, 15),
}
"""Tokens of a context and of each of its four continuations, as those of ARC, HellaSwag, MMLU and TruthfulQA."""
HEADERS = ("shape", "dtype", "documents", "HFLM, s", "Ratchet, s", "× HFLM", "largest difference, nats")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for and print a table."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    print(machine.describe("cpu"), flush=True)
    print("| " + " | ".join(HEADERS) + " |\n|" + " --- |" * len(HEADERS))
    for precision in options.dtype:
        model = build(sizes(options.model, options.vocab), precision).eval()
        for shape in options.shape:
            print("| " + " | ".join(measure(model, shape, precision, options)) + " |", flush=True)
    print("\nCPU seconds, medians of the rounds; × is how many times fewer Ratchet takes.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", nargs="+", choices=PRECISIONS[:2], default=list(PRECISIONS[:2]))
    parser.add_argument("--model", default="30m")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch of HFLM; Ratchet has as many tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def measure(model: torch.nn.Module, shape: str, precision: str, options: argparse.Namespace) -> list[str]:
    """Return a row of the table."""
    context, answer = SHAPES[shape]
    random = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(random.integers(5, options.vocab, count).tolist())

    asked = [ContinuationRequest(ids(context), tuple(ids(answer) for _ in range(4))) for _ in range(options.documents)]
    theirs = harness(model, options.batch)
    requests = [
        ((str(n), ""), list(one.context), list(each)) for n, one in enumerate(asked) for each in one.continuations
    ]
    budget = options.batch * (context + answer)
    units = units_of(asked, lambda request: len(request.context), budget)
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(options.rounds):
        found, took = timed(lambda: theirs._loglikelihood_tokens(requests, disable_tqdm=True))
        seconds["theirs"].append(took)
        mine, took = timed(lambda: [(unit, likelihoods(model, unit, share=True)) for unit in units])
        seconds["ours"].append(took)
    by_request = {one: answer.logprobs for unit, answers in mine for one, answer in zip(unit, answers, strict=True)}
    ours = [value for one in asked for value in by_request[one]]
    off = max(abs(float(value) - float(other[0])) for value, other in zip(ours, found, strict=True))
    medians = {name: statistics.median(some) for name, some in seconds.items()}
    ratio = statistics.median(t / o for t, o in zip(seconds["theirs"], seconds["ours"], strict=True))
    figures = [f"{medians['theirs']:.2f}", f"{medians['ours']:.2f}", f"{ratio:.2f}", f"{off:.1e}"]
    return [shape, precision, str(options.documents), *figures]


def harness(model: torch.nn.Module, batch: int) -> HFLM:
    """Return lm-eval's own class around the model; its tokenizer is never asked for anything."""
    words = Tokenizer(models.WordLevel({"end": 0, "other": 1}, unk_token="other"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="end")  # noqa: S106
    with contextlib.redirect_stderr(io.StringIO()):
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=4096)


def timed(action: Callable[[], list]) -> tuple[list, float]:
    """Return what an action gives, and its CPU seconds."""
    began = time.process_time()
    found = action()
    return found, time.process_time() - began


if __name__ == "__main__":
    main()
