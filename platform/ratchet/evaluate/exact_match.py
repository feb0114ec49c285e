"""Greedy answers to the prompts that a plan holds out, and whether they are right."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from ratchet.documents.scores import Score
from ratchet.errors import DataError, PlanError
from ratchet.evaluate.bench import Candidates
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import Item, TaskResult, count_problems, join_notes, unanimous, without_error
from ratchet.evaluate.statistics import estimate
from ratchet.evaluate.task_run import NEXT, Answered, Content, HeldoutQuestion, Inputs, Ready, TaskRun, each_alone
from ratchet.evaluate.thoughts import UNCLOSED, spoken, thought_warnings
from ratchet.plan.tasks import ExactMatch
from ratchet.serving.requests import TOO_LONG, Answer, CompletionRequest, Sampling

NOTHING_FOUND = "no answer found"


def run_exact_match(
    name: str, task: ExactMatch, candidate: Candidate, questions: Sequence[HeldoutQuestion]
) -> TaskResult:
    """Return the share of answers whose last match of the pattern, outside thoughts, equals the chosen answer's.

    An answer in which the pattern finds nothing is wrong, and counted beside. Raises DataError where
    there is no question, PlanError where the pattern finds nothing in a chosen answer.
    """
    if not questions:
        raise DataError(
            f"no held-out pair of {task.source} fits into the length limit",
            where=f"tasks.{name}",
            fix="raise the stages' max_length, or hold out more",
            code="data.nothing-left",
        )
    wanted = wanted_answers([one.chosen for one in questions], task.pattern)
    pattern = compile_pattern(task.pattern)
    sampling = Sampling(max_tokens=task.max_new_tokens)
    requests = [CompletionRequest(tuple(one.prompt.tolist()), sampling) for one in questions]
    answers = candidate.engine.answer(requests)
    found = [last_match(pattern, answer.text) for answer in answers]
    items = tuple(
        Item(
            item=one.pair_id,
            cluster=one.pair_id,
            values={"exact_match": float(mine == gold)},
            question=one.text,
            answer=answer.text,
            reference=one.chosen,
            problem=_problem(answer, mine),
        )
        for one, answer, mine, gold in zip(questions, answers, found, wanted, strict=True)
    )
    right = np.array([item.values["exact_match"] for item in items], np.float64)
    mean = estimate(right)
    note = join_notes(unanimous(right), without_error(mean.standard_error, "item"))
    score = Score("exact match", "exact_match", mean.mean, mean.standard_error, mean.count, note=note)
    settings = {key: getattr(task, key) for key in ("source", "pattern", "rows", "max_new_tokens")}
    warnings = thought_warnings(answer.text for answer in answers)
    return TaskResult(name, task.kind, (score,), items, settings, count_problems(items), warnings)


def _problem(answer: Answer, found: str | None) -> str:
    if answer.finish_reason == TOO_LONG:
        return TOO_LONG
    if spoken(answer.text) is None:
        return UNCLOSED
    return NOTHING_FOUND if found is None else ""


def wanted_answers(chosen: Sequence[str], pattern: str) -> list[str]:
    """Return what `pattern` finds in each chosen answer. Raises PlanError where it finds nothing in one."""
    compiled = compile_pattern(pattern)
    found = []
    for gold in chosen:
        wanted = last_match(compiled, gold)
        if wanted is None:
            raise PlanError(
                f"the pattern {pattern!r} finds nothing in a chosen answer: {gold[-80:]!r}",
                fix="change the task's pattern in the suite",
            )
        found.append(wanted)
    return found


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern. Raises PlanError where it is no pattern with exactly one group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PlanError(f"not a regular expression: {pattern!r}: {error}") from error
    # `findall` gives whole matches without a group, and tuples for several.
    if compiled.groups != 1:
        raise PlanError(f"the pattern {pattern!r} has {compiled.groups} groups", fix="give it exactly one")
    return compiled


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the group of the last match in what `text` says, stripped, or None."""
    found = pattern.findall(spoken(text) or "")
    # The last one, as a model may name others on its way to the answer.
    return found[-1].strip() if found else None


def _read(name: str, task: ExactMatch, inputs: Inputs) -> Content:
    heldout = inputs.heldout
    if heldout is None:
        raise PlanError(
            "asks for a plan's held-out prompts, and there is no plan",
            where="a task of kind exact_match",
            fix="name the suite under `evaluate` of a plan",
        )
    known_by = {"source": task.source, "prompts": heldout.identity(task.source)}
    return Content(known_by, functools.partial(heldout.questions, task.source, task.rows))


def _ask(candidates: Candidates, name: str, ready: Ready) -> Answered:
    return Answered(run_exact_match(name, ready.settings, candidates.of(ready.settings), ready.content.loaded()), {})


TASK = TaskRun(
    reads=_read,
    check_chosen=lambda task, chosen: wanted_answers(chosen, task.pattern),
    turn=NEXT,
    together=None,
    run=each_alone(_ask),
)
