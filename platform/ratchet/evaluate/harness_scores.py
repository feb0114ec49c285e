"""Scores and items out of what lm-eval returns.

A figure of lm-eval is named `acc,none`: metric and filter. Here it is `acc`, and `exact_match,strict-match` where
there is a filter. An answer in which a filter found nothing scores what lm-eval gives it, 0, and is counted
under the problem `no answer found`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.errors import PlanError, some
from ratchet.evaluate.notes import joined, unanimous
from ratchet.evaluate.results import Item, Score, TaskResult, count_problems
from ratchet.evaluate.thoughts import UNCLOSED, spoken, told
from ratchet.plan.suite import Harness

_OF_SUBJECTS = " (mean of subjects)"
_NOTHING = "[invalid]"  # what lm-eval's filters say where they find nothing
_UNITS = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity",
    "bits_per_byte": "bits",
    "bleu": "points",
    "chrf": "points",
    "ter": "points",
}


@dataclasses.dataclass(frozen=True)
class Scored:
    """What lm-eval made of a task's answers: `results` as `evaluate` returns them.

    `metric` is the label of the one that stands for the task. `texts` has what was written about each leaf's
    documents, thoughts and all. Of `requests`, `cut` lost the beginning of their context.
    """

    asked: Harness
    metric: str
    leaves: Mapping[str, Any]
    results: Mapping[str, Any]
    texts: Mapping[str, Mapping[int, str]]
    cut: int
    requests: int


def result_of(name: str, scored: Scored, settings: Mapping[str, Any]) -> TaskResult:
    """Return a task's scores, that of the suite's metric first, and its items. Raises PlanError."""
    asked, main = scored.asked, scored.metric
    items = tuple(item for leaf in scored.leaves for item in _items(leaf, scored))
    scores = _totals(scored, settings["headline_mean"] == "groups")
    if main not in {score.metric for score in scores}:
        raise PlanError(f"lm-eval gives {asked.task} no total of {asked.metric}", fix="name its tasks one by one")
    scores.sort(key=lambda score: score.metric != main)  # stable: weighted or not is in its order already
    several = scored.leaves if len(scored.leaves) > 1 else ()
    subjects = [score for leaf in several for score in _figures(scored, leaf, _part(asked, leaf))]
    return TaskResult(
        task=name,
        kind="harness",
        scores=tuple(_bounded(score, items) for score in (*scores, *subjects)),
        items=items,
        settings=settings,
        problems=count_problems(items),
        warnings=tuple(_warnings(scored)),
    )


def _totals(scored: Scored, subjects_first: bool) -> list[Score]:
    if len(scored.leaves) == 1:
        return _figures(scored, next(iter(scored.leaves)), "")
    scores: list[Score] = []
    for score in _figures(scored, scored.asked.task, ""):
        both = [score, _mean_of_subjects(scored, score)]
        scores += both[::-1] if subjects_first else both
    return scores


def _mean_of_subjects(scored: Scored, total: Score) -> Score:
    """Return the mean in which every subject counts the same; its error is √Σ se² / k."""
    parts = [score for leaf in scored.leaves for score in _figures(scored, leaf, "") if score.metric == total.metric]
    values = [part.value for part in parts if part.value is not None]
    unsure = [leaf for leaf, part in zip(scored.leaves, parts, strict=True) if part.standard_error is None]
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    error = math.sqrt(sum(one**2 for one in errors)) / len(parts) if not unsure else None
    note = f"no error of {some(unsure)}" if unsure else ""
    name = total.name + _OF_SUBJECTS
    return dataclasses.replace(total, name=name, value=float(np.mean(values)), standard_error=error, note=note)


def _bounded(score: Score, items: Sequence[Item]) -> Score:
    """Return `score` with what it leaves open, where it is a mean of items that all agree."""
    own = [item for item in items if score.metric in item.values and score.group in ("", item.group)]
    values = np.array([item.values[score.metric] for item in own])
    if score.unit != "share" or score.value is None or not own or len(own) != score.count:
        return score
    if not math.isclose(score.value, float(values.mean()), abs_tol=1e-9):
        return score
    subjects = Counter(item.group for item in own)
    # Were all subjects as small as the smallest, their plain mean would be that of so many items.
    draws = len(subjects) * min(subjects.values()) if score.name.endswith(_OF_SUBJECTS) else len(own)
    return dataclasses.replace(score, note=joined(unanimous(values, draws), score.note))


def _why_no_error(count: int) -> str:
    return "one item: no error" if count == 1 else "lm-eval gives no error"


def _figures(scored: Scored, name: str, group: str) -> list[Score]:
    """Return the scores of one leaf or group of lm-eval."""
    figures = scored.results["results"][name]
    better = scored.results["higher_is_better"].get(name, {})
    scores = []
    for key in _metrics(figures):
        metric, _, kind = key.partition(",")
        error = figures.get(f"{metric}_stderr,{kind}")
        known = float(error) if isinstance(error, float | int) and math.isfinite(error) else None
        count, finite = int(figures["sample_len"]), math.isfinite(figures[key])
        label = _label(key)
        scores.append(
            Score(
                name=label,
                metric=label,
                value=float(figures[key]) if finite else None,
                standard_error=known,
                count=count,
                unit=_UNITS.get(metric, "share"),
                group=group,
                note="" if known is not None or not finite else _why_no_error(count),
                lower_is_better=better.get(metric) is False,
            )
        )
    return scores


def _items(leaf: str, scored: Scored) -> list[Item]:
    task, main = scored.leaves[leaf], scored.metric
    group = _part(scored.asked, leaf) if len(scored.leaves) > 1 else ""
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in scored.results["samples"][leaf]:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    items = []
    for number, samples in sorted(by_document.items()):
        values = {
            _label(f"{metric},{sample['filter']}"): float(sample[metric])
            for sample in samples
            for metric in sample["metrics"]
            if isinstance(sample[metric], float | int | np.number) and math.isfinite(sample[metric])
        }
        chief = next((sample for sample in samples if main.endswith(f",{sample['filter']}")), samples[0])
        known = f"{leaf}:{number}:{chief['doc_hash'][:8]}"
        question, answer, reference = _words(task, chief, main)
        problem = "no answer found" if chief["filtered_resps"][0] == _NOTHING else ""
        if number in scored.texts[leaf]:
            answer = scored.texts[leaf][number]
            problem = UNCLOSED if spoken(answer) is None else problem
        items.append(Item(known, known, values, group, question, answer, reference, problem))
    return items


def _words(task: Any, sample: Mapping[str, Any], main: str) -> tuple[str, str, str]:
    """Return a document's question, the model's answer and the right one, for people."""
    doc, target = sample["doc"], sample["target"]
    text = task.doc_to_text(doc)
    if task.OUTPUT_TYPE != "multiple_choice":
        said = sample["resps"][0][0]
        right = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
        return str(text), said if isinstance(said, str) else "", right
    choices = task.doc_to_choice(doc)
    lengths = [len(choice) if main == "acc_norm" else 1 for choice in choices]
    scores = [pair[0] / length for pair, length in zip(sample["filtered_resps"], lengths, strict=False)]
    gold = text if isinstance(text, int) else target
    numbers = gold if isinstance(gold, list) else [gold]
    reference = " | ".join(choices[n] if isinstance(n, int) and 0 <= n < len(choices) else str(n) for n in numbers)
    question = f"{' | '.join(choices)} … {target}" if isinstance(text, int) else str(text)
    return question, choices[int(np.argmax(scores))], reference


def _warnings(scored: Scored) -> list[str]:
    found = list(told(text for texts in scored.texts.values() for text in texts.values()))
    if scored.asked.limit is not None:
        found.append(f"Only {scored.asked.limit} questions of each task were asked: this is a try, not a score.")
    if scored.cut:
        found.append(
            f"{scored.cut} of {scored.requests} requests lost the beginning of their context: "
            "with its examples, and room for an answer, it is longer than the model has positions."
        )
    for name, task in scored.leaves.items():
        config = task.config
        pool = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
        if (
            config.num_fewshot
            and not task.fewshot_cfg.samples
            and pool == (config.test_split or config.validation_split)
        ):
            found.append(f"{name} draws its examples from the questions themselves: it has no other rows.")
    return found


def _metrics(figures: Mapping[str, Any]) -> list[str]:
    return [key for key in figures if "," in key and "_stderr," not in key]


def _label(key: str) -> str:
    return key.removesuffix(",none")


def _part(asked: Harness, leaf: str) -> str:
    return leaf.removeprefix(f"{asked.task}_")
