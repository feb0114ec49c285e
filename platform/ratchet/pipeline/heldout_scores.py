"""Put every model of a run through the same held-out data, and write its scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq

from ratchet.documents.heldout import ExactAnswer, ExactMatchRow, GammaRow, HeldOutRow, ModelScores, Split
from ratchet.errors import DataError
from ratchet.evaluate.engines.kinds import engine_kind
from ratchet.evaluate.preference import mean_gamma, reward_scores
from ratchet.evaluate.suites import Scored, check_suite, raise_failed
from ratchet.evaluate.task_run import Heldout, HeldoutQuestion, task_run
from ratchet.losses.preference import Reward, log_ratio_reward, loss_of
from ratchet.pairs.table import open_table
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import BASE, Step, final_model
from ratchet.pipeline.prepare import reference_model, tokens_of
from ratchet.pipeline.reference_passes import ensure_scores, evaluation_jobs, evaluation_tokens, gamma_job, heldout_job
from ratchet.plan.load import planned_suites
from ratchet.plan.references import start_of
from ratchet.plan.stage_kinds import reads_pairs, supervised, trains
from ratchet.plan.suite import source_of
from ratchet.plan.task_parts import Answering
from ratchet.reference.models import Model, ScoreJob
from ratchet.reference.store import read_job
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.store.record import checked, now


def evaluate_model(run: Run, name: str, step: Step | None, scored: Sequence[Scored]) -> ModelScores:
    """Return (and keep in the run folder) a model's scores; what was scored before is read, not computed.

    `scored` is what the model made of the plan's suites.
    """
    model = run.models[name]
    scores = ModelScores(
        model=name,
        weights=model.weights,
        heldout=tuple(_heldout(run, model, _opponents(run, step), _reward(step))),
        gamma=tuple(_gamma(run, model)),
        exact_match=tuple(_exact_match(one) for one in scored if one.result.kind == "exact_match"),
        written=now(),
    )
    write_json(run.layout.scores(run.plan.name, name), to_values(scores))
    return scores


def _exact_match(scored: Scored) -> ExactMatchRow:
    result, headline = scored.result, scored.result.headline
    return ExactMatchRow(
        suite=scored.suite,
        task=scored.task,
        mean=headline.value,
        standard_error=headline.standard_error,
        count=headline.count,
        source=result.settings["source"],
        examples=tuple(ExactAnswer(item.answer, item.reference) for item in result.items[:5]),
    )


def _opponents(run: Run, step: Step | None) -> list[Model]:
    """The models that a step's model is held against: its own reference if it has one, and the start of its stage."""
    if step is None or supervised(step.settings):
        return []
    if not trains(step.settings):
        return [run.models[step.start]]
    start = run.models[final_model(run.plan, start_of(run.plan, step.stage))]
    # The reference of a first step is as a rule the start of its stage: one opponent then, and not two.
    return [start] if step.reference is None else list(dict.fromkeys([reference_model(run, step), start]))


def check_suites(run: Run) -> None:
    """Check what can be checked of suites before anything is trained.

    Every exact_match task has prompts to answer, and finds the right answers. What other tasks read is there, and the
    engines that tasks ask for are installed. Raises DataError, ModelError, PlanError.
    """
    tokenizer = load_tokenizer(run.models[BASE].folder, run.chat_template)
    heldout = Heldout(lambda source, rows: [], lambda source: "")
    for planned in planned_suites(run.plan):
        gpu = bool(run.plan.cluster.gpus_per_worker)
        raise_failed(planned.name, check_suite(planned.name, planned.suite, tokenizer, run.layout, heldout, gpu=gpu))
        for name, task in planned.suite.tasks.items():
            where = f"{planned.name}: tasks.{name}"
            if isinstance(task, Answering):
                engine_kind(task.engine).check(f"{where}.engine")
            source = source_of(task)
            if source is None:
                continue
            chosen = [pair["chosen"] for pair in _heldout_pairs(run, source).values()]
            if not chosen:
                raise DataError(
                    f"source {source} holds no pair out",
                    where=where,
                    fix=f"raise data.{source}.held_out",
                )
            task_run(task.kind).check_chosen(task, chosen)


