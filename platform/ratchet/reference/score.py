"""Score pairs under a model: Ray Data over a pool of processes that each hold the model once.

The unit of work is a block of pairs, written by the process that scored it; a killed run goes on
with the blocks that are missing. The forward pass is the trainer's own (`model.forward`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.model.tree import Sharing
from ratchet.pairs.table import TokenTable, open_table
from ratchet.reference.store import Logps, logps_identity, missing_blocks, prove, write_block
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import Record, now, read_record, write_record


@dataclasses.dataclass(frozen=True)
class ScoringModel:
    """The model that scores: its folder, and what of it decides the numbers."""

    folder: Path
    weights: str
    dtype: str
    quantise: str | None = None
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True)
class ScoreJob:
    """Rows of one split of a token folder; `rows` of None is all of them."""

    tokens_fp: str
    tokens_folder: Path
    split: str
    rows: tuple[int, ...] | None = None

    @property
    def file(self) -> Path:
        """The table that holds the rows."""
        return self.tokens_folder / f"{self.split}.arrow"


@dataclasses.dataclass(frozen=True)
class Passes:
    """How pairs are laid out: tokens that a forward pass computes (None: found by trying), and which are shared."""

    token_budget: int | None = None
    sharing: Sharing = "auto"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Where a job's scores lie; `reused` where nothing had to be computed."""

    folder: Path
    fingerprint: str
    pairs: int
    seconds: float
    reused: bool


class BlockScorer:
    """Scores one block at a time; Ray Data keeps it alive in its own process."""

    def __init__(self, model: ScoringModel, passes: Passes, device: str, share: float) -> None:
        self.model, self.sharing, self.device = model, passes.sharing, device
        self.budget, self.share = passes.token_budget, share
        self.tables: dict[str, TokenTable] = {}

    @functools.cached_property
    def scorer(self) -> Any:
        """The model; loaded with the first block, because an error in a constructor comes back without its cause."""
        from ratchet.model.forward import PairScorer
        from ratchet.model.load import load_model

        model = self.model
        loaded = load_model(
            model.folder, model.dtype, trust_remote_code=model.trust_remote_code, quantise=model.quantise
        )
        on_device = loaded if model.quantise else loaded.to(self.device)
        return PairScorer(on_device, sharing=self.sharing).eval()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["file"] not in self.tables:
            self.tables[item["file"]] = open_table([Path(item["file"])], [1.0], 0)
        table = self.tables[item["file"]]
        rows = np.asarray(item["rows"])
        started = time.monotonic()
        if self.budget is None:
            self.budget = fitting_budget(self.scorer, table, rows, self.device, self.share)
        logps = score_rows(self.scorer, table, rows, self.budget, self.device)
        write_block(Path(item["folder"]), item["block"], [table.pair_id(int(row)) for row in rows], logps)
        return {"pairs": len(rows), "seconds": time.monotonic() - started, "folder": item["folder"]}


def score_rows(scorer: Any, table: TokenTable, rows: Any, token_budget: int, device: str) -> Logps:
    """Return the scores of `rows` in their order; forward alone, at most `token_budget` tokens at a time."""
    import torch

    from ratchet.model.divide import divide, units
    from ratchet.model.forward import score

    place = {int(row): at for at, row in enumerate(rows)}
    out = np.full((4, len(rows)), np.nan)
    parts = units(table.__getitem__, rows, scorer.packing, token_budget)
    with torch.inference_mode():
        for micro in divide(parts, 1, token_budget)[0]:
            sides = score(scorer, [table[int(row)] for row in micro.rows], device)
            columns = (sides.chosen_B, sides.rejected_B, sides.chosen_tokens_B, sides.rejected_tokens_B)
            for line, column in zip(out, columns, strict=True):
                line[[place[int(row)] for row in micro.rows]] = column.double().cpu().numpy()
    return Logps(out[0], out[1], out[2].astype(np.int32), out[3].astype(np.int32))


def fitting_budget(scorer: Any, table: TokenTable, rows: Any, device: str, share: float) -> int:
    """Return the tokens of a pass that fit into this process's `share` of memory, by trying the longest of `rows`."""
    import torch

    from ratchet.model import memory
    from ratchet.model.divide import filling
    from ratchet.model.forward import score

    longest = rows[np.argsort(-table.lengths_N3[rows].sum(1), kind="stable")]
    on = torch.device(device)

    def peak_at(budget: int) -> int:
        pairs = filling((table[int(row)] for row in longest), scorer.packing, budget)
        with torch.inference_mode():
            return memory.taken_by(lambda: score(scorer, pairs, device), on)

    return memory.largest_budget(peak_at, int(share * memory.SHARE * memory.available(on)), on)


