"""One side in a process of its own, so that its memory and its CPU time are its own.

Reads requests from standard input, one JSON object a line, and answers each with one. What libraries
print goes to standard error.
"""

from __future__ import annotations

import dataclasses
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
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""Let glibc keep freed memory. By default it hands large blocks back, and every new one is cleared by the
kernel, page by page: up to half of a step's CPU seconds, most of all where large tensors come and go."""


def _trl(setting: str) -> Callable[[Task], Side]:
    def make(task: Task) -> Side:
        from benchmarks.trl_side import SETTINGS, TrlSide

        return TrlSide(task, SETTINGS[setting])

    return make


def _ratchet(**settings: Any) -> Callable[[Task], Side]:
    def make(task: Task) -> Side:
        from benchmarks.ratchet_side import RatchetSide

        return RatchetSide(task, **settings)

    return make


COMPARED: Mapping[str, Callable[[Task], Side]] = {
    "TRL default": _trl("default"),
    "TRL best": _trl("best"),
    "Ratchet": _ratchet(),
}
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


class Worker:
    """The asking end: starts a side's process and sends it requests."""

    def __init__(self, side: str, task: Task, errors: IO[str] | None, *, keep_memory: bool) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")])
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if task.device == "cpu" else {}
        environment = {**os.environ, **_QUIET, **hidden, "OMP_NUM_THREADS": str(task.threads), "PYTHONPATH": path}
        if keep_memory:
            environment |= _KEEP
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side, json.dumps(task.to_dict())],
            cwd=ROOT,
            env=environment,
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
        """Send a request and wait for its answer. Raises RuntimeError where the process has ended."""
        try:
            stdin, stdout = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
            stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"the process of {self.side} ended with status {self.process.wait()} while asked to {do}"
            )
        return cast(dict[str, Any], json.loads(line))


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


def serve(side_name: str, task: Task, answer: Callable[[Any], None]) -> None:
    """Build the side and answer requests until the input ends."""
    import torch

    torch.set_num_threads(task.threads)
    make = SIDES[side_name]
    small = dataclasses.replace(task, model="tiny", vocab=64, pairs=8, micro=8)
    make(small).score([0])  # loads every library
    before = status_bytes("VmRSS") if task.device == "cpu" else torch.cuda.memory_allocated()
    side = make(task)
    for line in sys.stdin:
        request = json.loads(line)
        rows = range(*request["rows"])
        match request["do"]:
            case "score":
                _, cost = measured(lambda rows=rows: side.score(rows), task.device)
                answer(cost)
            case "step":
                loss, cost = measured(lambda rows=rows: side.step(rows), task.device)
                answer({**cost, "loss": loss})
            case "memory":
                side.logps_N2[:] = 0.0  # any reference will do
                _, cost = measured(lambda rows=rows: side.step(rows), task.device)
                answer({"bytes": cost["peak_bytes"] - before - side.own_bytes()})
            case "gradients":
                loss, gradients = side.gradients(rows)
                torch.save({"loss": loss, "gradients": gradients}, request["path"])
                answer({})
            case "work":
                works = {"training": side.training_work(rows), "scoring": side.scoring_work(rows)}
                answer({name: vars(work) for name, work in works.items()})


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(value: Any) -> None:
        """Write one answer."""
        out.write(json.dumps(value) + "\n")
        out.flush()

    serve(sys.argv[1], Task(**json.loads(sys.argv[2])), send)
