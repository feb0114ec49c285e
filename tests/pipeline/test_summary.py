"""What a run's page warns of, gathered from the records of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binomtest

from ratchet.documents.events import EVENTS, Event
from ratchet.documents.heldout import Estimate, ExactMatchRow, HeldOutRow, ModelScores
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import Step, all_steps
from ratchet.pipeline.summary import _evaluation, notable_events
from ratchet.plan.schema import Plan
from ratchet.store.codec import to_values
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.track.progress import Console

PLAN = """
name: tiny
model: {name: some/model}
data: {rows: {path: rows.jsonl}}
stages: {warm: {kind: sft, data: [rows]}, align: {kind: dpo, after: warm, data: [rows]}}
"""


def run_with(folder: Path, events: dict[str, list[Any]]) -> tuple[Run, list[Step]]:
    """Return a run of two finished steps whose records have these events."""
    run = Run(Plan.model_validate(yaml.safe_load(PLAN)), Layout(folder), Console(), False, None)
    steps = all_steps(run.plan, {})
    for step in steps:
        home = run.layout.step("tiny", step.name)
        home.mkdir(parents=True)
        facts = {"training": {"events": events[step.name]}}
        write_record(home, Record("step", "f", {}, {}, "2026-11-21T10:00:00Z", 1.0, facts=facts))
    return run, steps


def test_an_event_that_a_reader_must_know_stands_on_the_page_whatever_its_words_are(tmp_path: Path) -> None:
    events = [to_values(Event(code=code, what=f"in other words {n}")) for n, code in enumerate(EVENTS)]
    run, steps = run_with(tmp_path, {"warm": [], "align": events})
    codes = {"step-skipped", "checkpoint-damaged", "budget-halved"}
    known = [f"align: {event['what']}" for event in events if event["code"] in codes]
    assert notable_events(run, steps) == known and len(known) == 3


def test_records_without_codes_still_warn_of_skipped_steps_and_broken_checkpoints(tmp_path: Path) -> None:
    old = [
        "2 workers (abc) began",
        "step 8 was skipped: the loss of 1 pairs is not finite; pairs 4f1c",
        "step-000004 failed its check and was set aside: state.pt has 3 bytes of 9",
        "1 worker (def) went on after step 2",
    ]
    run, steps = run_with(tmp_path, {"warm": ["2 workers (abc) began"], "align": old})
    assert notable_events(run, steps) == [f"align: {event}" for event in old[1:3]]


def test_shares_stand_in_the_document_with_their_exact_interval_and_no_error_of_0(tmp_path: Path) -> None:
    run = Run(Plan.model_validate(yaml.safe_load(PLAN)), Layout(tmp_path), Console(), False, None)
    mean = Estimate(0.5, 0.1, 8)
    logs = dict.fromkeys(("margin", "chosen_delta", "rejected_delta", "chosen_per_token"), mean)
    held = HeldOutRow(source="rows", against="base", accuracy=Estimate(1.0, None, 8), **logs)
    answers = ExactMatchRow(suite="s", task="sums", mean=0.0, standard_error=0.0, count=60, source="rows", examples=())
    scores = ModelScores(model="align", weights="w", heldout=(held,), gamma=(), exact_match=(answers,), written="")
    found = _evaluation(run, scores)
    exact = binomtest(8, 8).proportion_ci(method="exact")
    (row,), (task,) = found.heldout, found.exact_match
    assert (row.standard_error, row.accuracy_low, row.accuracy_high) == (None, pytest.approx(exact.low), 1.0)
    exact = binomtest(0, 60).proportion_ci(method="exact")
    assert (task.standard_error, task.score_low, task.score_high) == (None, 0.0, pytest.approx(exact.high))
