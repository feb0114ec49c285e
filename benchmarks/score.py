"""Score the same pairs by vLLM, by Ratchet's own forward pass and by a plain padded one: `python -m benchmarks.score`.

Every side is a process of its own; they take turns on the same batches, as in `benchmarks.train`.
Needs vLLM (`make vllm`; then `.venv-vllm/bin/python -m benchmarks.score`).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.models import PRECISIONS
from benchmarks.score_sides import SIDES
from benchmarks.shapes import SHAPES
from benchmarks.side import Task
from benchmarks.worker import measured, status_bytes

HEADERS = (
    "shape", "dtype", "side", "pairs/s", "answer tokens/s", "× plain", "memory, MB",
    "largest off, pair", "mean off, pair", "largest off, token", "mean off, token",
)  # fmt: skip
LEGEND = (
    "pairs/s and answer tokens/s by CPU seconds, medians of the rounds; × is how many times fewer CPU seconds than the "
    "plain pass takes; memory at the peak, above the process's libraries, the model's weights among it; off: "
    "difference from Ratchet's own of an answer's score, and of a token's log-probability, in nats."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for and print a table."""
    options = parse(arguments)
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    cells = []
    print(machine.describe("cpu"), flush=True)
    for shape in options.shape:
        for precision in options.dtype:
            pairs = options.batch * options.rounds
            task = Task(shape, options.model, options.vocab, precision, pairs, options.micro, threads=options.threads)
            cells.append(measure(task, options.batch))
            print("\n".join(rows(cells[-1])), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(cells, indent=1) + "\n")
    print("\n" + markdown(cells))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", nargs="+", choices=PRECISIONS[:2], default=list(PRECISIONS[:2]))
    parser.add_argument("--model", default="30m")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=24, help="pairs of a round")
    parser.add_argument("--micro", type=int, default=8, help="pairs of a pass of the plain side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where all figures go, as JSON")
    return parser.parse_args(arguments)


def measure(task: Task, batch: int) -> dict[str, Any]:
    """Return each side's costs, and how far its scores are from Ratchet's."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    for name in SIDES:
        ends[name], other = context.Pipe()
        context.Process(target=serve, args=(other, name, task), daemon=True).start()
        other.close()  # so that a side that dies is an end of file here, and no wait without end
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    scores: dict[str, list[Any]] = {name: [] for name in SIDES}
    for start in range(0, task.pairs, batch):
        names = list(SIDES)
        turn = start // batch % len(names)
        for name in names[turn:] + names[:turn]:
            ends[name].send((start, start + batch))
            cost, found = ends[name].recv()
            costs[name].append(cost)
            scores[name].append(found)
    tokens: dict[str, Any] = {}
    for name, end in ends.items():
        end.send("tokens")
        tokens[name] = np.concatenate(end.recv())
        end.send(None)
    sides = {
        name: {
            "costs": costs[name],
            **differences("pair", np.concatenate(scores[name]) - np.concatenate(scores["Ratchet"])),
            **differences("token", tokens[name] - tokens["Ratchet"]),
        }
        for name in SIDES
    }
    return {"task": task.to_dict(), "batch": batch, "tokens": len(tokens["Ratchet"]), "sides": sides}


def differences(of: str, off: Any) -> dict[str, float]:
    """Return the largest and the mean difference, nats."""
    return {f"largest_{of}": float(np.abs(off).max()), f"mean_{of}": float(np.abs(off).mean())}


def serve(end: Connection, name: str, task: Task) -> None:
    """Score the rows that come through the pipe, until there come none."""
    import torch

    torch.set_num_threads(task.threads)
    side = SIDES[name](task)
    before = status_bytes("VmRSS")
    side.load()
    side.score(range(2))
    while (asked := end.recv()) is not None:
        if asked == "tokens":
            end.send(side.tokens(range(task.pairs)))
            continue
        picked = range(*asked)
        scored, cost = measured(lambda picked=picked: side.score(picked))
        end.send(({**cost, "memory": cost["peak_bytes"] - before}, scored))


def rows(cell: Mapping[str, Any]) -> list[str]:
    """Return a table line for each side."""
    task, plain = cell["task"], cell["sides"]["plain padded"]["costs"]
    tokens = cell["tokens"] / task["pairs"]
    lines = []
    for name, side in cell["sides"].items():
        seconds = statistics.median(cost["cpu"] for cost in side["costs"])
        ratio = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(plain, side["costs"], strict=True))
        figures = [
            f"{cell['batch'] / seconds:.1f}",
            f"{tokens * cell['batch'] / seconds:,.0f}",
            f"{ratio:.2f}",
            f"{max(cost['memory'] for cost in side['costs']) / 1e6:,.0f}",
            *(f"{side[key]:.1e}" for key in ("largest_pair", "mean_pair", "largest_token", "mean_token")),
        ]
        lines.append("| " + " | ".join([task["shape"], task["precision"], name, *figures]) + " |")
    return lines


def markdown(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the table."""
    head = ["| " + " | ".join(HEADERS) + " |", "| " + " | ".join(["---"] * len(HEADERS)) + " |"]
    return "\n".join([*head, *(line for cell in cells for line in rows(cell)), "", LEGEND])


if __name__ == "__main__":
    main()
