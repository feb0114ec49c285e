"""Metrics lines such as training steps write, made from a seed: the curves of the example report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def history(
    steps: int, seed: int, *, chosen: float, rejected: float, beta: float, penalty: float
) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of a preference step whose mean log-ratios end near `chosen`, `rejected`."""
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3 * (step - 1) / steps)
        h_w = chosen * done + (rng.normal(0, 0.08 * abs(chosen) + 0.05) if step > 1 else 0)
        h_l = rejected * done + (rng.normal(0, 0.06 * abs(rejected) + 0.05) if step > 1 else 0)
        logit = beta * (h_w - h_l - penalty * max(0.0, -h_w) * 0.02)
        line = {
            "step": step,
            "epoch": step / steps,
            "loss": math.log1p(math.exp(-logit)) + (rng.normal(0, 0.01) if step > 1 else 0),
            "rewards/chosen": beta * h_w,
            "rewards/rejected": beta * h_l,
            "rewards/margins": beta * (h_w - h_l),
            "rewards/accuracies": min(1.0, max(0.0, 0.5 + 0.42 * done + rng.normal(0, 0.05))) if step > 1 else 0.0,
            "logps/chosen": -62 + h_w,
            "logps/rejected": -64 + h_l,
            "logps/chosen_delta": h_w,
            "logps/rejected_delta": h_l,
            "grad_norm": 3 + rng.normal(0, 0.3),
            "learning_rate": 5e-7 * (1 - step / steps),
            "pairs_per_second": 14 + rng.normal(0, 0.4),
            "tokens_per_second": 5200.0,
            "tokens_computed": 12000,
        }
        if penalty:
            line["dpop/active"] = float(np.clip(0.5 - 0.3 * done + rng.normal(0, 0.05), 0, 1))
        if step % max(1, steps // 5) == 0:
            line |= {"heldout/loss": line["loss"] + 0.03, "heldout/accuracy": line["rewards/accuracies"] - 0.03}
        lines.append(line)
    return lines


def sft_history(steps: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 0.45 + 1.6 * math.exp(-4 * step / steps) + rng.normal(0, 0.03)
        lines.append(
            {"step": step, "epoch": step / steps, "loss": loss, "perplexity": math.exp(loss), "grad_norm": 1.0}
        )
        if step % max(1, steps // 5) == 0:
            lines[-1]["heldout/loss"] = loss + 0.02
    return lines
