"""Send what was found of models to wandb: one run for each model, with figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.plan.schema import Wandb
from ratchet.report.read import read_scores
from ratchet.report.scores_tables import wandb_summary, wandb_tables
from ratchet.store.fingerprint import fingerprint
from ratchet.track.wandb import WandbRun, WandbTracker


def track_scores(wandb: Wandb | None, group: str, document: Mapping[str, Any], folder: Path) -> None:
    """Send each model that was asked something now. wandb's troubles end nothing.

    Its run is known by its weights and results: run again without anything new, nothing is sent.
    """
    if wandb is None:
        return
    scores = read_scores(document)
    asked = {one.model for one in scores.results if not one.reused}
    for model in scores.models:
        if model.name not in asked:
            continue
        records = sorted(one.record for one in scores.results if one.model == model.name)
        identity = fingerprint({"weights": model.weights, "records": records})
        run = WandbRun(
            **wandb.model_dump(mode="python"),
            group=group,
            name=f"{model.name} evaluation",
            job_type="evaluation",
            run_id=f"{group}-{model.name}-evaluation-{identity[:8]}",
            folder=str(folder / "wandb"),
            config={"model": model.name, "weights": model.weights, "dtype": model.dtype, "suites": list(scores.suites)},
        )
        tracker = WandbTracker(run)
        for name, (columns, rows) in wandb_tables(scores, model.name).items():
            tracker.table(name, columns, rows)
        tracker.summary(wandb_summary(scores, model.name))
        tracker.close()