def _reward(step: Step | None) -> Reward:
    """The reward that a step's model is judged by: that of its loss; a merge has none of its own."""
    trained = step is not None and reads_pairs(step.settings)
    return loss_of(step.kind).reward if step is not None and trained else log_ratio_reward


def _heldout(run: Run, model: Model, opponents: list[Model], reward: Reward) -> Iterator[HeldOutRow]:
    for tokens in evaluation_tokens(run):
        job = heldout_job(tokens)
        for other in opponents:
            # A source that holds nothing out has no such job, and its models no row.
            if job not in (mine := ensure_scores(run, model, [job])):
                continue
            theirs = ensure_scores(run, other, [job])
            found = reward_scores(read_job(job, mine[job]), read_job(job, theirs[job]), reward)
            yield HeldOutRow(
                source=tokens.source,
                against=other.name,
                record=str(mine[job].folder),
                against_record=str(theirs[job].folder),
                accuracy=found.accuracy,
                margin=found.margin,
                chosen_delta=found.chosen_delta,
                rejected_delta=found.rejected_delta,
                chosen_per_token=found.chosen_per_token,
            )


def _gamma(run: Run, model: Model) -> Iterator[GammaRow]:
    scored = ensure_scores(run, model, evaluation_jobs(run))
    for tokens in evaluation_tokens(run):
        jobs: dict[Split, ScoreJob] = {"heldout": heldout_job(tokens), "train": gamma_job(tokens)}
        for split, job in jobs.items():
            if job not in scored:
                continue
            found = mean_gamma(read_job(job, scored[job]))
            yield GammaRow(
                model=model.name,
                source=tokens.source,
                split=split,
                seen=split == "train" and tokens.source in model.trained_on,
                record=str(scored[job].folder),
                mean=found.mean,
                standard_error=found.standard_error,
                count=found.count,
            )


def questions_of(run: Run, source: str, rows: int) -> list[HeldoutQuestion]:
    """Return the first `rows` different prompts that a source holds out."""
    tokens = _widest_tokens(run, source)
    table = open_table([tokens.folder / "heldout.arrow"], [1.0], 0)
    texts = _heldout_pairs(run, source)
    seen: dict[bytes, int] = {}
    for row in range(len(table)):
        # Several pairs may share a prompt. The first of them says what the right answer is.
        seen.setdefault(table[row].prompt.tobytes(), row)
    found = []
    for row in list(seen.values())[:rows]:
        pair = texts[table.pair_id(row)]
        text = "\n\n".join(turn["content"] for turn in pair["prompt"])
        found.append(HeldoutQuestion(table.pair_id(row), table[row].prompt, text, pair["chosen"]))
    return found


def questions_identity(run: Run, source: str) -> str:
    """Return what the prompts of a source are known by."""
    return _widest_tokens(run, source).fingerprint


def _widest_tokens(run: Run, source: str) -> Tokens:
    longest = max(stage.max_length for stage in run.plan.stages.values() if trains(stage))
    # Whatever the stages say of pairs that are too long: a prompt with its beginning cut off is another question.
    return tokens_of(run, source, longest, "drop")


def _heldout_pairs(run: Run, source: str) -> dict[str, dict[str, Any]]:
    file = checked(run.pairs[source][1] / "heldout.parquet")
    table = pq.read_table(file, columns=["pair_id", "prompt", "chosen"])
    return {row["pair_id"]: row for row in table.to_pylist()}


def evaluated_models(run: Run, steps: Sequence[Step]) -> list[tuple[str, Step | None]]:
    """Return the models to evaluate: all that steps make, and the base unless it is random weights."""
    base: list[tuple[str, Step | None]] = [] if run.plan.model.scratch else [(BASE, None)]
    return [*base, *((step.name, step) for step in steps)]
