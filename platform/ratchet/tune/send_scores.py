"""Send what was found of a trial's models to its wandb run."""

from __future__ import annotations

from ratchet.documents.scores import SuiteScores
from ratchet.track.trial import TrialRun
from ratchet.track.wandb import wandb_summary, wandb_tables


def send_scores(trial: TrialRun, scores: SuiteScores) -> None:
    """Send the figures and tables of every model in a scores.json, reused ones too: the run is the trial's.

    Names get the model's before them: `align/eval/<suite>/<task>`, `align/eval/scores`.
    """
    for model in scores.models:
        for name, (columns, rows) in wandb_tables(scores, model.name).items():
            trial.table(f"{model.name}/{name}", columns, rows)
        trial.summary({f"{model.name}/{key}": value for key, value in wandb_summary(scores, model.name).items()})
