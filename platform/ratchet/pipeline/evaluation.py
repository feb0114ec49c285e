"""Put every model of a run through the same held-out data, and write its scores."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ratchet.errors import DataError
from ratchet.evaluate.generate import exact_match, wanted_answers
from ratchet.evaluate.preference import gamma, reward_scores
from ratchet.pairs.table import open_table
from ratchet.pipeline.answers import write_answers
from ratchet.pipeline.context import Model, Run, Tokens
from ratchet.pipeline.engines import need_vllm
from ratchet.pipeline.graph import BASE, Step, final_model
from ratchet.pipeline.prepare import reference_model, tokens_of
from ratchet.pipeline.scoring import ensure_scores, evaluation_jobs, evaluation_tokens, gamma_job, heldout_job, read_job
from ratchet.plan.load import load_suite
from ratchet.plan.references import start_of
from ratchet.plan.stages import Merge, Sft
from ratchet.plan.suite import ExactMatch
from ratchet.store.files import write_json
from ratchet.store.record import now, read_json_or_none


def evaluate_model(run: Run, name: str, step: Step | None) -> dict[str, Any]:
    """Return (and keep in the run folder) a model's scores; what was scored before is read, not computed."""
    model, path = run.models[name], run.layout.scores(run.plan.name, name)
    scores = {
        "model": name,
        "weights": model.weights,
        "heldout": _heldout(run, model, _opponents(run, step)),
        "gamma": _gamma(run, model),
        "exact_match": [],
    }
    before = read_json_or_none(path)
    known = before["exact_match"] if before and before["weights"] == model.weights else []
    scores["exact_match"] = _exact_matches(run, model, known)
    write_json(path, scores | {"written": now()})
    return scores


def _opponents(run: Run, step: Step | None) -> list[Model]:
    """The models that a step's model is held against: its own reference, and the start of its stage."""
    if step is None or isinstance(step.settings, Sft):
        return []
    if isinstance(step.settings, Merge):
        return [run.models[step.start]]
    start = run.models[final_model(run.plan, start_of(run.plan, step.stage))]
    return list(dict.fromkeys([reference_model(run, step), start]))


def check_suites(run: Run) -> None:
    """Check that every task has prompts to answer and finds the right answers, before anything is trained.

    Raises DataError where a source holds nothing out, PlanError where a pattern finds nothing or an
    engine is not installed.
    """
    for suite in run.plan.evaluate:
        for name, task in load_suite(Path(suite)).tasks.items():
            chosen = list(_chosen(run.pairs[task.source][1]).values())
            if not chosen:
                raise DataError(
                    f"source {task.source} holds no pair out",
                    where=f"{suite}: tasks.{name}",
                    fix=f"raise data.{task.source}.held_out",
                )
            wanted_answers(chosen, task.pattern)
            if task.engine == "vllm":
                need_vllm(f"{suite}: tasks.{name}.engine")


def _heldout(run: Run, model: Model, opponents: list[Model]) -> list[dict[str, Any]]:
    rows = []
    for tokens in evaluation_tokens(run):
        job = heldout_job(tokens)
        for other in opponents:
            if job not in (mine := ensure_scores(run, model, [job])):
                continue
            theirs = ensure_scores(run, other, [job])
            found = reward_scores(read_job(job, mine[job]), read_job(job, theirs[job]))
            rows.append(
                {"source": tokens.source, "against": other.name, "record": str(mine[job].folder)}
                | dataclasses.asdict(found)
            )
    return rows


def _gamma(run: Run, model: Model) -> list[dict[str, Any]]:
    rows = []
    scored = ensure_scores(run, model, evaluation_jobs(run))
    for tokens in evaluation_tokens(run):
        for split, job in (("heldout", heldout_job(tokens)), ("train", gamma_job(tokens))):
            if job not in scored:
                continue
            rows.append(
                {
                    "model": model.name,
                    "source": tokens.source,
                    "split": split,
                    "seen": split == "train" and tokens.source in model.trained_on,
                    "record": str(scored[job].folder),
                }
                | dataclasses.asdict(gamma(read_job(job, scored[job])))
            )
    return rows


def _exact_matches(run: Run, model: Model, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = {row["key"]: row for row in known}
    rows = []
    for suite in run.plan.evaluate:
        for name, task in load_suite(Path(suite)).tasks.items():
            tokens = _task_tokens(run, task)
            key = f"{suite}:{name}:{task.model_dump_json()}:{tokens.fingerprint}:{model.dtype}"
            rows.append(
                done.get(key) or {"key": key, "suite": suite, "task": name} | _exact_match(run, model, name, task)
            )
    return rows


def _exact_match(run: Run, model: Model, name: str, task: ExactMatch) -> dict[str, Any]:
    started = time.monotonic()
    tokens = _task_tokens(run, task)
    table = open_table([tokens.folder / "heldout.arrow"], [1.0], 0)
    chosen_of = _chosen(run.pairs[task.source][1])
    seen: dict[bytes, int] = {}
    for row in range(len(table)):
        seen.setdefault(table[row].prompt.tobytes(), row)
    picked = list(seen.values())[: task.rows]
    if not picked:
        run.warnings.append(f"task {name}: no held-out pair of {task.source} fits into the length limit")
    prompts = [table[row].prompt for row in picked]
    answers = write_answers(run, model, task, prompts)
    gold = [chosen_of[table.pair_id(row)] for row in picked]
    found = exact_match(answers, gold, task.pattern)
    facts = {"task": name, "right": found.mean, "of": found.count}
    run.console.done(f"answer {model.name}", facts, time.monotonic() - started)
    examples = [{"answer": answer, "chosen": text} for answer, text in zip(answers[:5], gold[:5], strict=True)]
    return dataclasses.asdict(found) | {"examples": examples, "source": task.source}


def _task_tokens(run: Run, task: ExactMatch) -> Tokens:
    longest = max(stage.max_length for stage in run.plan.stages.values() if not isinstance(stage, Merge))
    return tokens_of(run, task.source, longest, "drop")


def _chosen(pairs: Path) -> dict[str, str]:
    table = pq.read_table(pairs / "heldout.parquet", columns=["pair_id", "chosen"])
    return dict(zip(table["pair_id"].to_pylist(), table["chosen"].to_pylist(), strict=True))


def evaluated_models(run: Run, steps: list[Step]) -> list[tuple[str, Step | None]]:
    """Return the models to evaluate: all that steps make, and the base unless it is random weights."""
    base: list[tuple[str, Step | None]] = [] if run.plan.model.scratch else [(BASE, None)]
    return base + [(step.name, step) for step in steps]
