"""The figures of a run as a Markdown table."""

from __future__ import annotations

import statistics
from typing import Any

OURS = "Ratchet"
HEADERS = (
    "shape",
    "vocabulary",
    "dtype",
    "allocator",
    "side",
    "× Ratchet's step",
    "step, CPU s",
    "× Ratchet's scoring",
    "tokens/pair",
    "GFLOP/pair",
    "× Ratchet's GFLOP",
    "memory, GB",
    "of peak",
    "gradient off",
)

LEGEND = (
    "× is how many times more CPU seconds the side takes than Ratchet (median over rounds; by the wall clock in "
    "brackets; on a GPU by the wall clock alone); allocator: keep is the same setting on all sides, shipped is "
    "Ratchet's own on Ratchet alone; tokens through the layers for each pair, padding included; GFLOP of a training "
    "step, all that torch's counter sees running, over the first batch; memory at the peak of a step, above weights, "
    "gradients, optimiser state and libraries, where freed memory is handed back; of peak: these FLOP by the wall "
    "clock over the best matrix product measured beside it; norm of the gradient's difference from the naive loop's "
    "in float32, of the same weights, over the norm of that."
)


def markdown(cells: list[dict[str, Any]]) -> str:
    """Return the table with a row for each side of each cell, and a line for each side that did not run."""
    lines = [_line(HEADERS), _line(["---"] * len(HEADERS))]
    lines += [_line(row) for cell in cells for row in rows(cell)]
    lost = dict.fromkeys(line for cell in cells for line in missing(cell))
    return "\n".join([*lines, "", LEGEND, *lost])


def brief(cell: dict[str, Any]) -> str:
    """Return one line about a cell: how many times more each other side takes than Ratchet, and who did not run."""
    task, sides = cell["task"], cell["sides"]
    where = f"{task['shape']}, vocabulary {task['vocab']}, {task['precision']}, {cell['malloc']}"
    if OURS not in sides:
        return "; ".join([f"{where}: {OURS} was not measured", *missing(cell)])
    ours = sides[OURS]
    ratios = [f"{ratio(cell, side, ours, 'training')}× {name}" for name, side in sides.items() if name != OURS]
    pairs = f"{OURS} {pairs_per_second(cell, ours, 'training'):.2f} pairs/s"
    return "; ".join([f"{where}: {pairs}", ", ".join(ratios), *missing(cell)])


def missing(cell: dict[str, Any]) -> list[str]:
    """Return a sentence for each side that did not run, with its reason."""
    return [f"{name} cannot run: {reason}" for name, reason in cell["lost"].items()]


def rows(cell: dict[str, Any]) -> list[list[str]]:
    """Return one row of texts for each side of a cell."""
    task, sides = cell["task"], cell["sides"]
    ours, out = sides.get(OURS), []
    for name, side in sides.items():
        executed = side["flops"]
        memory, off = side["memory_bytes"], side["gradient"]
        times = "" if ours is None else f"{executed / ours['flops']:.2f}"
        out.append(
            [
                task["shape"],
                f"{task['vocab'] // 1000}k",
                task["precision"],
                cell["malloc"],
                name,
                ratio(cell, side, ours, "training"),
                f"{statistics.median(step['cpu'] for step in side['training']):.2f}",
                ratio(cell, side, ours, "scoring"),
                f"{side['tokens'] / task['pairs']:.0f}",
                f"{executed / cell['batch'] / 1e9:.1f}",
                times,
                "–" if memory is None else f"{memory / 1e9:.2f}",
                f"{share_of_peak(cell, side):.0%}",
                "–" if off is None else f"{off['relative']:.1e}",
            ]
        )
    return out


def clock(cell: dict[str, Any]) -> str:
    """Return which clock a cell's ratios are taken from: CPU seconds, unless a GPU did the work."""
    return "wall" if cell["task"]["device"] == "cuda" else "cpu"


def ratio(cell: dict[str, Any], slow: dict[str, Any], fast: dict[str, Any] | None, phase: str) -> str:
    """Return the median ratio by the cell's clock, on a CPU that of wall seconds in brackets; empty without `fast`."""
    if fast is None:
        return ""
    wall = f"{median_ratio(slow, fast, phase, 'wall'):.2f}"
    return wall if clock(cell) == "wall" else f"{median_ratio(slow, fast, phase, 'cpu'):.2f} ({wall})"


def median_ratio(slow: dict[str, Any], fast: dict[str, Any], phase: str, clock: str) -> float:
    """Return the median over rounds of how many times longer `slow` took than `fast`."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(slow[phase], fast[phase], strict=True))


def pairs_per_second(cell: dict[str, Any], side: dict[str, Any], phase: str) -> float:
    """Return pairs a second of wall time, of the median round."""
    return float(cell["batch"] / statistics.median(step["wall"] for step in side[phase]))


def share_of_peak(cell: dict[str, Any], side: dict[str, Any]) -> float:
    """Return FLOP a second of the first round, whose FLOP are counted, over the measured peak."""
    return float(side["flops"] / side["training"][0]["wall"] / cell["matmul_peak"])


def _line(values: Any) -> str:
    return "| " + " | ".join(values) + " |"
