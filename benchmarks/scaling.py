"""How cost and memory grow: `python -m benchmarks.scaling`.

Seconds for each pair against the number of pairs, the length of answers, the number of sources and the
number of trials; memory against the number of pairs. Needs no Ray: what a run spreads over processes
is measured in one. `--quick` shows that everything works: small, and in one process, so what it says
about memory means nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.growth import (
    EvenTask,
    Figures,
    alone,
    here,
    looking,
    make_tokens,
    opening,
    reading,
    tokenising,
    training,
    trials,
    worker_data,
    write_rows,
)
from benchmarks.side import Task

MICROSECOND = 1e-6
SOURCES = (1, 4, 16)
ANSWERS = (32, 64, 128, 256, 512)
TRIALS = (1, 2, 4, 8)
_WARM = 64
"""Rows of the run before the measured one."""
Measure = Callable[..., Figures]
"""`alone` or `here`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all measurements; print tables, and write the figures where `--out` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--model", choices=("tiny", "30m"), default="tiny", help="the model that trains")
    parser.add_argument("--quick", action="store_true", help="few and short, all in this process")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine.describe("cpu"), "date": datetime.date.today().isoformat()}
    measure = here if options.quick else alone
    sources, answers, counts = ((1, 2), (8,), (1, 2)) if options.quick else (SOURCES, ANSWERS, TRIALS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["rows"] = by_rows(folder, options.rows, measure)
        results["sources"] = by_sources(folder, sorted(options.rows)[len(options.rows) // 2], sources, measure)
        results["answers"] = by_answers(options.model, answers, measure)
        results["trials"] = by_trials(folder, options.model, counts, measure)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(results["machine"] + "\n\n" + markdown(results))


def by_rows(folder: Path, counts: Sequence[int], measure: Measure) -> list[Figures]:
    """Measure reading, looking, tokenising, opening and what a training worker holds."""
    found = []
    model = _scratch_model(folder)
    few = make_tokens(folder, _WARM, 1)
    write_rows(folder / "few.jsonl", _WARM)
    for count in counts:
        own = folder / str(count)
        own.mkdir()
        write_rows(own / "rows.jsonl", count)
        rows = [own / "rows.jsonl", folder / "few.jsonl"]
        pairs, stores = ([own / name, own / f"{name}-warm"] for name in ("pairs", "store"))
        many = make_tokens(own, count, 1)
        for what, function, arguments, warm in (
            ("reading", reading, (rows[0], pairs[0]), (rows[1], pairs[1])),
            ("looking (`ratchet data`)", looking, rows[:1], rows[1:]),
            ("tokenising", tokenising, (pairs[0], model, stores[0]), (pairs[1], model, stores[1])),
            ("opening the table", opening, many[:1], few[:1]),
            ("a worker's data and an epoch of it", worker_data, many, few),
        ):
            found.append({"what": what, **measure(function, *arguments, warm=warm)})
    return found


def by_sources(folder: Path, count: int, sources: Sequence[int], measure: Measure) -> list[Figures]:
    """Measure a worker's data of the same pairs in more and more files."""
    few = make_tokens(folder, _WARM, 1)
    return [{"sources": n, **measure(worker_data, *make_tokens(folder, count, n), warm=few)} for n in sources]


def by_answers(model: str, answers: Sequence[int], measure: Measure) -> list[Figures]:
    """Measure training steps over answers of more and more tokens."""
    found = []
    for answer in answers:
        task = EvenTask("even", model, 2000, "float32", pairs=16, micro=8, threads=1, answer=answer)
        found.append({"answer_tokens": answer, **measure(training, task, 3)})
    return found


def by_trials(folder: Path, model: str, counts: Sequence[int], measure: Measure) -> list[Figures]:
    """Measure trials that share their reference through the store."""
    task = Task("near twins", model, 2000, "float32", pairs=64, micro=8, threads=1)
    return [{"trials": count, **measure(trials, task, count, folder / f"trials-{count}")} for count in counts]


def _scratch_model(folder: Path) -> Path:
    from ratchet.model.scratch import make_scratch
    from ratchet.plan.model import Scratch

    rows = folder / "texts.jsonl"
    write_rows(rows, 200)
    texts = [text for line in rows.read_text().splitlines() for text in json.loads(line).values()]
    make_scratch(
        Scratch(tokenizer_from=("texts",), vocab_size=400, hidden_size=32, intermediate_size=48, layers=1),
        texts,
        folder / "model",
    )
    return folder / "model"


def markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    parts = [
        _table(
            ("work", "pairs", "µs/pair", "peak memory, MB", "held at the end, MB"),
            [
                (row["what"], f"{row['pairs']:,}", _each(row), _mega(row["peak_bytes"]), _mega(row["held_bytes"]))
                for row in results["rows"]
            ],
        ),
        _table(
            ("sources", "pairs", "µs/pair", "held at the end, MB"),
            [
                (str(row["sources"]), f"{row['pairs']:,}", _each(row), _mega(row["held_bytes"]))
                for row in results["sources"]
            ],
        ),
        _table(
            ("tokens of an answer", "ms/pair", "tokens computed/pair", "µs/token", "GFLOP/s"),
            [
                (
                    str(row["answer_tokens"]),
                    f"{1e3 * row['seconds'] / row['pairs']:.2f}",
                    f"{row['tokens'] / row['pairs']:.0f}",
                    f"{row['seconds'] / row['tokens'] / MICROSECOND:.1f}",
                    f"{row['flops'] / row['seconds'] / 1e9:.1f}",
                )
                for row in results["answers"]
            ],
        ),
        _table(
            ("trials", "pairs scored", "scoring, s", "training, s", "ms/pair and trial"),
            [
                (
                    str(row["trials"]),
                    str(row["scored_pairs"]),
                    f"{row['scoring_seconds']:.2f}",
                    f"{row['training_seconds']:.2f}",
                    f"{1e3 * row['seconds'] / row['pairs']:.2f}",
                )
                for row in results["trials"]
            ],
        ),
    ]
    return "\n\n".join(parts)


def _each(row: Figures) -> str:
    return f"{row['seconds'] / row['pairs'] / MICROSECOND:.1f}"


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
