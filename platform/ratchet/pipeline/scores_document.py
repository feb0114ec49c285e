"""The scores of several models: as one document, `scores.json` (docs/scores.md), as lines, and as runs of wandb."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ratchet.documents.scores import (
    FORMAT,
    Average,
    Comparison,
    Score,
    ScoredModel,
    ShownAnswer,
    ShownQuestion,
    SuiteScores,
    TaskScores,
)
from ratchet.evaluate.compare import ModelResults, compare_models
from ratchet.evaluate.results import ITEMS, Item, TaskResult, average_of, join_notes, without_error
from ratchet.evaluate.statistics import paired
from ratchet.evaluate.suites import Scored
from ratchet.plan.schema import Wandb
from ratchet.plan.suite import Suite
from ratchet.reference.share import interval_of
from ratchet.report.figures import with_ends
from ratchet.store.fingerprint import fingerprint
from ratchet.store.record import now, versions
from ratchet.track.progress import Console
from ratchet.track.wandb import WandbRun, WandbTracker, wandb_summary, wandb_tables

SHOWN_ANSWERS = 20
"""Items of a task whose answers stand in the document."""
# Characters of a text; the items' own file has it whole.
_SHOWN_TEXT = 20_000


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model and its results; `before` is the model that it was made from."""

    name: str
    weights: str
    dtype: str
    before: str | None
    scored: tuple[Scored, ...]


def suite_scores(entries: Sequence[Entry], suites: Mapping[str, Suite], folder: Path, root: Path) -> SuiteScores:
    """Return the scores of models, the base first.

    Paths of items are relative to `folder`, where the document will lie; those of records to `root`.
    """
    averages = {
        f"{name}:{key}": (name, key, suite.averages[key]) for name, suite in suites.items() for key in suite.averages
    }
    return SuiteScores(
        format=FORMAT,
        created=now(),
        ratchet=versions()["ratchet"],
        suites=tuple(suites),
        models=tuple(ScoredModel(one.name, one.weights, one.dtype, one.before) for one in entries),
        results=tuple(_task_scores(scored, one, folder, root) for one in entries for scored in one.scored),
        averages=tuple(row for one in entries for row in _averages(one, suites)),
        comparisons=tuple(_comparisons(entries, averages)),
        answers=tuple(_answers(entries)),
    )


def _task_scores(scored: Scored, entry: Entry, folder: Path, root: Path) -> TaskScores:
    result = scored.result
    return TaskScores(
        model=scored.model,
        suite=scored.suite,
        task=scored.task,
        kind=result.kind,
        seconds=round(scored.seconds, 3),
        reused=scored.reused,
        scores=(*result.scores, *_over_full(scored, entry)),
        problems=result.problems,
        warnings=result.warnings,
        settings=result.settings,
        items=os.path.relpath(scored.folder / ITEMS, folder),
        record=str(scored.folder.relative_to(root)),
        start_seconds=scored.start_seconds,
        tokens=scored.tokens,
    )


def _over_full(scored: Scored, entry: Entry) -> list[Score]:
    """Return what quantised weights cost: nats a token more than the same model on the same windows in full."""
    mine = scored.result
    if mine.settings.get("quantise") is None:
        return []
    same = {**mine.settings, "quantise": None}
    full = next((one.result for one in entry.scored if one.result.settings == same), None)
    if full is None:
        return []
    values = {item.item: item.values for item in full.items}
    pairs = [(item.values, values[item.item]) for item in mine.items if item.item in values]
    tokens = np.array([one["tokens"] for one, _ in pairs])
    held, whole = (np.array([one["nll"] for one in side]) / tokens for side in zip(*pairs, strict=True))
    found = paired(held, whole, [str(n) for n in range(len(pairs))], 0, weights=tokens)
    how = f"against {full.task}, window by window, p {found.p:.2g}"
    note = join_notes(how, without_error(found.standard_error, "window"))
    error = found.standard_error
    return [Score("nll over full precision", "nll", found.difference, error, found.items, "nats", "", note, True)]


