"""Score choices as lm-eval's own class does and as Ratchet does: `python -m benchmarks.evaluate`.

All sides hold the same model in one process and take turns on the same requests, made of random tokens:
contexts with four continuations each, as a few-shot task has. In the shape `MMLU` the shots are those of a subject, and
`--rows` gives it real rows (`benchmarks.shots`). Compared are CPU seconds, tokens, and the numbers themselves.
`own contexts` is Ratchet without the forest, as it computes a model that takes none. vLLM is a side where it is
installed (`.venv-vllm/bin/python -m benchmarks.evaluate --shape MMLU`), of choices of one token.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks import machine
from benchmarks.models import PRECISIONS, build, sizes
from benchmarks.shots import PrefixCached, made_up, of_rows
from ratchet.evaluate.engines.forest import layout_rows, sequences_of
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods
from ratchet.evaluate.engines.pool import units_of
from ratchet.serving.requests import ContinuationRequest

SHAPES = {
    "25 shots, 12 tokens": (1500, 12),
    "10 shots, 30 tokens": (900, 30),
    "5 shots, one token": (600, 1),
    "no shots, 15 tokens": (60, 15),
}
"""Tokens of a context and of each of its four continuations, as those of ARC, HellaSwag, MMLU and TruthfulQA."""
SUBJECTS = "MMLU"
"""Documents that share the shots of their subject."""
HEADERS = (
    *("shape", "dtype", "documents", "tokens a document: HFLM", "own contexts", "forest"),
    *("HFLM, s", "own contexts, s", "vLLM, s", "Ratchet, s", "× HFLM", "× own contexts", "× vLLM"),
    "largest difference, nats",
)


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
    parser.add_argument("--shape", nargs="+", choices=[*SHAPES, SUBJECTS], default=[*SHAPES, SUBJECTS])
    parser.add_argument("--rows", type=Path, help="a folder of MMLU's rows for the shape MMLU")
    parser.add_argument("--dtype", nargs="+", choices=PRECISIONS[:2], default=list(PRECISIONS[:2]))
    parser.add_argument("--model", default="30m")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch of HFLM")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="tokens of a unit of Ratchet, as a task has")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def measure(model: torch.nn.Module, shape: str, precision: str, options: argparse.Namespace) -> list[str]:
    """Return a row of the table."""
    asked = requests_of(shape, options)
    theirs = harness(model, options.batch)
    rows = [((str(n), ""), list(one.context), list(each)) for n, one in enumerate(asked) for each in one.continuations]
    units = units_of(asked, lambda request: len(request.context), options.batch_tokens)
    reach = forest_reach(model)
    sides: dict[str, Callable[[], list[Any]]] = {
        "HFLM": lambda: [float(value) for value, _ in theirs._loglikelihood_tokens(rows, disable_tqdm=True)],
        "own": lambda: by_units(asked, [(one,) for one in asked], lambda unit: likelihoods(model, unit, share=True)),
        "Ratchet": lambda: by_units(asked, units, lambda unit: likelihoods(model, unit, share=True, reach=reach)),
    }
    if importlib.util.find_spec("vllm") and shape == SUBJECTS:
        engine = PrefixCached(model, precision, max(len(one.context) for one in asked) + 2)
        sides["vLLM"] = lambda: [value for values in engine.answer(asked) for value in values]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[Any]] = {}
    for _ in range(options.rounds):
        for name, action in sides.items():
            found[name], took = timed(action)
            seconds[name].append(took)
    off = max(abs(mine - other) for mine, other in zip(found["Ratchet"], found["HFLM"], strict=True))
    # Choices of one token are one sequence of lm-eval's class, too.
    tokens = [sum(map(len, [ids for one in asked for ids in sequences_of(one)]))]
    tokens += [sum(layout_rows([one]) for one in asked), sum(map(layout_rows, units))]
    cells = [f"{count / len(asked):.0f}" for count in tokens]
    order = ("HFLM", "own", "vLLM", "Ratchet")
    cells += [f"{statistics.median(seconds[name]):.2f}" if name in sides else "not run" for name in order]
    cells += [ratio(seconds[name], seconds["Ratchet"]) if name in sides else "not run" for name in order[:3]]
    return [shape, precision, str(len(asked)), *cells, f"{off:.1e}"]


def requests_of(shape: str, options: argparse.Namespace) -> list[ContinuationRequest]:
    """Return what is asked."""
    if shape == SUBJECTS:
        if options.rows:
            return of_rows(options.rows, options.documents, options.vocab)
        return made_up(options.documents, options.vocab)
    context, answer = SHAPES[shape]
    random = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(random.integers(5, options.vocab, count).tolist())

    return [ContinuationRequest(ids(context), tuple(ids(answer) for _ in range(4))) for _ in range(options.documents)]


def by_units(
    asked: Sequence[ContinuationRequest], units: Sequence[Any], answer: Callable[[Any], list[Any]]
) -> list[Any]:
    """Return the log-probabilities of all continuations, in the order of asking."""
    found = {one: said.logprobs for unit in units for one, said in zip(unit, answer(unit), strict=True)}
    return [value for one in asked for value in found[one]]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Return the median over rounds of how many times as long they take."""
    return f"{statistics.median(t / o for t, o in zip(theirs, ours, strict=True)):.2f}"


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
