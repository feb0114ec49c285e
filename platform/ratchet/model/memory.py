"""How much memory this process holds and may hold: a GPU's allocator, or on a CPU what Linux reports."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ratchet.store import machine

FIRST = 512
"""Tokens of the first pass that is tried."""
MOST = {"cpu": 4096, "cuda": 65536}
"""Beyond these, larger passes are not faster (measured on a CPU; on a GPU an assumption)."""
SHARE = 0.8
"""Of the free memory: allocators fragment, and the longest pairs are not the worst that can come."""
_STEP = 256
_GAIN = 1.05
"""A larger pass is worth its memory where it computes so many times the tokens a second."""
_TELLING = 0.5
"""Seconds: a shorter pass says nothing of speed."""
_KEPT = 0.05
"""Of a machine's memory: where less is free, Ray ends processes."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_KB = 1024


def reset_peak(device: torch.device) -> int:
    """Forget the peak so far; return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    trim(device)
    with contextlib.suppress(OSError):  # some containers forbid it: the peak is then that of the whole process
        _RESET.write_text("5", encoding="utf-8")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    """Return the most bytes held since `reset_peak`, or since the process began."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory this process has held, in MB: the device's on a GPU, else resident memory."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    # Linux gives KiB.
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


def available(device: torch.device) -> int:
    """Return the bytes that could still be taken, by all processes together on a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = machine.memory()
    return found.available - int(_KEPT * found.total)


def taken_by(action: Callable[[], object], device: torch.device) -> int:
    """Run `action`; return the bytes that it took at its peak, or sys.maxsize where a GPU had not enough."""
    before = reset_peak(device)
    try:
        action()
    except torch.OutOfMemoryError:
        return sys.maxsize
    return max(0, peak(device) - before)


def largest_budget(
    peak_at: Callable[[int], int],
    free: int,
    device: torch.device,
    seconds_at: Callable[[int], float] = lambda tokens: 0.0,
) -> int:
    """Return the largest token budget whose peak fits into `free` bytes, between FIRST and what MOST says.

    `peak_at(tokens)` tries a pass and returns its bytes, `seconds_at` how long that pass took. Budgets double while
    twice the last peak fits and passes get quicker a token; the rest is by the square root of what is left. A budget
    that turned out not to fit, or for which a GPU had not enough, gives way to the previous one.
    """
    most = MOST.get(device.type, MOST["cuda"])
    budget, needed = FIRST, peak_at(FIRST)
    while budget < most and 2 * needed <= free:
        larger = min(2 * budget, most)
        bytes_larger = peak_at(larger)
        before, now = seconds_at(budget), seconds_at(larger)
        # What is no quicker is not worth its memory, and the next one's trial neither its time.
        if bytes_larger > free or (before >= _TELLING and now * budget * _GAIN > before * larger):
            return budget
        budget, needed = larger, bytes_larger
    if budget >= most or needed > free:
        return budget
    # By the square root, because a peak may grow with the square of a pass.
    return min(most, int(budget * math.sqrt(free / needed))) // _STEP * _STEP


def trim(device: torch.device) -> None:
    """Hand freed memory of the CPU back to the system, where `device` is that."""
    # glibc is set to keep it, which is quick from pass to pass. What a larger pass or an update left would stay, too.
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if device.type == "cpu" and found is not None:
        found(0)


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+)", _STATUS.read_text(encoding="utf-8"), re.M)
    return int(found.group(1)) * _KB if found else 0
