"""Metrics as a step logs them, its wandb run, and the files of wandb read back."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = {"epoch": 0.5, "loss": math.log(2), "rewards/margins": 0.25, "pairs_per_second": 12.5, "tokens_computed": 123}


def settings_of(**changes: Any) -> dict[str, Any]:
    """What a step hands to its tracker, with changes to the wandb run."""
    values = {
        "project": "ratchet-tests",
        "entity": None,
        "mode": "offline",
        "tags": ["a", "b"],
        "group": "demo",
        "name": "align.1",
        "job_type": "dpop",
        "run_id": "demo-align.1-0f",
        "config": {"model": {"name": "m"}, "stages": {"align": {"beta": 0.3, "betas": [0.9, 0.999]}}},
    }
    return {"wandb": {**values, **changes}}


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format (7-byte header, 32 KiB blocks)."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # full, or the last of several fragments
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_run(folder: Path) -> tuple[set[str], dict[int, dict[str, Any]], Any]:
    """Return run ids, history by step and the run record of every offline run below a folder."""
    ids, history, run = set(), {}, None
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                run = record.run
            if record.HasField("history"):
                line = {
                    (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
                }
                history[record.history.step.num] = {k: v for k, v in line.items() if not k.startswith("_")}
    return ids, history, run