def score_jobs(
    model: ScoringModel,
    jobs: Sequence[ScoreJob],
    layout: Layout,
    *,
    actors: int,
    passes: Passes,
    gpus: float,
    on_pairs: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scored]:
    """Score every job under `model` in one pass, and return where each one's scores lie.

    What the store already holds is not computed again. `on_pairs(done, total)` follows the work.
    Raises the error of the process that failed; its finished blocks stay.
    """
    started, clock = now(), time.monotonic()
    plans = [_plan(model, job, layout, jobs) for job in jobs]
    items = [item for plan in plans for item in plan.items]
    seconds = _run(model, items, actors=actors, passes=passes, gpus=gpus, on_pairs=on_pairs) if items else {}
    return [_finish(plan, started, clock, seconds.get(str(plan.folder), 0.0)) for plan in plans]


@dataclasses.dataclass(frozen=True)
class _JobPlan:
    job: ScoreJob
    identity: dict[str, Any]
    folder: Path
    items: list[dict[str, Any]]
    record: Record | None
    part: bool


def _plan(model: ScoringModel, job: ScoreJob, layout: Layout, jobs: Sequence[ScoreJob]) -> _JobPlan:
    """Say what a job still needs. Rows of a split that is scored whole, now or before, need nothing of their own."""
    if job.rows is not None:
        whole = dataclasses.replace(job, rows=None)
        identity = _identity(model, whole)
        record = read_record(layout.logps(fingerprint(identity)))
        if record is not None or whole in jobs:
            return _JobPlan(job, identity, layout.logps(fingerprint(identity)), [], record, part=True)
    identity = _identity(model, job)
    folder = layout.logps(fingerprint(identity))
    record = read_record(folder)
    rows = _rows(job) if record is None else np.zeros(0, np.int64)
    items = [
        {"file": str(job.file), "folder": str(folder), "block": block, "rows": rows[start:end].tolist()}
        for block, start, end in (missing_blocks(folder, len(rows)) if record is None else [])
    ]
    return _JobPlan(job, identity, folder, items, record, part=False)


def _identity(model: ScoringModel, job: ScoreJob) -> dict[str, Any]:
    return logps_identity(
        tokens=job.tokens_fp,
        split=job.split,
        rows=job.rows,
        weights=model.weights,
        dtype=model.dtype,
        quantise=model.quantise,
        engine="trainer",
    )


def _rows(job: ScoreJob) -> npt.NDArray[np.int64]:
    if job.rows is not None:
        return np.asarray(job.rows, dtype=np.int64)
    return np.arange(len(open_table([job.file], [1.0], 0)))


def _finish(plan: _JobPlan, started: str, clock: float, seconds: float) -> Scored:
    fp = fingerprint(plan.identity)
    if plan.part:
        return Scored(plan.folder, fp, len(_rows(plan.job)), 0.0, reused=True)
    if plan.record is not None:
        return Scored(plan.folder, fp, plan.record.counts["pairs"], plan.record.seconds, reused=True)
    table = open_table([plan.job.file], [1.0], 0)
    counts = prove(plan.folder, table.subset(_rows(plan.job)).pair_ids())
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_record(
        plan.folder,
        Record(
            "logps",
            fp,
            plan.identity,
            counts,
            started,
            round(seconds, 3),
            facts={"wall_seconds": round(time.monotonic() - clock, 3)},
        ),
    )
    return Scored(plan.folder, fp, counts["pairs"], seconds, reused=False)


def _run(
    model: ScoringModel,
    items: list[dict[str, Any]],
    *,
    actors: int,
    passes: Passes,
    gpus: float,
    on_pairs: Callable[[int, int], None],
) -> dict[str, float]:
    """Send the items through the pool; return the seconds spent on each score folder."""
    import ray

    total, done = sum(len(item["rows"]) for item in items), 0
    seconds: dict[str, float] = {}
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        BlockScorer,
        fn_constructor_args=(model, passes, "cuda" if gpus else "cpu", min(1.0, gpus) if gpus else 1 / actors),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(items))),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    for row in dataset.iter_rows():
        done += row["pairs"]
        seconds[row["folder"]] = seconds.get(row["folder"], 0.0) + row["seconds"]
        on_pairs(done, total)
    return seconds
