"""Who held the memory of a machine that ran out of it, by Ray's words.

By itself, since a driver and `ratchet submit` read it without torch, which `train/budget.py` loads.
"""

from __future__ import annotations

import os
import re

from ratchet.errors import ClusterError, RatchetError, TrainingError

_NODE = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")
_KILLED = re.compile(r"actual memory used=([\d.]+)GB")
OUT_OF_MEMORY = {"training.out-of-memory", "cluster.memory"}
"""Codes of the errors of a run without memory."""
_OURS = 0.5
"""From this share of the used memory on it is the run that needs too much of it, and not what runs beside it."""


def memory_error(said: str, where: str, workers: int, budget: int | None) -> RatchetError | None:
    """Return the error of a run whose worker Ray killed for want of memory; None where Ray's text, `said`, has none.

    `workers` are those of the run, `budget` the tokens of a pass where they are known. Where other processes hold the
    memory it is a ClusterError: the same command may succeed later. Ray's GB are GiB.
    """
    node, killed = _NODE.search(said), [float(size) for size in _KILLED.findall(said)]
    if node is None or not killed:
        return None
    used, limit, each = float(node[1]), float(node[2]), max(killed)
    ours = min(used, each * max(workers, len(killed)))
    many = f"this run's {f'{workers} workers' if workers > 1 else 'worker'} held {ours:.1f} GiB"
    what = (
        f"the machine ran out of memory: {used:.1f} of {limit:.1f} GiB were used; {many}, others {used - ours:.1f} GiB"
    )
    if ours < _OURS * used:
        return ClusterError(
            what,
            where=where,
            fix="run again when the others need less, or elsewhere: it goes on from what was saved",
            code="cluster.memory",
        )
    return TrainingError(
        what,
        where=where,
        fix=f"{smaller_passes(budget)}, set cluster.gradient_checkpointing, raise cluster.deepspeed.zero, or take a "
        "larger machine",
        code="training.out-of-memory",
    )


def smaller_passes(budget: int | None) -> str:
    """Return the advice to lower the tokens of a pass, with figures where they are known."""
    return "lower cluster.token_budget" + (f" (it is {budget:,} now: try {max(1, budget // 2):,})" if budget else "")


def keep_text(said: str) -> None:
    """Put a library's text where native noise goes: a run keeps it in its native.log."""
    os.write(2, f"{said}\n".encode(errors="replace"))
