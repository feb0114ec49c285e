"""What the order of pairs does to a model: `python -m benchmarks.orders`.

One plan trains the same start model on the same pairs with each `shuffle` and several seeds, by the product itself in
one process. Compared are held-out figures: their mean and deviation over seeds, the mean difference with Student's 95 %
interval, and the ratio of deviations. With `--source twins` each prompt has one pair: weights must be the same bits.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import special

from benchmarks import machine
from ratchet.documents.report import Report, load_report
from ratchet.evaluate.statistics import paired
from ratchet.pipeline.runner import run_plan
from ratchet.plan.load import load_plan
from ratchet.store.record import read_record

ORDERS = ("pairs", "prompts")
SOURCES: Mapping[str, Mapping[str, Any]] = {
    # One right and three wrong answers: three pairs a prompt.
    "quiz": {
        "generate": {"kind": "arithmetic_quiz", "steps": 1, "largest": 20, "seed": 1},
        "build": "multiple_choice",
    },
    "twins": {"generate": {"kind": "arithmetic", "steps": 2, "largest": 9}, "build": "arithmetic_corruption"},
}
HEADERS = ("figure", *ORDERS, "difference", "95 % interval", "spread, times")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line asks for and print a table."""
    options = parse(arguments)
    torch.set_num_threads(1)
    print(machine.describe("cpu"), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder or scratch)
        written = folder / "orders.yaml"
        written.write_text(yaml.safe_dump(plan_of(options, folder), sort_keys=False), encoding="utf-8")
        text = written.read_text(encoding="utf-8")
        report = load_report(run_plan(load_plan(written), text, here=True).with_suffix(".json"))
        found = {
            order: [figures(report, folder, name(order, seed)) for seed in range(options.seeds)] for order in ORDERS
        }
    print("| " + " | ".join(HEADERS) + " |\n|" + " --- |" * len(HEADERS))
    for key in found[ORDERS[0]][0]:
        if key != "weights":
            print("| " + " | ".join(row(key, *([one[key] for one in found[order]] for order in ORDERS))) + " |")
    same = sum(a["weights"] == b["weights"] for a, b in zip(*found.values(), strict=True))
    print(f"\nThe same weights, bit for bit: {same} of {options.seeds} seeds.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orders", description=__doc__)
    parser.add_argument("--source", default="quiz", help="quiz, twins, or a file of questions with choices")
    parser.add_argument("--kind", default="dpo")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs=2, default=[1, 1], help="of pairs and of prompts")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warm-epochs", type=int, default=6)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--folder", help="where to keep the run")
    return parser.parse_args(arguments)


def name(order: str, seed: int) -> str:
    """Return the name of a stage."""
    return f"{order}-{seed}"


def plan_of(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the plan: one start model, and a stage for each order and seed."""
    source = SOURCES.get(options.source)
    if source is None:
        rows = {"path": options.source, "layout": "choices", "build": "multiple_choice", "max_rows": options.rows}
    else:
        rows = {**source, "generate": {**source["generate"], "rows": options.rows}}
    common = {"data": ["source"], "max_length": options.max_length, "batch": options.batch}
    trained = {"kind": options.kind, "after": "warm", "learning_rate": options.learning_rate}
    trained |= {} if options.kind == "sft" else {"beta": 0.3}
    # The start model is one for all; its order is the quick one.
    warm = {"kind": "sft", "epochs": options.warm_epochs, "learning_rate": 3e-3, "shuffle": "prompts"}
    stages = {"warm": {**common, **warm}}
    for seed in range(options.seeds):
        for order, epochs in zip(ORDERS, options.epochs, strict=True):
            stages[name(order, seed)] = {**common, **trained, "shuffle": order, "seed": seed, "epochs": epochs}
    sizes = {"vocab_size": 384, "hidden_size": 64, "layers": 2, "heads": 4, "key_value_heads": 2}
    scratch = {"tokenizer_from": ["source"], **sizes, "intermediate_size": 128, "max_positions": options.max_length}
    return {
        "name": "orders",
        "model": {"scratch": scratch},
        "data": {"source": {**rows, "held_out": 0.3}},
        "stages": stages,
        "cluster": {"workers": 1, "token_budget": 4096, "storage": str(folder / "store")},
    }


def figures(report: Report, folder: Path, stage: str) -> dict[str, Any]:
    """Return a model's held-out figures and the digest of its weights."""
    step = next(step for step in report.steps if step.name == stage)
    record = read_record(folder / "store" / step.record.removesuffix("/record.json"))
    found: dict[str, Any] = {"weights": record and record.facts["weights"], "loss": step.series("heldout/loss")[-1][1]}
    for one in (one for model in report.evaluation if model.model == stage for one in model.heldout):
        found |= {
            "accuracy": one.reward_accuracy,
            "margin, nats": one.margin,
            "chosen, nats": one.chosen_delta,
            "rejected, nats": one.rejected_delta,
        }
    return found


def row(key: str, left: Sequence[float], right: Sequence[float]) -> list[str]:
    """Return a row of the table: `right` minus `left`, seed by seed, and how much further its seeds spread."""
    one = paired(np.array(right), np.array(left), [str(seed) for seed in range(len(left))], 0)
    spreads = [statistics.stdev(side) for side in (left, right)]
    means = [f"{statistics.mean(side):.4f} ± {spread:.4f}" for side, spread in zip((left, right), spreads, strict=True)]
    ends = "–" if one.low is None or one.high is None else f"{one.low:+.4f} to {one.high:+.4f}"
    ratio = "–"
    if all(spreads):
        # Of normal figures the ratio of variances follows Fisher's F.
        found, reach = spreads[1] / spreads[0], float(special.fdtri(len(left) - 1, len(left) - 1, 0.975)) ** 0.5
        ratio = f"{found:.2f} ({found / reach:.2f} to {found * reach:.2f})"
    return [key, *means, f"{one.difference:+.4f}", ends, ratio]


if __name__ == "__main__":
    main()
