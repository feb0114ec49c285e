"""What log-probabilities of pairs say of a model's preferences: reward accuracy, margins, γ, each with its error.

The task of a suite scores its pairs under a model and its reference in passes like those of a run, then counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ratchet.documents.heldout import Estimate
from ratchet.documents.scores import Score
from ratchet.errors import DataError, ModelError
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.results import Item, TaskResult, join_notes, unanimous, without_error
from ratchet.evaluate.statistics import estimate, estimate_share, ratio
from ratchet.evaluate.task_run import LAST, Answered, Content, Inputs, Ready, TaskRun, each_alone, nothing_to_check
from ratchet.losses.preference import Reward, log_ratio_reward
from ratchet.model.folder import model_folder
from ratchet.pairs.flow import pairs_identity, prepare_pairs
from ratchet.pairs.left_out import tell_lost
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.pair_table import pair_of_row
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.pairs.tokenizer import digest_vocabulary
from ratchet.plan.model import ModelSpec
from ratchet.plan.tasks import Preference
from ratchet.reference.models import Model, Passes, ScoreJob, model_content, model_of
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.reference.store import Floats, Logps, read_job
from ratchet.store.record import checked, finished_record
from ratchet.track.progress import counted

UNITS = {
    "reward_accuracy": "share",
    "margin": "nats",
    "chosen_delta": "nats",
    "rejected_delta": "nats",
    "gamma": "nats",
}
"""The metrics and what they count; without a reference there is γ alone."""


@dataclasses.dataclass(frozen=True)
class RewardScores:
    """A model against another one on one set of pairs: rewards over β and log-ratios in nats, accuracy a share.

    `chosen_per_token` is the mean over pairs of h_w divided by the chosen answer's tokens: of answers of any length.
    """

    accuracy: Estimate
    margin: Estimate
    chosen_delta: Estimate
    rejected_delta: Estimate
    chosen_per_token: Estimate


def reward_scores(policy: Logps, reference: Logps, reward: Reward = log_ratio_reward) -> RewardScores:
    """Return reward accuracy (share of pairs with margin > 0), mean margin, and mean log-ratios h_w, h_l.

    The margin is that of `reward`, the column of the loss's row (`losses.preference`): d = h_w − h_l for a log-ratio.
    Both scores are of the same N pairs in the same order. Notation as in Rafailov et al. 2023.
    """
    found = by_pair(policy, reference, reward)
    accuracy = estimate_share(found.pop("accuracy") > 0)
    return RewardScores(accuracy=accuracy, **{name: estimate(values) for name, values in found.items()})


def by_pair(policy: Logps, reference: Logps, reward: Reward = log_ratio_reward) -> dict[str, Floats]:
    """Return each of `RewardScores` of every pair, each (N,); an accuracy is 1 or 0."""
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = reward(policy.chosen, reference.chosen, policy.chosen_tokens) - reward(
        policy.rejected, reference.rejected, policy.rejected_tokens
    )
    return {
        "accuracy": (margin > 0).astype(np.float64),
        "margin": margin,
        "chosen_delta": chosen,
        "rejected_delta": rejected,
        "chosen_per_token": chosen / policy.chosen_tokens,
    }


def mean_gamma(logps: Logps) -> Estimate:
    """Return the mean of γ = log π(w|x) − log π(l|x) over N pairs (sDPO, Eq. 1), in nats."""
    return estimate(logps.chosen - logps.rejected)


def preference_result(
    name: str,
    task: Preference,
    policy: Logps,
    reference: Logps | None,
    pairs: Sequence[PreferencePair],
    settings: Mapping[str, Any],
) -> TaskResult:
    """Return what the scores of N pairs, in one order, say of a model's preferences.

    Pairs that share a prompt are one cluster, and the errors take prompts as independent, not pairs. `settings` is
    what else decides the numbers: fingerprints of tokens, and of the reference. An item's answer is the side that
    the model puts first: by reward, or by likelihood where there is no reference.

    Raises DataError where there is no pair, or one has no rejected answer.
    """
    if not pairs:
        raise _none_left(name)
    values = heldout_pair_metrics(policy, reference)
    rejected = [_rejected(pair, name) for pair in pairs]
    first = values["margin" if reference is not None else "gamma"] > 0
    items = tuple(
        Item(
            item=pair.pair_id,
            cluster=pair.prompt_id,
            values={key: float(value[at]) for key, value in values.items()},
            question=_question(pair),
            answer=(pair.chosen if first[at] else rejected[at]).text,
            reference=pair.chosen.text,
        )
        for at, pair in enumerate(pairs)
    )
    prompts = [pair.prompt_id for pair in pairs]
    ids = "\n".join(pair.pair_id for pair in pairs)
    return TaskResult(
        task=name,
        kind=task.kind,
        scores=tuple(_score(key, value, prompts) for key, value in values.items()),
        items=items,
        settings={
            "pairs": hashlib.sha256(ids.encode()).hexdigest()[:20],
            "count": len(pairs),
            "prompts": len(set(prompts)),
            "max_length": task.max_length,
            "max_pairs": task.max_pairs,
            **settings,
        },
    )


def heldout_pair_metrics(policy: Logps, reference: Logps | None) -> dict[str, Floats]:
    """Return each metric of N pairs, (N,), the headline first; without a reference there is γ alone.

    γ = log π(w|x) − log π(l|x) (sDPO, Eq. 1); the others are those of `by_pair`, without β.
    """
    gamma = policy.chosen - policy.rejected
    if reference is None:
        return {"gamma": gamma}
    found = by_pair(policy, reference)
    own = {metric: found[metric] for metric in ("margin", "chosen_delta", "rejected_delta")}
    return {"reward_accuracy": found["accuracy"], **own, "gamma": gamma}


def _score(metric: str, values: Floats, prompts: Sequence[str]) -> Score:
    cluster = np.unique(prompts, return_inverse=True)[1]
    found = ratio(np.bincount(cluster, values).astype(np.float64), np.bincount(cluster).astype(np.float64))
    # Pairs of one prompt are not independent, and the bound is of items that are.
    open_left = unanimous(values) if UNITS[metric] == "share" and found.count == len(values) else ""
    return Score(
        name="γ" if metric == "gamma" else metric.replace("_", " "),
        metric=metric,
        value=found.mean,
        standard_error=found.standard_error,
        count=len(values),
        unit=UNITS[metric],
        note=join_notes(open_left, without_error(found.standard_error, "prompt")),
    )


def _none_left(name: str) -> DataError:
    fix = "look at its data and max_length"
    return DataError("no pair is left to score", where=f"tasks.{name}", fix=fix, code="data.nothing-left")


def _rejected(pair: PreferencePair, name: str) -> Turn:
    if pair.rejected is None:
        raise DataError(
            f"the pair of {pair.file}:{pair.row} has no rejected answer",
            where=f"tasks.{name}.data",
            fix="give preference pairs, not demonstrations",
        )
    return pair.rejected


def _question(pair: PreferencePair) -> str:
    if len(pair.prompt) == 1:
        return pair.prompt[0].content
    return "\n\n".join(f"{turn.role}: {turn.text}" for turn in pair.prompt)


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
    tell_lost(name, task.data, finished_record(pairs).counts, finished_record(tokens), tokens)
    split = "heldout" if task.data.held_out else "train"
    count = min(task.max_pairs, len(open_table([tokens / f"{split}.arrow"], [1.0], 0)))
    if not count:
        raise _none_left(name)
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
    return preference_result(
        name,
        task,
        logps[0],
        logps[1] if reference is not None else None,
        [texts[pair_id] for pair_id in table.pair_ids().to_pylist()],
        {"tokens": tokens_fp, "reference": reference.weights if reference else None, "split": split},
    )


def _reference(model: Model, spec: ModelSpec) -> Model:
    folder = model_folder(spec)
    if digest_vocabulary(folder) != digest_vocabulary(model.folder):
        raise ModelError(
            "its tokenizer gives other ids than that of the model it is the reference of",
            where=str(folder),
            fix="name a model of the same family",
            code="model.other-ids",
        )
    return model_of("reference", spec, folder)


def _read(path: Path) -> Iterator[PreferencePair]:
    for row in pq.read_table(checked(path)).to_pylist():
        yield pair_of_row(row)


def _read_content(name: str, task: Preference, inputs: Inputs) -> Content:
    return Content({"pairs": pairs_identity(task.data, None), "reference": model_content(task.reference)}, None)


def _ask(candidates: Candidates, name: str, ready: Ready) -> Answered:
    # The passes start processes of their own, which need the place of those that answer.
    candidates.rest()
    return Answered(score_preferences(candidates.bench, candidates.model, name, ready.settings), {})


TASK = TaskRun(reads=_read_content, check_chosen=nothing_to_check, turn=LAST, together=None, run=each_alone(_ask))