def _averages(entry: Entry, suites: Mapping[str, Suite]) -> Iterator[Average]:
    for name, suite in suites.items():
        headlines = {one.task: one.result.headline for one in entry.scored if one.suite == name}
        for key, of in suite.averages.items():
            if not set(of) <= headlines.keys():
                continue
            found = average_of({task: headlines[task] for task in of}, key)
            yield Average(
                model=entry.name,
                suite=name,
                name=key,
                of=tuple(of),
                value=found.value,
                standard_error=found.standard_error,
                unit=found.unit,
                note=found.note,
            )


def _comparisons(
    entries: Sequence[Entry], averages: Mapping[str, tuple[str, str, Sequence[str]]]
) -> Iterator[Comparison]:
    models = [
        ModelResults(one.name, one.before, {f"{scored.suite}:{scored.task}": scored.result for scored in one.scored})
        for one in entries
    ]
    of = {key: [f"{suite}:{task}" for task in tasks] for key, (suite, _, tasks) in averages.items()}
    for row in compare_models(models, of):
        suite, task = averages[row.task][:2] if row.average else tuple(row.task.rsplit(":", 1))
        yield dataclasses.replace(row, suite=suite, task=task)


def _answers(entries: Sequence[Entry]) -> Iterator[ShownQuestion]:
    tasks = dict.fromkeys((scored.suite, scored.task) for one in entries for scored in one.scored)
    for suite, task in tasks:
        results = {
            one.name: scored.result
            for one in entries
            for scored in one.scored
            if (scored.suite, scored.task) == (suite, task)
        }
        yield from (_question(suite, task, by) for by in _side_by_side(results))


def _side_by_side(results: Mapping[str, TaskResult]) -> list[dict[str, Item]]:
    """Return the answers of all models to some items: those where models differ most, then any."""
    by_model = {name: {item.item: item for item in result.items} for name, result in results.items()}
    everywhere = [item for item in next(iter(by_model.values())) if all(item in mine for mine in by_model.values())]
    told = [item for item in everywhere if any(mine[item].answer for mine in by_model.values())]
    # The order is drawn by a digest, so that it is the same for all and favours no part of a task.
    metric = next(iter(results.values())).headline.metric
    spread = {item: _spread([mine[item] for mine in by_model.values()], metric) for item in told}
    told.sort(key=lambda item: (-spread[item], fingerprint({"item": item})))
    return [{name: mine[item] for name, mine in by_model.items()} for item in told[:SHOWN_ANSWERS]]


def _spread(items: Sequence[Item], metric: str) -> float:
    """Return how far models are apart on an item; one that only some could be judged on comes first."""
    values = [item.values[metric] for item in items if metric in item.values]
    if 0 < len(values) < len(items):
        return math.inf
    return max(values) - min(values) if values else 0.0


def _question(suite: str, task: str, items: Mapping[str, Item]) -> ShownQuestion:
    first = next(iter(items.values()))
    return ShownQuestion(
        suite=suite,
        task=task,
        item=first.item[:_SHOWN_TEXT],
        group=first.group[:_SHOWN_TEXT],
        question=first.question[:_SHOWN_TEXT],
        reference=first.reference[:_SHOWN_TEXT],
        by={name: ShownAnswer(one.answer[:_SHOWN_TEXT], one.values, one.problem) for name, one in items.items()},
    )


def track_scores(wandb: Wandb | None, group: str, scores: SuiteScores, folder: Path) -> None:
    """Send each model that was asked something now. wandb's troubles end nothing.

    Its run is known by its weights and results: run again without anything new, nothing is sent.
    """
    if wandb is None:
        return
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


def score_facts(score: Score) -> dict[str, str | int]:
    """Return a score with its error as the console shows it, and of how many items it is."""
    # Where all items agree the formula gives an error of 0, and nothing is known that well.
    alike = score.standard_error == 0
    ends = (interval_of(score.value, score.count) if alike and score.unit == "share" else None) or (None, None)
    value = "no score" if score.value is None else with_ends(score.value, score.standard_error or None, ends, 2)
    return {score.name: value, "of": score.count}


def say_score(console: Console, one: Scored) -> None:
    """Write a line that says what a task gave, as soon as it is there."""
    facts = score_facts(one.result.headline)
    if one.tokens.get("asked", 0) > one.tokens.get("computed", 0):
        facts["tokens"] = f"{one.tokens['computed']:,} computed of {one.tokens['asked']:,}"
    console.done(f"{one.task} {one.model}", facts, one.seconds)
