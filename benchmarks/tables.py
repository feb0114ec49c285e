"""The figures of a run as a Markdown table."""

from __future__ import annotations

import statistics
from typing import Any

PEERS = ("TRL default", "TRL best")
HEADERS = (
    "shape",
    "vocabulary",
    "dtype",
    "side",
    "pairs/s",
    "× default",
    "× best",
    "scoring pairs/s",
    "scoring × default",
    "scoring × best",
    "tokens/pair",
    "GFLOP/pair",
    "executed",
    "memory, GB",
    "of peak",
    "gradient",
)

LEGEND = (
    "pairs/s by the wall clock; × is how many times fewer CPU seconds a step takes than TRL's (median over "
    "rounds, by the wall clock in brackets; on a GPU by the wall clock alone); tokens through the layers for each "
    "pair, padding included; GFLOP of a training step without and with what is computed twice or masked away; memory "
    "at the peak of a step, above weights, gradients, optimiser state and libraries; executed FLOP by the wall clock "
    "over the best matrix product measured beside it (on a GPU those of the model over the tokens computed, without "
    "what is done twice or masked away: MFU); largest difference of a gradient from the last side's, relative "
    "to the parameter's largest "
    "(bfloat16: rounding)."
)


def markdown(cells: list[dict[str, Any]]) -> str:
    """Return the table with a row for each side of each cell."""
    lines = [_line(HEADERS), _line(["---"] * len(HEADERS))]
    lines += [_line(row) for cell in cells for row in rows(cell)]
    return "\n".join([*lines, "", LEGEND])


def brief(cell: dict[str, Any]) -> str:
    """Return one line about a cell: its last side against the others."""
    task, (*others, (name, side)) = cell["task"], cell["sides"].items()
    ratios = [f"{ratio(cell, other, side, 'training')}× {peer}" for peer, other in others]
    where = f"{task['shape']}, vocabulary {task['vocab']}, {task['precision']}"
    return f"{where}: {name} {pairs_per_second(cell, side, 'training'):.2f} pairs/s; {', '.join(ratios)}"


def rows(cell: dict[str, Any]) -> list[list[str]]:
    """Return one row of texts for each side of a cell."""
    task, sides, out = cell["task"], cell["sides"], []
    for name, side in sides.items():
        figures = side["flops"]["training"]
        earlier = list(sides)[: list(sides).index(name)]
        peers = [sides[peer] if peer in earlier else None for peer in PEERS]
        out.append(
            [
                task["shape"],
                f"{task['vocab'] // 1000}k",
                task["precision"],
                name,
                f"{pairs_per_second(cell, side, 'training'):.2f}",
                *(ratio(cell, peer, side, "training") for peer in peers),
                f"{pairs_per_second(cell, side, 'scoring'):.2f}",
                *(ratio(cell, peer, side, "scoring") for peer in peers),
                f"{side['work']['training']['tokens'] / task['pairs']:.0f}",
                f"{figures['model'] / task['pairs'] / 1e9:.1f}",
                f"{figures['executed'] / task['pairs'] / 1e9:.1f}",
                f"{side['memory_bytes'] / 1e9:.2f}",
                f"{share_of_peak(cell, side):.0%}",
                f"{side['gradient_difference']['largest']:.1e}",
            ]
        )
    return out


def clock(cell: dict[str, Any]) -> str:
    """Return which clock a cell's ratios are taken from: CPU seconds, unless a GPU did the work."""
    return "wall" if cell["task"]["device"] == "cuda" else "cpu"


def ratio(cell: dict[str, Any], slow: dict[str, Any] | None, fast: dict[str, Any], phase: str) -> str:
    """Return the median ratio by the cell's clock, on a CPU that of wall seconds in brackets; empty without `slow`."""
    if slow is None:
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
    """Return FLOP a second of all rounds over the measured peak: executed ones, on a GPU those of the model."""
    counted = "model" if cell["task"]["device"] == "cuda" else "executed"
    seconds = sum(step["wall"] for step in side["training"])
    return float(side["flops"]["training"][counted] / seconds / cell["matmul_peak"])


def _line(values: Any) -> str:
    return "| " + " | ".join(values) + " |"
