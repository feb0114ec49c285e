"""The `ratchet` command, with a look at its way to a loss. As a program: its words are those of the command.

It writes our own frames, innermost first, into `frames.json`: those of the process that computes the loss, and on a
Ray into `frames-driver.json` those of the command when it starts the thread that starts the workers, with its target.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

FRAMES, DRIVER = "frames.json", "frames-driver.json"
MOST_FRAMES = 10
"""Frames of ours from the command to a loss, on a Ray as in one process: `docs/debugging.md` draws them."""


def ours(frame: FrameType | None) -> list[str]:
    """The frames of the library from this one out."""
    names = []
    while frame is not None:
        file = frame.f_code.co_filename.partition("/platform/ratchet/")[2]
        if file:
            names.append(f"{file} {frame.f_code.co_name}")
        frame = frame.f_back
    return names


def look(folder: Path) -> None:
    """Let DPO's loss write down who called it."""
    from ratchet.losses import preference

    def probe(*given: Any, **options: Any) -> Any:
        names = ["losses/preference.py dpo", *ours(sys._getframe(1))]
        (folder / FRAMES).write_text(json.dumps(names))
        return preference.dpo(*given, **options)

    preference.LOSSES["dpo"] = dataclasses.replace(preference.LOSSES["dpo"], function=probe)  # type: ignore[index]


def looked_at(folder: Path, worker: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
    """A worker whose process looks too."""

    def look_and_work(config: Mapping[str, Any]) -> Any:
        look(folder)
        return worker(config)

    return look_and_work


def way(folder: Path) -> list[str]:
    """The whole way that was written down, innermost first."""
    files = [folder / name for name in (FRAMES, DRIVER)]
    return [name for file in files if file.exists() for name in json.loads(file.read_text())]


def command() -> int:
    folder, begin = Path.cwd(), threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "ratchet-train":
            target = thread._target  # type: ignore[attr-defined]
            file = target.__code__.co_filename.partition("/platform/ratchet/")[2]
            (folder / DRIVER).write_text(json.dumps([f"{file} {target.__name__}", *ours(sys._getframe(1))]))
        begin(thread)

    if "--here" in sys.argv:
        sys.modules["ray"] = sys.modules["deepspeed"] = None  # type: ignore[assignment]  # as where it is not installed
        look(folder)
    else:
        from ratchet.train import launch

        threading.Thread.start = start  # type: ignore[method-assign]
        launch.train.__kwdefaults__["worker"] = looked_at(folder, launch.ray_worker)
    from ratchet.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(command())
