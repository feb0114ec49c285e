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

from ratchet.documents.scores import Score
from ratchet.errors import PlanError, some
from ratchet.evaluate.harness.figures import error_of_leaves, figure_of, is_finite, may_lack, value_of, why_lost
from ratchet.evaluate.harness.requests import draws_from_questions
from ratchet.evaluate.results import Item, TaskResult, count_problems, join_notes, unanimous
from ratchet.evaluate.thoughts import UNCLOSED, spoken, thought_warnings
from ratchet.plan.tasks import Harness

_OF_SUBJECTS = " (mean of subjects)"
_NOTHING = "[invalid]"  # what lm-eval's filters say where they find nothing
_UNITS = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity",
    "bits_per_byte": "bits",
    "bleu": "points",
    "chrf": "points",
    "chrf++": "points",
    "ter": "points",
}


@dataclasses.dataclass(frozen=True)
class HarnessScored:
    """What lm-eval made of a task's answers: `results` as `evaluate` returns them.

    `metric` is the label of the one that stands for the task. `texts` has what was written about each leaf's
    documents, thoughts and all. Of `requests`, `cut` lost the beginning of their context. `redrawn` has, for each
    leaf, how many documents had been drawn among their own examples, `joined` counts texts whose first token began
    in their context.
    """

    asked: Harness
    metric: str
    leaves: Mapping[str, Any]
    groups: Mapping[str, Any]
    results: Mapping[str, Any]
    texts: Mapping[str, Mapping[int, str]]
    cut: int
    requests: int
    redrawn: Mapping[str, int]
    joined: int


def harness_result(name: str, scored: HarnessScored, settings: Mapping[str, Any]) -> TaskResult:
    """Return a task's scores, that of the suite's metric first, and its items. Raises PlanError."""
    asked, main = scored.asked, scored.metric
    items = tuple(item for leaf in scored.leaves for item in _items(leaf, scored))
    several = len(scored.leaves) > 1
    parts = {leaf: _leaf_scores(scored, leaf, _part(asked, leaf) if several else "") for leaf in scored.leaves}
    scores = list(next(iter(parts.values())))
    if several:
        scores = _totals(scored, parts, subjects_first=settings["headline_mean"] == "groups")
    if main not in {score.metric for score in scores}:
        raise PlanError(f"lm-eval gives {asked.task} no total of {asked.metric}", fix="name its tasks one by one")
    scores.sort(key=lambda score: score.metric != main)  # stable: weighted or not is in its order already
    subjects = [score for own in parts.values() for score in own] if several else []
    return TaskResult(
        task=name,
        kind="harness",
        scores=tuple(_bounded(score, items) for score in (*scores, *subjects)),
        items=items,
        settings=settings,
        problems=count_problems(items),
        warnings=tuple(_warnings(scored, scores[0])),
    )


def _leaf_scores(scored: HarnessScored, leaf: str, group: str) -> list[Score]:
    """Return the scores of one leaf, each with its error from the values of the leaf's documents."""
    task, figures = scored.leaves[leaf], scored.results["results"][leaf]
    hows = type(task).aggregation(task)
    scores = []
    for key in _metrics(figures):
        metric, _, kind = key.partition(",")
        asked = [sample for sample in scored.results["samples"][leaf] if sample["filter"] == kind]
        given = [sample for sample in asked if metric in sample["metrics"]]
        names = [f"{_name(leaf, sample)} ({why_lost(sample['filtered_resps'])})" for sample in given]
        found = figure_of(figures[key], hows.get(metric), [sample[metric] for sample in given], names)
        some_of = f"{len(given)} of {len(asked)} items have it" if len(given) < len(asked) else ""
        score = dataclasses.replace(_blank(scored, leaf, key, group), **dataclasses.asdict(found))
        scores.append(dataclasses.replace(score, note=join_notes(score.note, some_of)))
    return scores


def _totals(scored: HarnessScored, parts: Mapping[str, Sequence[Score]], *, subjects_first: bool) -> list[Score]:
    """Return the scores over all leaves: as lm-eval weighs them, and the plain mean of the leaves' scores."""
    name = scored.asked.task
    figures = scored.results["results"][name]
    by_size = {one.metric: one.weight_by_size for one in scored.groups[name].aggregate_metric_list or ()}
    scores: list[Score] = []
    for key in _metrics(figures):
        blank, metric = _blank(scored, name, key, ""), key.partition(",")[0]
        of = {leaf: one for leaf, own in parts.items() for one in own if one.metric == blank.metric}
        blank = dataclasses.replace(blank, count=sum(one.count for one in of.values()))
        plain = dataclasses.replace(blank, name=blank.name + _OF_SUBJECTS)
        sizes = [int(scored.results["results"][leaf]["sample_len"]) for leaf in of]
        mean_of_all = float(np.mean([one.value or 0.0 for one in of.values()]))
        both = [
            _total(blank, of, figures[key], sizes if by_size[metric] else None),
            _total(plain, of, mean_of_all, None),
        ]
        scores += both[::-1] if subjects_first else both
    return scores


