"""A suite's preference pairs under a model and its reference, in passes like those of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from ratchet.errors import DataError, ModelError
from ratchet.evaluate import preference_task
from ratchet.evaluate.results import TaskResult
from ratchet.model.digest import digest_vocabulary
from ratchet.model.load import resolve
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.lost import tell_lost
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.pipeline.candidates import Bench
from ratchet.pipeline.context import Model
from ratchet.pipeline.models import model_of
from ratchet.pipeline.prepare import facts_of
from ratchet.pipeline.scoring import read_job
from ratchet.plan.model import ModelSpec
from ratchet.plan.suite import Preference
from ratchet.reference.jobs import Passes, ScoreJob
from ratchet.reference.score import Pool, score_jobs
from ratchet.store.sound import checked
from ratchet.track.bar import counted


def score_preferences(bench: Bench, model: Model, name: str, task: Preference) -> TaskResult:
    """Return how a model sees a suite's pairs. Raises DataError, ModelError; StoppedError where it was stopped."""
    pairs_fp, pairs = prepare_pairs(name, task.data, bench.layout, None, bench.wait)
    tokens_fp, tokens = prepare_tokens(
        pairs,
        pairs_fp,
        model.folder,
        bench.layout,
        max_length=task.max_length,
        overlong="drop",
        chat_template=bench.chat_template,
        wait=bench.wait,
    )
    tell_lost(name, task.data, facts_of(tokens), tokens)
    split = "heldout" if task.data.held_out else "train"
    count = min(task.max_pairs, len(open_table([tokens / f"{split}.arrow"], [1.0], 0)))
    if not count:
        raise DataError("no pair is left to score", where=f"tasks.{name}", fix="look at its data and max_length")
    job = ScoreJob(tokens_fp, tokens, split, tuple(range(count)))
    reference = None if task.reference is None else _reference(model, task.reference)
    models = [model] if reference is None else [model, reference]
    budget = bench.cluster.token_budget if isinstance(bench.cluster.token_budget, int) else None
    pool = Pool(bench.actors, bench.cluster.gpus_per_worker, Passes(budget, bench.cluster.sharing))
    with counted(f"score {model.name}", "pairs", bench.console) as show:
        work = [(one.scoring(), job) for one in models]
        scored = score_jobs(work, bench.layout, pool, on_pairs=show, wait=bench.wait)
    logps = [read_job(job, one) for one in scored]
    table = open_table([job.file], [1.0], 0).subset(job.rows or ())
    texts = {pair.pair_id: pair for pair in _read(pairs / f"{split}.parquet")}
    return preference_task.result(
        name,
        task,
        logps[0],
        logps[1] if reference is not None else None,
        [texts[pair_id] for pair_id in table.pair_ids().to_pylist()],
        {"tokens": tokens_fp, "reference": reference.weights if reference else None, "split": split},
    )


def _reference(model: Model, spec: ModelSpec) -> Model:
    folder = resolve(spec)
    if digest_vocabulary(folder) != digest_vocabulary(model.folder):
        raise ModelError(
            "its tokenizer gives other ids than that of the model it is the reference of",
            where=str(folder),
            fix="name a model of the same family",
        )
    return model_of("reference", spec, folder)


def _read(path: Path) -> Iterator[PreferencePair]:
    for row in pq.read_table(checked(path)).to_pylist():
        prompt = tuple(Turn(turn["role"], turn["content"]) for turn in row["prompt"])
        yield PreferencePair(prompt, row["chosen"], row["rejected"], row["file"], row["row"])
