"""A trial of a sweep as wandb is told of it: what was chosen, its plan, and a driver to run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ratchet.track.jsonl import JsonLines

CHOSEN = {
    "trial": "t01234567-s3",
    "number": 4,
    "point": {"stages.align.beta": 0.3, "stages.align.data": ["maths", "chat"]},
    "point_id": "p01234567",
    "seed": 3,
    "by": "grid",
    "at": "2026-11-21T10:00:00+00:00",
}
PLAN = {
    "name": "t01234567-s3",
    "model": {"name": "m"},
    "stages": {"align": {"beta": 0.3, "data": ["maths", "chat"], "lora": None}},
}
SWEEP = "demo-beta"

_DRIVER = """
import json, sys, time
from pathlib import Path
from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialPoint
from ratchet.plan.schema import Wandb
from ratchet.track.jsonl import read_metrics
from ratchet.track.trial import StageLink, TrialRun, trial_run
from ratchet.track.wandb import WandbRun
import dataclasses
folder, chosen, plan, options = Path(sys.argv[1]), *map(json.loads, sys.argv[2:5])
chosen = TrialPoint(**chosen)
wandb = Wandb(project="ratchet-tests", mode=options["mode"])
run = dataclasses.replace(trial_run(wandb, "demo-beta", chosen, plan, folder), init_timeout=options["init_timeout"])
trial, touched = TrialRun(run), set()
def watch(frame, event, _):
    if event == "call" and "site-packages/wandb/" in frame.f_code.co_filename:
        touched.add(frame.f_code.co_qualname)
for number, (step, kind) in enumerate((("align.1", "dpop"), ("align.2", "dpop"))):
    parent = f"f{number - 1}" if number else None
    trial.stage(StageLink(step, kind, f"f{number}", parent, chosen.trial, trial.path, False))
    for line in read_metrics(folder / "steps" / step / "metrics.jsonl"):
        time.sleep(options["pause"])
        sys.setprofile(watch)  # of this thread alone: what wandb does, it does in another one
        trial.line(step, line)
        sys.setprofile(None)
    if step == options["die"]:
        (folder / "ready").touch()
        time.sleep(60)
    if step == options["end"]:
        trial.close()
        sys.exit()
    if step == options["wait"]:
        (folder / "ready").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
trial.finish("finished", {"align/heldout/accuracy": Value(0.75, 0.05)})
trial.close()
print(json.dumps({"touched": sorted(touched), "path": trial.path}))
"""


def write_step(folder: Path, step: str, lines: int) -> None:
    """Write a step's metrics as training does."""
    file = JsonLines(folder / "steps" / step / "metrics.jsonl", 0)
    for number in range(1, lines + 1):
        file.log(number, {"loss": 1 / number, "heldout/accuracy": float("nan") if number == 2 else 0.5})
    file.close()


def drive(folder: Path, environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a driver of the trial: it hands over what the files of two steps hold, and says how long that took."""
    chosen = {"mode": "online", "init_timeout": 30.0, "die": "", "end": "", "wait": "", "pause": 0.0, **options}
    words = [json.dumps(one) for one in (CHOSEN, PLAN, chosen)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", _DRIVER, str(folder), *words]
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)
