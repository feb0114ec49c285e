"""What the machine is and can do, measured in the same run as everything else."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

SIZES = (768, 1024, 1536, 2048)
_TOLD = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "sve", "bf16")


def describe() -> str:
    """Return one line: processor, cores, instruction sets, threads and torch."""
    model, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        named = {key.strip(): value.strip() for key, _, value in fields}
        model = named.get("model name", model)
        flags = set((named.get("flags") or named.get("Features") or "").split())
    told = " ".join(flag for flag in _TOLD if flag in flags)
    threads = torch.get_num_threads()
    return f"{model}, {os.cpu_count()} cores, {told}; {threads} threads, torch {torch.__version__}"


def matmul_peak(dtype: torch.dtype, repeats: int = 6) -> float:
    """Return the best rate of a matrix product in FLOP per second of wall time, over several sizes.

    The second factor is transposed, as a layer's weight is.
    """
    best = 0.0
    for size in SIZES:
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        out = torch.empty(size, size, dtype=dtype)
        for _ in range(repeats):
            began = time.perf_counter()
            torch.mm(left, right.t(), out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def peaks() -> dict[str, float]:
    """Return `matmul_peak` of each precision."""
    bfloat16 = matmul_peak(torch.bfloat16)
    return {"float32": matmul_peak(torch.float32), "bfloat16": bfloat16, "autocast": bfloat16}
