"""What wandb is sent of an evaluation: one run for each model that was asked something now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratchet.documents.scores import read_scores
from ratchet.pipeline.scores_document import track_scores
from ratchet.plan.schema import Wandb
from scores_example import scores
from track_example import wandb_records, wandb_run

WANDB = Wandb(project="ratchet-tests", mode="offline", tags=("a",))


@pytest.mark.heavy
def test_a_model_that_was_asked_has_a_run_with_figures_and_tables(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = scores()
    for one in document["results"]:
        one["reused"] = one["model"] != "warm"
    track_scores(WANDB, "talk", read_scores(document), tmp_path)
    ids, _, run = wandb_run(tmp_path)
    assert len(ids) == 1 and next(iter(ids)).startswith("talk-warm-evaluation-")
    assert (run.run_group, run.job_type, run.display_name) == ("talk", "evaluation", "warm evaluation")
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    told = {
        item.key: json.loads(item.value_json)
        for record in wandb_records(path)
        if record.HasField("summary")
        for item in record.summary.update
    }
    (wanted,) = (one for one in document["averages"] if (one["model"], one["name"]) == ("warm", "H6"))
    assert told["eval/open_llm_leaderboard/H6"] == pytest.approx(wanted["value"])
    assert told["eval/open_llm_leaderboard/H6_error"] == pytest.approx(wanted["standard_error"])
    tables = {found.parent.name + "/" + found.name.split("_")[0] for found in tmp_path.rglob("*.table.json")}
    assert {"eval/scores", "eval/differences", "eval/answers"} <= tables
    assert capfd.readouterr() == ("", "")


def test_nothing_new_and_no_wandb_are_sent_nothing(tmp_path: Path) -> None:
    document = scores()
    track_scores(None, "talk", read_scores(document), tmp_path)
    for one in document["results"]:
        one["reused"] = True
    track_scores(WANDB, "talk", read_scores(document), tmp_path)
    assert not (tmp_path / "wandb").exists()
