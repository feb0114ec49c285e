"""Draw the ratios of a run: `python -m benchmarks.plot results.json ratios.svg` (or .png)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from benchmarks.tables import OURS, clock, median_ratio

COLOURS = {
    "careful loop": "#1f6f8b",
    "naive loop": "#77aebf",
    "TRL best": "#c98b3c",
    "TRL default": "#8c96a3",
    "no sharing": "#b9c48b",
}
PHASES = {"training": "Training step", "scoring": "Reference pass"}


def main() -> None:
    """Read the figures that the first argument names, and write the picture that the second names."""
    source, target = (Path(argument) for argument in sys.argv[1:3])
    draw(json.loads(source.read_text()), target)


def draw(results: dict[str, Any], target: Path) -> None:
    """Write one picture: how many times fewer CPU seconds Ratchet takes, a bar for each other side."""
    cells = [cell for cell in results["cells"] if OURS in cell["sides"]]
    labels = [_label(cell) for cell in cells]
    figure, axes = pyplot.subplots(
        1, len(PHASES), figsize=(11, 1.6 + 1.1 * len(cells)), sharey=True, layout="constrained"
    )
    for axis, (phase, title) in zip(axes, PHASES.items(), strict=True):
        for i, peer in enumerate(COLOURS):
            _bars(axis, [_ratio(cell, peer, phase) for cell in cells], 0.16 * (i - len(COLOURS) // 2), peer)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(title, loc="left")
        axis.set_xlabel("times as many CPU seconds as Ratchet")
        axis.set_yticks(range(len(cells)), labels)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.14)
    axes[0].invert_yaxis()
    axes[-1].legend(title="against", frameon=False, loc="best")
    figure.suptitle(
        f"Ratchet against plain loops and TRL\n{results['machine']}, {results['date']}", x=0.01, ha="left", fontsize=10
    )
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def _bars(axis: Any, ratios: list[float], offset: float, peer: str) -> None:
    places = [place + offset for place in range(len(ratios))]
    bars = axis.barh(places, ratios, height=0.15, color=COLOURS[peer], label=peer)
    axis.bar_label(bars, [f"{ratio:.1f}×" if ratio else "" for ratio in ratios], padding=3, fontsize=8)


def _ratio(cell: dict[str, Any], peer: str, phase: str) -> float:
    """Return 0, which draws nothing, where the peer was not measured."""
    sides = cell["sides"]
    return median_ratio(sides[peer], sides[OURS], phase, clock(cell)) if peer in sides else 0.0


def _label(cell: dict[str, Any]) -> str:
    task = cell["task"]
    return f"{task['shape']}\n{task['vocab'] // 1000}k, {task['precision']}, {cell['malloc']}"


if __name__ == "__main__":
    main()
