"""What the machine is and can do, measured in the same run as everything else."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

from benchmarks.models import Device

SIZES = {"cpu": (768, 1024, 1536, 2048), "cuda": (4096, 8192, 12288)}
_TOLD = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "sve", "bf16")


def describe(device: Device) -> str:
    """Return one line: processor or GPU, cores, instruction sets, threads and torch."""
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        return f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB; torch {torch.__version__}"
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


def matmul_peak(dtype: torch.dtype, device: Device, repeats: int = 6) -> float:
    """Return the best rate of a matrix product in FLOP per second of wall time, over several sizes.

    The second factor is transposed, as a layer's weight is.
    """
    best = 0.0
    for size in SIZES[device]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty(size, size, dtype=dtype, device=device)
        for _ in range(repeats):
            finish(device)
            began = time.perf_counter()
            torch.mm(left, right.t(), out=out)
            finish(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def finish(device: Device) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def peaks(device: Device) -> dict[str, float]:
    """Return `matmul_peak` of each precision."""
    bfloat16 = matmul_peak(torch.bfloat16, device)
    return {"float32": matmul_peak(torch.float32, device), "bfloat16": bfloat16, "autocast": bfloat16}
