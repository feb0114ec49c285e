"""Whether Ratchet got slower, from counts that no machine changes: `python -m benchmarks.quick`.

Seconds depend on the machine and on what else it does; these do not: tokens through the layers and
floating-point operations of a step on the lengths of real rows, modules that a command imports,
processes that a small run starts, and files that a worker opens. Each is compared with the last landed
figures in `landed.json`. `--renew` writes those again, with the commit that they are of. Two counts
depend on when Ray gives its workers work: `may vary by` there says how far they may rise.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import spy
from benchmarks.flops import counted
from benchmarks.growth import make_tokens, worker_data
from benchmarks.prefixes import drawn
from benchmarks.ratchet_side import BUDGETS, RatchetSide
from benchmarks.shapes import DRAWN, SHAPES
from benchmarks.side import Task
from ratchet.model.batch import Packing
from ratchet.model.divide import Rows
from ratchet.model.passes import divide_passes
from ratchet.pairs.pair import TokenisedPair

LANDED = Path(__file__).parent / "landed.json"
COMMAND = "python -m benchmarks.quick --renew"
_STEPS, _BATCH, _VOCAB = 8, 8, 32_000
_PROMPT, _ANSWERS, _ANSWER, _SMALL = 1500, 100, 40, 550
_PAIRS, _FILES = 2000, 2

PLAN = """\
name: counted
model:
  scratch: {tokenizer_from: [slips], vocab_size: 300, hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1,
            intermediate_size: 32, max_positions: 96}
data:
  slips:
    generate: {kind: arithmetic, rows: 20, steps: 2, largest: 9, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
stages:
  warm: {kind: sft, data: [slips], max_length: 96}
  align: {kind: dpo, after: warm, data: [slips], batch: 4, learning_rate: 1e-3, max_length: 96}
evaluate: [suite.yaml]
cluster: {token_budget: 512, storage: out}
"""
SUITE = """\
tasks:
  sums: {kind: exact_match, source: slips, pattern: 'answer is (-?\\d+)', rows: 2, max_new_tokens: 2}
"""

Counts = dict[str, float]
VARIES: Counts = {"processes of a small run": 2, "modules of a process of it, the most": 20}
"""How much more than the landed count is no growth: a busy Ray now and then gives a task to one more worker, or to one
that has had another, and with it what that imported.
"""


def tokens() -> Counts:
    """Count the tokens of a training step on a CPU, and compute nothing.

    A step has 8 pairs with the lengths of real rows, or all answers to a long prompt in passes of few tokens.
    """
    found = Counts()
    for shape in DRAWN:
        pairs = SHAPES[shape](_STEPS * _BATCH, _VOCAB, 0)
        steps = [np.arange(start, start + _BATCH) for start in range(0, len(pairs), _BATCH)]
        computed = sum(_computed(pairs, rows, BUDGETS["cpu"]) for rows in steps)
        found[f"tokens a pair, {shape}"] = round(computed / len(pairs), 2)
    pairs = drawn(_PROMPT, _ANSWERS, _ANSWER, _VOCAB)
    name = f"tokens a pair, {_ANSWERS} answers of {_ANSWER} to {_PROMPT}, {_SMALL} a pass"
    found[name] = round(_computed(pairs, np.arange(len(pairs)), _SMALL) / len(pairs), 2)
    return found


def _computed(pairs: Sequence[TokenisedPair], rows: Rows, budget: int) -> int:
    """Return the tokens of all passes over a step's rows, divided as training divides them."""
    (micros,) = divide_passes(pairs.__getitem__, rows, Packing(), budget, 1)
    return sum(micro.cost for micro in micros)


def flops() -> Counts:
    """Count the operations of a step of 8 pairs of the 30M model in bfloat16, as torch sees them running."""
    found = Counts()
    for shape in DRAWN:
        side = RatchetSide(Task(shape, "30m", _VOCAB, "bfloat16", pairs=_BATCH, threads=1))
        side.logps_N2[:] = 0.0  # any reference will do
        found[f"GFLOP a step, {shape}"] = round(counted(lambda side=side: side.gradients(range(_BATCH)))[1] / 1e9, 2)
    return found


def opens() -> Counts:
    """Count the files that a worker opens for 2,000 pairs of two sources and their reference scores."""
    with tempfile.TemporaryDirectory() as name:
        tokens, scores = make_tokens(Path(name), _PAIRS, _FILES)
        return {"files opened by a worker": spy.opened_files([Path(name)], lambda: worker_data(tokens, scores))}


def commands() -> Counts:
    """Count the modules, not those of Python itself, that `ratchet check` and `ratchet show` of a small plan import."""
    found = Counts()
    for command in ("check", "show"):
        (process,) = run([command, "plan.yaml"])
        found[f"modules of ratchet {command}"] = len(process.outside)
    return found


def small_run() -> Counts:
    """Count the processes that do work of Ratchet in a small run on a Ray, and the modules of the largest."""
    processes = [process for process in run(["run", "plan.yaml"]) if "ratchet" in process.modules]
    return {
        "processes of a small run": len(processes),
        "modules of a process of it, the most": max(len(process.outside) for process in processes),
    }


def run(words: Sequence[str]) -> list[spy.Seen]:
    """Run the `ratchet` command on a small plan and return its processes. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
        (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
        environment = spy.watched(folder / "seen")
        environment.pop("RAY_ADDRESS", None)
        line = [sys.executable, "-m", "ratchet.cli", *words]
        subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return spy.seen(folder / "seen")


PARTS: Mapping[str, Callable[[], Counts]] = {
    "tokens": tokens,
    "opens": opens,
    "flops": flops,
    "commands": commands,
    "run": small_run,
}


@functools.cache
def versions() -> dict[str, str]:
    """Return what the numbers of modules depend on besides Ratchet: Python and the largest libraries."""
    libraries = ("torch", "transformers", "ray", "pydantic", "datasets", "deepspeed")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name).partition("+")[0]
        for name in libraries  # not how torch was built
    }


def grown(counts: Counts, landed: Counts) -> list[str]:
    """Return a line for each count that is higher than the landed one, or that the landed figures lack."""
    new = [
        f"{name}: {count:g}, and landed.json has no such count" for name, count in counts.items() if name not in landed
    ]
    more = [name for name, count in counts.items() if name in landed and count > landed[name] + VARIES.get(name, 0)]
    return new + [f"{name}: {counts[name]:g} after {landed[name]:g}" for name in more]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each count beside the landed one; return 1 where one grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--renew", action="store_true", help="write the counts to landed.json")
    options = parser.parse_args(arguments)
    landed = json.loads(LANDED.read_text(encoding="utf-8")) if LANDED.exists() else {"counts": {}}
    counts = Counts()
    for part in options.part:
        found = PARTS[part]()
        counts |= found
        for name, count in found.items():
            before = landed["counts"].get(name)
            beside = "new" if before is None else f"{count / before:.3f} × {before:g}"
            print(f"{name:<42} {count:>10g}   {beside}", flush=True)
    if options.renew:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        record = {"commit": commit, "command": COMMAND, "versions": versions(), "may vary by": VARIES}
        record["counts"] = landed["counts"] | counts
        LANDED.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return 0
    if landed.get("versions") != versions():
        print(f"landed.json is of other versions, on which numbers of modules depend: {landed.get('versions')}")
    worse = grown(counts, landed["counts"])
    print("\n".join([*worse, f"{len(worse)} of {len(counts)} counts grew since {landed.get('commit', 'never')[:12]}"]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
