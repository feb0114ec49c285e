"""One side in a process of its own, so that its memory and its CPU time are its own.

Reads requests from standard input, one JSON object a line, and answers each with one. What libraries
print goes to standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.models import Device
from benchmarks.side import Side, Task

ROOT = Path(__file__).resolve().parent.parent
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def _trl(setting: str) -> Callable[[Task], Side]:
    def make(task: Task) -> Side:
        from benchmarks.trl_side import SETTINGS, TrlSide

        return TrlSide(task, SETTINGS[setting])

    return make


def _plain(loop: str) -> Callable[[Task], Side]:
    def make(task: Task) -> Side:
        from benchmarks.plain_side import LOOPS, PlainSide

        return PlainSide(task, LOOPS[loop])

    return make


def _ratchet(**settings: Any) -> Callable[[Task], Side]:
    def make(task: Task) -> Side:
        from benchmarks.ratchet_side import RatchetSide

        return RatchetSide(task, **settings)

    return make


COMPARED: Mapping[str, Callable[[Task], Side]] = {
    "careful loop": _plain("careful"),
    "naive loop": _plain("naive"),
    "TRL best": _trl("best"),
    "TRL default": _trl("default"),
    "no sharing": _ratchet(sharing="none"),
    "Ratchet": _ratchet(),
}
"""The six sides: the strongest plain opponent first. `no sharing` is Ratchet's packing without its token trees."""
ABLATION: Mapping[str, Callable[[Task], Side]] = {
    "padded rows": _ratchet(padded=True),
    "no sharing": _ratchet(sharing="none"),
    "prompts alone": _ratchet(sharing="prompt"),
    "whole head": _ratchet(head_rows=1 << 30),
    "512 tokens a pass": _ratchet(budget=512),
    "recomputed activations": _ratchet(recompute=True),
    "Ratchet": _ratchet(),
}
"""One technique off at a time, against all of them."""
SIDES = {**COMPARED, **ABLATION}
OURS = frozenset(ABLATION)
"""Sides that are Ratchet in some setting."""


class SideError(RuntimeError):
    """A side cannot do what it was asked for: its name, and why."""


class Worker:
    """The asking end: starts a side's process and sends it requests; the first that it wants is a task."""

    def __init__(
        self, side: str, errors: IO[str] | None, allocator: Mapping[str, str], *, threads: int, device: Device
    ) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")])
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side],
            cwd=ROOT,
            env={**inherited, **_QUIET, **hidden, **own, **allocator},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.communicate()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises SideError where the side failed or its process has ended."""
        stdin, stdout = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        with contextlib.suppress(BrokenPipeError):  # a side that has failed still says why
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise SideError(f"its process ended with status {self.process.wait()} while asked to {do}")
        answer = cast(dict[str, Any], json.loads(line))
        if "failed" in answer:
            raise SideError(answer["failed"])
        return answer


def status_bytes(field: str) -> int:
    """Return a field of this process's status in bytes: VmRSS, VmHWM. Zero where there is no such file."""
    path = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text() if path.exists() else "", re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def reset_peak() -> None:
    """Let VmHWM start again from the memory in use now."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(action: Callable[[], Any], device: Device = "cpu") -> tuple[Any, dict[str, float]]:
    """Run `action`; return its result, its wall seconds, CPU seconds of all threads and the device's peak memory."""
    if device == "cuda":
        return _measured_on_gpu(action)
    reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return result, cost | {"peak_bytes": status_bytes("VmHWM")}


def _measured_on_gpu(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    torch.cuda.synchronize()
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return result, cost | {"peak_bytes": float(torch.cuda.max_memory_allocated())}


def serve(side_name: str, answer: Callable[[Any], None]) -> None:
    """Build a side for each task that comes, and answer requests about it, until the input ends."""
    import torch

    make = SIDES[side_name]
    loaded = False
    side: Side | None = None
    before = 0.0
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "task":
            task = Task(**request["task"])
            torch.set_num_threads(task.threads)
            if not loaded:
                small = dataclasses.replace(task, rows="", shape="near twins", model="tiny", vocab=64, pairs=8, micro=8)
                make(small).score([0])  # loads every library
                loaded = True
            side = None  # before the next one takes its memory
            gc.collect()
            before = status_bytes("VmRSS") if task.device == "cpu" else torch.cuda.memory_allocated()
            side = make(task)
            answer({"device": task.device})
        else:
            assert side is not None
            answer(_answer(side, request, task.device, before))


def _answer(side: Side, request: dict[str, Any], device: Device, before: float) -> dict[str, Any]:
    rows = range(*request["rows"])
    match request["do"]:
        case "score":
            return measured(lambda: side.score(rows), device)[1]
        case "step":
            loss, cost = measured(lambda: side.step(rows), device)
            return {**cost, "loss": loss, "memory_bytes": cost["peak_bytes"] - before - side.own_bytes()}
        case "gradients":
            import torch

            from benchmarks.flops import counted

            (loss, gradients), flops = counted(lambda: side.gradients(rows))
            torch.save({"loss": loss, "gradients": gradients}, request["path"])
            return {"loss": loss, "flops": flops}
        case "tokens":
            return {"tokens": side.tokens(rows)}
        case other:
            raise ValueError(f"no such request: {other}")


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(value: Any) -> None:
        """Write one answer."""
        out.write(json.dumps(value) + "\n")
        out.flush()

    try:
        serve(sys.argv[1], send)
    except Exception as error:
        send({"failed": f"{type(error).__name__}: {error}"})
        raise
