"""Measure training and scoring of Ratchet against TRL: `python -m benchmarks.train`.

Every side runs in a process of its own; the sides take turns (A B C A B C …) on the same global
batches, and a ratio is the median over the rounds of CPU seconds, so that what else the machine
does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.flops import Flops, Work, scoring_flops, training_flops
from benchmarks.models import PRECISIONS, names
from benchmarks.shapes import SHAPES
from benchmarks.side import Task
from benchmarks.tables import brief, markdown
from benchmarks.worker import ABLATION, COMPARED, SIDES, Worker

VOCABULARIES = {"2k": 2_000, "32k": 32_000, "128k": 128_000}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; print a table, and write all figures where `--out` says."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides' processes end too
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "machine": machine.describe(options.device),
        "date": datetime.date.today().isoformat(),
        "options": {key: value for key, value in vars(options).items() if key != "out"},
        "cells": [],
    }
    print(results["machine"], flush=True)
    with contextlib.nullcontext() if options.verbose else open(os.devnull, "w") as errors:
        for task in tasks(options):
            before = machine.peaks(task.device)
            cell = measure(task, options, errors)
            cell["matmul_peak"] = max(peaks[task.precision] for peaks in (before, machine.peaks(task.device)))
            results["cells"].append(cell)
            print(brief(cell), flush=True)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + markdown(results["cells"]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` is a run of about a minute that shows that everything works."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, 2 rounds of 8 pairs, float32")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=names(), help="default: 30m, on a GPU 0.5b")
    parser.add_argument("--vocab", nargs="+", choices=VOCABULARIES, default=["32k", "128k"])
    parser.add_argument("--dtype", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--side", nargs="+", choices=SIDES, default=list(COMPARED))
    parser.add_argument("--ablation", action="store_true", help="Ratchet with one technique off at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=24, help="pairs of a global batch")
    parser.add_argument("--micro", type=int, default=8, help="pairs of one forward pass (TRL's default)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--malloc",
        choices=("keep", "shipped", "return"),
        default="keep",
        help="what sides do with freed memory, see worker.py",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where all figures go, as JSON")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries print")
    options = parser.parse_args(arguments)
    options.model = options.model or {"cpu": "30m", "cuda": "0.5b"}[options.device]
    if options.ablation:
        options.side = list(ABLATION)
    if options.quick:
        options.model, options.vocab, options.dtype = "tiny", ["2k"], ["float32"]
        options.batch, options.micro, options.rounds = 8, 4, 2
    if options.batch % options.micro:
        parser.error("a global batch must be whole micro-batches: TRL averages the means of its micro-batches")
    return options


def tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Yield a task for every combination that was asked for."""
    for shape in options.shape:
        for vocab in options.vocab:
            for precision in options.dtype:
                yield Task(
                    shape,
                    options.model,
                    VOCABULARIES[vocab],
                    precision,
                    pairs=options.batch * options.rounds,
                    micro=options.micro,
                    seed=options.seed,
                    threads=options.threads,
                    device=options.device,
                )


def measure(task: Task, options: argparse.Namespace, errors: Any) -> dict[str, Any]:
    """Return the figures of one task, with those of each side under `sides`."""
    batches = [(start, start + options.batch) for start in range(0, task.pairs, options.batch)]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = [
            stack.enter_context(Worker(side, task, errors, keep_memory=keeps(side, options.malloc)))
            for side in options.side
        ]
        warm = (0, task.micro)
        for worker in workers:
            worker.ask("score", rows=warm)
        scores = _take_turns(workers, "score", batches)
        compared = batches[0] if task.precision == "float32" else warm
        for i, worker in enumerate(workers):
            worker.ask("gradients", rows=compared, path=str(folder / f"{i}.pt"))
        differences = gradient_differences([folder / f"{i}.pt" for i in range(len(workers))])
        for worker in workers:
            worker.ask("step", rows=warm)
        steps = _take_turns(workers, "step", batches)
        work = [worker.ask("work", rows=(0, task.pairs)) for worker in workers]
    sides = {
        worker.side: {
            "scoring": scores[i],
            "training": steps[i],
            "work": work[i],
            "flops": _flops(task, work[i]),
            "gradient_difference": differences[i],
            "memory_bytes": peak_memory(worker.side, task, errors, batches[0]),
        }
        for i, worker in enumerate(workers)
    }
    return {"task": task.to_dict(), "batch": options.batch, "sides": sides}


def keeps(side: str, malloc: str) -> bool:
    """Return whether a side's process keeps freed memory: as shipped, Ratchet's workers do and TRL's do not."""
    return malloc == "keep" or (malloc == "shipped" and not side.startswith("TRL"))


def peak_memory(side: str, task: Task, errors: Any, rows: tuple[int, int]) -> int:
    """Return the bytes of a step's peak above what a side owns, from a process that hands freed memory back."""
    with Worker(side, task, errors, keep_memory=False) as worker:
        return int(worker.ask("memory", rows=rows)["bytes"])


def _take_turns(workers: list[Worker], do: str, batches: list[tuple[int, int]]) -> list[list[dict[str, float]]]:
    """Return each worker's answers, one for each batch; who begins changes from round to round."""
    answers: list[list[dict[str, float]]] = [[] for _ in workers]
    for turn, rows in enumerate(batches):
        for place in range(len(workers)):
            who = (place + turn) % len(workers)
            answers[who].append(workers[who].ask(do, rows=rows))
    return answers


def gradient_differences(paths: list[Path]) -> list[dict[str, Any]]:
    """Return how far each side's gradient is from the last side's: the largest of all parameters.

    The difference of a parameter is the largest of its entries, over the largest entry of the gradient.
    """
    ours = torch.load(paths[-1], map_location="cpu", weights_only=True)["gradients"]
    differences = []
    for path in paths:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["gradients"].keys() != ours.keys():
            raise RuntimeError(f"the sides have different parameters: {found['gradients'].keys() ^ ours.keys()}")
        of = {
            name: float((gradient - ours[name]).abs().max() / ours[name].abs().max())
            for name, gradient in found["gradients"].items()
        }
        worst = max(of, key=lambda name: of[name] if math.isfinite(of[name]) else math.inf)
        differences.append({"largest": of[worst], "parameter": worst, "loss": found["loss"]})
    return differences


def _flops(task: Task, work: dict[str, Any]) -> dict[str, dict[str, int]]:
    def told(flops: Flops) -> dict[str, int]:
        return vars(flops) | {"model": flops.model, "executed": flops.executed}

    training, scoring = (Work(**work[name]) for name in ("training", "scoring"))
    return {
        "training": told(training_flops(task.sizes, training)),
        "scoring": told(scoring_flops(task.sizes, scoring)),
    }


if __name__ == "__main__":
    main()
