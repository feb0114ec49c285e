"""Where things lie. The only module that joins paths below the storage root.

<root>/store/pairs/<fp>/    train.parquet  heldout.parquet  skipped.parquet  record.json
<root>/store/tokens/<fp>/   train.arrow    heldout.arrow    skipped.parquet  record.json
<root>/store/logps/<fp>/    block-000000.parquet …                           record.json
<root>/store/models/<fp>/   a Hugging Face folder made from a `scratch:` spec
<root>/store/answers/<fp>.jsonl   what a model answered, unit by unit
<root>/store/judgments/<fp>.jsonl   what a judge behind a URL said
<root>/store/requests/      requests of lm-eval's tasks, which all models share
<root>/store/datasets/      `datasets`' copies of local data, by content
<root>/store/scores/<fp>/   result.json  items.parquet                       record.json
<root>/runs/<plan>/         plan.yaml  resolved.json  report.{html,md,json}  scores.json  lock
<root>/runs/<plan>/warnings/   what each process of the run warned of
<root>/runs/<plan>/steps/<step>/   identity.json metrics.jsonl ledger.jsonl checkpoints/ model/ record.json
<root>/runs/<plan>/scores/<model>.json
<root>/evaluations/<suite>-<models>/   scores.json  report.{html,md,json}
<root>/store/steps/<fp>/    what a step made, for all trials that have it: as in runs/<plan>/steps/<step>
<root>/store/leases/<key>/  who is making something now
<root>/store/damaged/       what was not as it was written, put aside; nothing reads it
<root>/sweeps/<sweep>/      plan.yaml  space.yaml  sweep.{html,md,json}  lock
<root>/sweeps/<sweep>/trials/<trial>/   a run folder, with point.json log.txt progress.jsonl trial.json
"""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Layout:
    """Paths below one storage root, shared by every worker of a run. Run folders lie in `root / runs`."""

    root: Path
    runs: str = "runs"

    def pairs(self, fp: str) -> Path:
        return self.root / "store" / "pairs" / fp

    def tokens(self, fp: str) -> Path:
        return self.root / "store" / "tokens" / fp

    def logps(self, fp: str) -> Path:
        return self.root / "store" / "logps" / fp

    def model(self, fp: str) -> Path:
        return self.root / "store" / "models" / fp

    def answers(self, fp: str) -> Path:
        return self.root / "store" / "answers" / f"{fp}.jsonl"

    def judgments(self, fp: str) -> Path:
        return self.root / "store" / "judgments" / f"{fp}.jsonl"

    @property
    def damaged(self) -> Path:
        """Where damaged files and folders are put aside."""
        return self.root / "store" / "damaged"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def result(self, fp: str) -> Path:
        return self.root / "store" / "scores" / fp

    def run(self, plan: str) -> Path:
        return self.root / self.runs / plan

    def made_step(self, fp: str) -> Path:
        """Where a step lies that trials share."""
        return self.store / "steps" / fp

    def lease(self, key: str) -> Path:
        return self.store / "leases" / key

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / name

    def trials(self, sweep: str) -> Layout:
        """Return the layout of a sweep's trials: the same store, and run folders of their own."""
        return Layout(self.root, f"sweeps/{sweep}/trials")

    def evaluation(self, name: str) -> Path:
        return self.root / "evaluations" / name

    def step(self, plan: str, step: str) -> Path:
        return self.run(plan) / "steps" / step

    def order(self, plan: str, stage: str) -> Path:
        return self.run(plan) / "orders" / f"{stage}.json"

    def scores(self, plan: str, model: str) -> Path:
        return self.run(plan) / "scores" / f"{model}.json"

    def set_aside(self, plan: str, step: str, stamp: str) -> Path:
        """Where `--fresh` puts what a step had made before."""
        return self.run(plan) / "set-aside" / f"{step}-{stamp}"
