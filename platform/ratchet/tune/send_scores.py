"""Send what was found of a trial's models to its wandb run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.report.read import read_scores
from ratchet.report.scores_tables import wandb_summary, wandb_tables
from ratchet.track.trial import TrialRun


def send_scores(trial: TrialRun, document: Mapping[str, Any]) -> None:
    """Send the figures and tables of every model in a scores.json, reused ones too: the run is the trial's.

    Names get the model's before them: `align/eval/<suite>/<task>`, `align/eval/scores`. Raises
    DataError where the document is no scores.json.
    """
    scores = read_scores(document)
    for model in scores.models:
        for name, (columns, rows) in wandb_tables(scores, model.name).items():
            trial.table(f"{model.name}/{name}", columns, rows)
        trial.summary({f"{model.name}/{key}": value for key, value in wandb_summary(scores, model.name).items()})