def _total(blank: Score, of: Mapping[str, Score], value: float, sizes: Sequence[int] | None) -> Score:
    """Return `blank` with a value over leaves; without a score or an error of one of them it has none either."""
    if lost := [f"{leaf}: {one.note}" for leaf, one in of.items() if one.value is None]:
        more = f" and of {len(lost) - 1} more" if len(lost) > 1 else ""
        return dataclasses.replace(blank, note=f"no score of {lost[0]}{more}")
    errors = [one.standard_error for one in of.values() if one.standard_error is not None]
    unsure = [leaf for leaf, one in of.items() if one.standard_error is None]
    error = None if unsure else error_of_leaves(errors, sizes)
    note = f"no error of {some(unsure)}" if unsure else ""
    return dataclasses.replace(blank, value=float(value), standard_error=error, note=note)


def _blank(scored: HarnessScored, name: str, key: str, group: str) -> Score:
    """Return a figure of a leaf or of a group of lm-eval, without its value."""
    metric, label = key.partition(",")[0], _label(key)
    better = scored.results["higher_is_better"].get(name, {})
    unit = _UNITS.get(metric, "share")
    return Score(label, label, None, None, 0, unit, group, lower_is_better=better.get(metric) is False)


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
    bound = unanimous(values, draws)
    return score if bound in score.note else dataclasses.replace(score, note=join_notes(bound, score.note))


def _items(leaf: str, scored: HarnessScored) -> list[Item]:
    task, main = scored.leaves[leaf], scored.metric
    group = _part(scored.asked, leaf) if len(scored.leaves) > 1 else ""
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for sample in scored.results["samples"][leaf]:
        by_document.setdefault(sample["doc_id"], []).append(sample)
    hows = type(task).aggregation(task)
    items = []
    for number, samples in sorted(by_document.items()):
        given = {
            _label(f"{metric},{it['filter']}"): value_of(hows.get(metric), it[metric])
            for it in samples
            for metric in it["metrics"]
        }
        chief = next((sample for sample in samples if main.endswith(f",{sample['filter']}")), samples[0])
        known = _name(leaf, chief)
        question, answer, reference = _words(task, chief, main)
        problem = "no answer found" if chief["filtered_resps"][0] == _NOTHING else ""
        if number in scored.texts[leaf]:
            answer = scored.texts[leaf][number]
            problem = UNCLOSED if spoken(answer) is None else problem
        lost = [label for label, value in given.items() if not is_finite(value)]
        if lost := [label for label in lost if not may_lack(hows.get(label.partition(",")[0]))]:
            problem = f"no {' and no '.join(lost)}: {why_lost(chief['filtered_resps'])}"
        items.append(Item(known, known, _values(given), group, question, answer, reference, problem))
    return items


def _values(given: Mapping[str, Any]) -> dict[str, float]:
    """Return a document's numbers, and of a list of them, such as a verdict on each instruction, the mean."""
    values = {}
    for label, value in given.items():
        parts = value if isinstance(value, list) and value else [value]
        if all(isinstance(part, float | int | np.number | np.bool_) for part in parts) and is_finite(parts):
            values[label] = float(np.mean(parts))
    return values


def _name(leaf: str, sample: Mapping[str, Any]) -> str:
    return f"{leaf}:{sample['doc_id']}:{sample['doc_hash'][:8]}"


def _words(task: Any, sample: Mapping[str, Any], main: str) -> tuple[str, str, str]:
    """Return a document's question, the model's answer and the right one, for people."""
    doc, target = sample["doc"], sample["target"]
    text = task.doc_to_text(doc)
    if task.OUTPUT_TYPE != "multiple_choice":
        said = sample["resps"][0][0]
        right = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
        return str(text), said if isinstance(said, str) else "", right
    choices = task.doc_to_choice(doc)
    lengths = np.array([float(len(choice)) if main == "acc_norm" else 1.0 for choice in choices])
    with np.errstate(all="ignore"):  # an empty choice has no length: lm-eval never takes it
        scores = np.array([pair[0] for pair in sample["filtered_resps"][: len(choices)]]) / lengths
    gold = text if isinstance(text, int) else target
    numbers = gold if isinstance(gold, list) else [gold]
    reference = " | ".join(choices[n] if isinstance(n, int) and 0 <= n < len(choices) else str(n) for n in numbers)
    question = f"{' | '.join(choices)} … {target}" if isinstance(text, int) else str(text)
    return question, choices[int(np.argmax(scores))], reference


def _warnings(scored: HarnessScored, headline: Score) -> list[str]:
    found = [f"There is {headline.note}."] if headline.value is None else []
    found += list(thought_warnings(text for texts in scored.texts.values() for text in texts.values()))
    if scored.asked.limit is not None:
        found.append(f"Only {scored.asked.limit} questions of each task were asked: this is a try, not a score.")
    if scored.cut:
        found.append(
            f"{scored.cut} of {scored.requests} requests lost the beginning of their context: "
            "with its examples, and room for an answer, it is longer than the model has positions."
        )
    if scored.joined:
        found.append(
            f"{scored.joined} of {scored.requests} requests have a token that reaches from the context into the text "
            "to be scored: that text was encoded by itself."
        )
    for name, task in scored.leaves.items():
        if draws_from_questions(task):
            own = scored.redrawn[name]
            found.append(
                f"{name} draws its examples from the questions themselves: it has no other rows."
                + (f" {own} items were among their own examples, which were drawn again." if own else "")
            )
    return found


def _metrics(figures: Mapping[str, Any]) -> list[str]:
    return [key for key in figures if "," in key and "_stderr," not in key]


def _label(key: str) -> str:
    return key.removesuffix(",none")


def _part(asked: Harness, leaf: str) -> str:
    return leaf.removeprefix(f"{asked.task}_")
