"""What a run's page warns of, gathered from the records of its steps."""

from __future__ import annotations

from pathlib import Path

import yaml

from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import all_steps
from ratchet.pipeline.summary import _befell
from ratchet.plan.schema import Plan
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.track.progress import Console

PLAN = """
name: tiny
model: {name: some/model}
data: {rows: {path: rows.jsonl}}
stages: {warm: {kind: sft, data: [rows]}, align: {kind: dpo, after: warm, data: [rows]}}
"""


def test_steps_without_an_update_and_broken_checkpoints_stand_on_the_page(tmp_path: Path) -> None:
    run = Run(Plan.model_validate(yaml.safe_load(PLAN)), Layout(tmp_path), Console(), False, None)
    steps = all_steps(run.plan, {})
    events = {
        "warm": ["2 workers (abc) began"],
        "align": [
            "2 workers (abc) began",
            "step 8 was skipped: the loss of 1 pairs is not finite; pairs 4f1c",
            "step-000004 failed its check and was set aside: state.pt has 3 bytes of 9",
            "1 worker (def) went on after step 2",
        ],
    }
    for step in steps:
        folder = run.layout.step("tiny", step.name)
        folder.mkdir(parents=True)
        facts = {"training": {"events": events[step.name]}}
        write_record(folder, Record("step", "f", {}, {}, "2026-11-21T10:00:00Z", 1.0, facts=facts))
    assert _befell(run, steps) == [f"align: {event}" for event in events["align"][1:3]]
