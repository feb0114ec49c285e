"""Measure training and scoring of Ratchet against plain loops and TRL: `python -m benchmarks.train`.

Six sides: a careful and a naive loop of plain transformers, TRL at its best and by default, Ratchet
without sharing, and Ratchet. Each runs in a process of its own. They take turns (A B C A B C …) on the
same global batches, and a ratio is the median over the rounds of CPU seconds, so that what else the
machine does falls on all of them alike. A side that cannot run is named, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks import machine
from benchmarks.models import PRECISIONS, names
from benchmarks.rows import tokenise_rows
from benchmarks.shapes import DRAWN, MAX_LENGTH, SHAPES
from benchmarks.side import Task
from benchmarks.tables import brief, markdown
from benchmarks.team import MALLOCS, Batch, Team, gradient_difference
from benchmarks.worker import ABLATION, COMPARED, SIDES
from ratchet.pairs.table import open_table
from ratchet.plan.data import Source

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
    with contextlib.ExitStack() as stack:
        errors = None if options.verbose else stack.enter_context(open(os.devnull, "w"))
        rows = _rows(options, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for cell in cells(list(tasks(options, rows)), options, errors):
            results["cells"].append(cell)
            print(brief(cell), flush=True)
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1, default=str) + "\n")
    print("\n" + markdown(results["cells"]))


def cells(todo: list[Task], options: argparse.Namespace, errors: IO[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the figures of each task under each allocator setting, those of each side under `sides`.

    A side's process does all tasks, one after the other. One that cannot run is in `lost`, with the reason.
    """
    batches = [(start, start + options.batch) for start in range(0, options.batch * options.rounds, options.batch)]
    where: dict[str, Any] = {"threads": options.threads, "device": options.device}
    counted: dict[int, dict[str, dict[str, Any]]] = {}
    lost: dict[str, str] = {}
    for malloc in options.malloc:
        with Team([side for side in options.side if side not in lost], errors, malloc, **where) as team:
            if not counted:
                with Team(["naive loop"], errors, "return", **where) as truth:
                    counted = {number: count(team, truth, task, batches) for number, task in enumerate(todo)}
            for number, task in enumerate(todo):
                peak = machine.peaks(task.device)[task.precision]
                found = measure(team, task, batches)
                peak = max(peak, machine.peaks(task.device)[task.precision])
                lost |= team.lost
                yield {
                    "task": task.to_dict(),
                    "batch": options.batch,
                    "malloc": malloc,
                    "matmul_peak": peak,
                    "sides": {name: figures | counted[number][name] for name, figures in found.items()},
                    "lost": dict(lost),
                }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; `--quick` is a run of about a minute that shows that everything works."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, 2 rounds of 8 pairs, float32")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(DRAWN))
    parser.add_argument("--rows", nargs="+", metavar="FILE", help="rows of yours in place of shapes")
    parser.add_argument("--name", default="your rows", help="what tables call your rows")
    parser.add_argument("--layout", default="auto", help="of the rows, as `layout:` of a plan's source")
    parser.add_argument("--build", help="make pairs from rows that have none, as `build:` of a plan's source")
    parser.add_argument("--tokenizer", type=Path, help="a model folder; default: a BPE trained on the rows")
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
        nargs="+",
        choices=MALLOCS,
        default=list(MALLOCS[:2]),
        help="what sides do with freed memory, see team.py; default: the same on all sides, then as shipped",
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


def tasks(options: argparse.Namespace, rows: Path | None = None) -> Iterator[Task]:
    """Yield a task for every combination that was asked for; `rows` is a token file in place of shapes."""
    for shape in [options.name] if rows else options.shape:
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
                    rows=str(rows or ""),
                )


def _rows(options: argparse.Namespace, folder: Path) -> Path | None:
    """Return the token file of the user's rows; None where there are none."""
    if not options.rows:
        return None
    source = Source(path=tuple(options.rows), layout=options.layout, build=options.build, held_out=0.0)
    vocab = min(VOCABULARIES[name] for name in options.vocab)
    file = tokenise_rows(source, options.tokenizer, vocab, MAX_LENGTH, folder)
    table = open_table([file], [1.0], 0)
    if table.demonstrations:
        raise SystemExit("some rows have no rejected answer: --build makes pairs of them")
    pairs = [table[row] for row in range(len(table))]
    highest = max(int(ids.max()) for pair in pairs for ids in (pair.prompt, pair.chosen, pair.rejected))
    if highest >= vocab:
        raise SystemExit(f"the tokenizer has ids up to {highest}: --vocab of more than that")
    print(f"{', '.join(options.rows)}: {len(table)} pairs of at most {MAX_LENGTH} tokens", flush=True)
    return file


def measure(team: Team, task: Task, batches: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """Return each side's seconds, of one task under the allocator setting of the team, of the sides that ran.

    `memory_bytes` is the largest above what a side owns, and found only where freed memory is handed back.
    """
    warm = (0, task.micro)
    team.begin(task)
    team.ask("score", rows=warm)
    scores = team.take_turns("score", batches)
    team.ask("step", rows=warm)
    steps = team.take_turns("step", batches)
    return {
        name: {
            "scoring": scores[name],
            "training": taken,
            "memory_bytes": max(step["memory_bytes"] for step in taken) if team.malloc == "return" else None,
        }
        for name, taken in steps.items()
    }


def count(team: Team, truth: Team, task: Task, batches: Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """Return what no allocator changes: each side's tokens and operations, and how far its gradient is from the truth.

    Operations are those of the first batch, as torch counts them while its gradient is made.

    The truth is the float32 gradient of one batch by the naive loop, of the same weights and pairs, each with its
    own reference scores. `gradient` is None where that loop cannot run.
    """
    exact = dataclasses.replace(task, precision="float32", rounded=task.precision == "bfloat16")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        right = Path(folder) / "truth.pt"
        for one, of in ((truth, exact), (team, task)):
            one.begin(of)
            one.ask("score", rows=batches[0])
        known = truth.ask("gradients", rows=batches[0], path=str(right))
        for number, name in enumerate(list(team.members)):
            path = Path(folder) / f"{number}.pt"
            tokens = [answer["tokens"] for rows in batches if (answer := team.ask_one(name, "tokens", rows=rows))]
            made = team.ask_one(name, "gradients", rows=batches[0], path=str(path))
            if made is None:
                continue
            off = gradient_difference(path, right) if known else None
            found[name] = {"tokens": sum(tokens), "flops": made["flops"], "gradient": off}
            path.unlink()  # as large as the model
    return found


if __name__ == "__main__":
    main()
