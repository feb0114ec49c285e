"""Reading rows of text into pairs: rows and bytes a second, CPU, memory, against an older commit and `datasets`.

    git worktree add ../older COMMIT
    python -m benchmarks.reading --old ../older

All sides read the same files in turn, each in a process of its own: `old` and `new` the pairs of a plan's source,
`datasets` only a table of Arrow. `--here` starts no Ray. `--grow` reads files of these numbers of rows once with `new`
and fits a line through the memory at the peak. What `old` and `new` give is compared: ids, places, rows left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine

_ROOT = Path(__file__).resolve().parent.parent
_SIDE = _ROOT / "benchmarks" / "reading_side.py"
_GROUP = 1000
_WORDS = (
    *("the", "answer", "is", "not", "what", "seven", "follows", "from", "river", "stone", "because", "more", "of"),
    *("these", "people", "would", "say", "that", "we", "should", "consider", "it", "again,", "however", "there", "are"),
)
Figures = dict[str, Any]


def _said(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(least, most))) + "."


def _short(number: int, draw: random.Random) -> dict[str, Any]:
    texts = {side: _said(draw, 12, 24) for side in ("chosen", "rejected")}
    return {"id": number, "prompt": f"{number}: {_said(draw, 8, 16)}", **texts}


def _long(number: int, draw: random.Random) -> dict[str, Any]:
    """A row of UltraFeedback as its binarised form has it; every tenth is not ASCII."""
    prompt = f"{number}: {_said(draw, 15, 100)}" + " – “élan”" * (number % 10 == 0)
    sides = [
        [{"content": prompt, "role": "user"}, {"content": _said(draw, 60, 300), "role": "assistant"}] for _ in "ab"
    ]
    return {
        "prompt": prompt,
        "prompt_id": f"{draw.getrandbits(256):064x}",
        "chosen": sides[0],
        "rejected": sides[1],
        "messages": sides[0],
        "score_chosen": draw.randint(70, 100) / 10,
        "score_rejected": draw.randint(10, 69) / 10,
    }


KINDS: Mapping[str, Callable[[int, random.Random], dict[str, Any]]] = {"short": _short, "UltraFeedback": _long}


def write_rows(path: Path, kind: str, count: int) -> None:
    """Write rows of a kind as JSON lines or Parquet, as the path ends. Row i is the same whatever `count` is."""
    parts = _parts(kind, count)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for part in parts:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        return
    first = pa.Table.from_pylist(next(parts))
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(pa.Table.from_pylist(part, schema=first.schema))


def _parts(kind: str, count: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, count, _GROUP):
        numbers = range(start, min(start + _GROUP, count))
        yield [KINDS[kind](number, random.Random(f"{kind}:{number}")) for number in numbers]


def measured(side: str, code: Path, file: Path, cpus: int) -> Figures:
    """Return the figures of one reading with the code of a checkout. Raises RuntimeError, with its last lines."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        command = [sys.executable, str(_SIDE), side, str(file), folder, str(cpus)]
        settings = {"PYTHONPATH": str(code / "platform"), "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
        done = subprocess.run(command, env={**os.environ, **settings}, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} of {code} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compared(old: Path | None, file: Path, cpus: int, rounds: int) -> dict[str, list[Figures]]:
    """Return the figures of each side, one for each round; the sides take turns. Raises ValueError as `check_same`."""
    sides = {**({"old": ("ratchet", old)} if old else {}), "new": ("ratchet", _ROOT), "datasets": ("datasets", _ROOT)}
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (side, code) in sides.items():
            found[name].append(measured(side, code, file, cpus))
    check_same(file.name, found)
    return found


def check_same(name: str, found: Mapping[str, Sequence[Figures]]) -> None:
    """Raise ValueError where old and new code read other pairs, or new code not in order."""
    pairs = [one for side, rounds in found.items() if side != "datasets" for one in rounds]
    if len({one["content"] for one in pairs}) > 1:
        raise ValueError(f"{name}: old and new code read other pairs")
    if not all(one["in order"] for one in found["new"]):
        raise ValueError(f"{name}: the pairs are not in the order of their rows")


def report(name: str, size: int, found: Mapping[str, Sequence[Figures]]) -> Iterator[str]:
    """Yield a row of the table for each side: medians, and the medians of the ratios of each round."""
    for side, rounds in found.items():
        rows, wall, cpu = (statistics.median(one[key] for one in rounds) for key in ("rows", "wall", "cpu"))
        peaks = [max(one[key] for one in rounds) / 1e6 for key in ("driver", "worker")]
        ratios = [
            statistics.median(one[key] / new[key] for one, new in zip(rounds, found["new"], strict=True))
            for key in ("wall", "cpu")
        ]
        yield (
            f"| {name} | {side} | {rows / wall:,.0f} | {size / wall / 1e6:,.0f} | {cpu / rows * 1e6:.0f} | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} | {peaks[0]:,.0f}, {peaks[1]:,.0f} |"
        )


def slope(rows: Sequence[int], peaks: Sequence[int]) -> float:
    """Return the bytes by which memory grows with each row, by least squares."""
    return float(np.polyfit(rows, peaks, 1)[0])


def _grown(folder: Path, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    found = []
    for rows in options.grow:
        file = folder / f"grown.{options.form[0]}"
        write_rows(file, options.kind[-1], rows)
        found.append(measured("ratchet", _ROOT, file, options.cpus))
        say(f"{rows:,} rows, {file.stat().st_size / 1e9:.2f} GB: peak {_megabytes(found[-1])} MB")
        file.unlink()
    for key in ("driver", "worker"):
        say(f"{key}: {slope(options.grow, [one[key] for one in found]):+.1f} bytes a row")


def _megabytes(one: Figures) -> str:
    return ", ".join(f"{key} {one[key] / 1e6:,.0f}" for key in ("driver", "worker"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        "benchmarks.reading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--form", nargs="+", choices=("jsonl", "parquet"), default=["jsonl", "parquet"])
    parser.add_argument("--grow", nargs="+", type=int, default=[], help="numbers of rows, to see memory grow")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs that Ray has")
    parser.add_argument("--here", dest="cpus", action="store_const", const=0, help="without Ray, in one process")
    parser.add_argument("--folder", type=Path, help="where files are made; the system's folder for such where left out")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    say(machine.describe("cpu"))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.rounds:
            say("| rows | side | rows/s | MB/s | CPU µs a row | × new | × new, CPU | peak MB: driver, largest worker |")
            say("|---" * 8 + "|")
        for kind in options.kind if options.rounds else ():
            for form in options.form:
                file = Path(name) / f"rows.{form}"
                write_rows(file, kind, options.rows)
                found = compared(options.old, file, options.cpus, options.rounds)
                for line in report(f"{kind}, {form}", file.stat().st_size, found):
                    say(line)
                file.unlink()
        if options.grow:
            _grown(Path(name), options, say)


if __name__ == "__main__":
    main()
