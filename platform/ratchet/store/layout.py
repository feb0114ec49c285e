"""Where things lie. The only module that joins paths below the storage root.

<root>/store/pairs/<fp>/    train.parquet  heldout.parquet  skipped.parquet  record.json
<root>/store/tokens/<fp>/   train.arrow    heldout.arrow    skipped.parquet  record.json
<root>/store/logps/<fp>/    block-000000.parquet …, or scores.arrow          record.json
<root>/store/models/<fp>/   a Hugging Face folder made from a `scratch:` spec
<root>/store/rehearsals/<fp>/   what a rehearsal before a first step saw      record.json
<root>/store/answers/<fp>.jsonl   what a model answered, unit by unit
<root>/store/judgments/<fp>.jsonl   answers of a judge behind a URL
<root>/store/requests/      requests of lm-eval's tasks, which all models share
<root>/store/datasets/      `datasets`' copies of local data, by content
<root>/store/scores/<fp>/   result.json  items.parquet                       record.json
<root>/runs/<plan>/         plan.yaml  resolved.json  report.{html,md,json}  scores.json  lock
<root>/runs/<plan>/hub/     which commits the plan's names on the hub mean (in <root>/sweeps/<sweep> for trials)
<root>/runs/<plan>/warnings/   what each process of the run warned of
<root>/runs/<plan>/steps/<step>/   identity.json metrics.jsonl ledger.jsonl checkpoints/ masters/ model/ record.json
<root>/runs/<plan>/scores/<model>.json
<root>/evaluations/<suite>-<models>/   scores.json  report.{html,md,json}
<root>/store/answered/<fp>.json   what a command was asked and answered, and what that rests on
<root>/store/steps/<fp>/    what a step made, for all trials that have it: as in runs/<plan>/steps/<step>
<root>/store/leases/<key>/  who is making something now
<root>/proofs/<plan>/       prove.json, and while it is made a run folder
<root>/store/damaged/       what was not as it was written, put aside; nothing reads it
<root>/sweeps/<sweep>/      plan.yaml  space.yaml  sweep.{html,md,json}  lock
<root>/sweeps/<sweep>/trials/<trial>/   a run folder, with point.json log.txt progress.jsonl trial.json
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from ratchet.errors import PlanError
from ratchet.store.files import at_home

_OF_JOBS = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable that Ray's job server sets for the driver of each job."""
_JOB_COPY = "_ray_pkg_"
"""How the names of Ray's folders begin into which it unpacks the files of a job."""


def layout_at(
    storage: str, option: str = "--set cluster.storage=", environment: Mapping[str, str] = os.environ
) -> Layout:
    """Return the layout below a storage folder, which is relative to the working folder; `option` names another.

    Raises PlanError where this process is the driver of a Ray job and the folder would go with the job.
    """
    root = root_of(storage)
    if (_OF_JOBS in environment and not at_home(storage).is_absolute()) or any(
        part.startswith(_JOB_COPY) for part in root.parts
    ):
        raise lost_with_job(storage, option)
    return Layout(root)


def root_of(storage: str) -> Path:
    """Return a storage folder as an absolute path, `~` and links followed. Links in a circle stay as they are."""
    # `Path.resolve` raises RuntimeError where links lead in a circle.
    return Path(os.path.realpath(at_home(storage)))


def lost_with_job(storage: str, option: str = "--set cluster.storage=") -> PlanError:
    """Return the error of a storage folder that lies among a job's own files."""
    return PlanError(
        f"{storage} would lie in the job's own copy of its files, and be lost with it",
        where=option.removeprefix("--set ").strip(" ="),
        fix=f"give an absolute folder that every node of the cluster sees: {option}/mnt/store",
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """Paths below one storage root, shared by every worker of a run. Run folders lie in `root / runs`."""

    root: Path
    runs: str = "runs"

    def made(self, kind: str, fp: str) -> Path:
        """Where something of a kind lies that is made once: pairs, tokens, models, …"""
        return self.store / kind / fp

    def pairs(self, fp: str) -> Path:
        return self.root / "store" / "pairs" / fp

    def tokens(self, fp: str) -> Path:
        return self.root / "store" / "tokens" / fp

    def logps(self, fp: str) -> Path:
        return self.root / "store" / "logps" / fp

    def answers(self, fp: str) -> Path:
        return self.root / "store" / "answers" / f"{fp}.jsonl"

    def answered(self, fp: str) -> Path:
        return self.root / "store" / "answered" / f"{fp}.json"

    def judgments(self, fp: str) -> Path:
        return self.root / "store" / "judgments" / f"{fp}.jsonl"

    @property
    def damaged(self) -> Path:
        """Where damaged files and folders are put aside."""
        return self.root / "store" / "damaged"

    @property
    def store(self) -> Path:
        return self.root / "store"

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

    @property
    def proofs(self) -> Layout:
        """Return the layout of proofs: the same store, and run folders of their own."""
        return Layout(self.root, "proofs")

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
