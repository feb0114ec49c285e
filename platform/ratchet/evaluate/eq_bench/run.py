"""EQ-Bench: how strongly does a character of a dialogue feel each of four emotions?"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ratchet.documents.scores import Score
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.eq_bench import rules
from ratchet.evaluate.eq_bench.files import EmotionQuestion, EmotionQuestions, read_questions
from ratchet.evaluate.results import Item, TaskResult, count_problems, join_notes, unanimous, without_error
from ratchet.evaluate.statistics import estimate
from ratchet.evaluate.task_run import NEXT, Content, Inputs, TaskRun, by_candidate, nothing_to_check
from ratchet.evaluate.thoughts import UNCLOSED, spoken, thought_warnings
from ratchet.pairs.pair import Turn
from ratchet.plan.tasks import EqBench
from ratchet.serving.requests import TOO_LONG, Answer, ChatRequest, Engine, Sampling

_SHORT, _LONG = 60, 1000
# A number at the very end of a cut answer may lack digits: 1 of 10 would be read as a score.
_HALF = re.compile(r"\d+\Z")
_PUBLISHED = "as published"
_CUT_V1 = "revision part cut, version 1's rule on the one pass; version 1 as published always asks for revision"


@dataclasses.dataclass(frozen=True)
class EmotionReply:
    """The answer to a question that is kept, its scores by pass, and why it ended.

    Without `counts` the scores are worth nothing.
    """

    text: str
    passes: Mapping[str, rules.Scores]
    counts: bool
    ended: str


def run_eq_bench(name: str, task: EqBench, candidate: Candidate) -> TaskResult:
    """Ask a model the questions of a task through its chat template, and score the answers as published.

    Raises DataError for questions that cannot be used, and what the engine raises.
    """
    asked = read_questions(task.questions, task.version, revision=task.revision)
    return eq_bench_result(name, task, asked, ask_questions(asked.questions, task, candidate.engine))


def ask_questions(questions: Sequence[EmotionQuestion], task: EqBench, engine: Engine) -> list[EmotionReply]:
    """Return one reply to each question.

    A round asks, in one call, all questions without an answer that counts in every pass. What
    never gets one keeps its first answer that counts in one pass, and else its last.
    """
    kept: dict[int, EmotionReply] = {}
    waiting = list(range(len(questions)))
    for attempt, temperature in enumerate(rules.temperatures(task.attempts), 1):
        sampling = Sampling(max_tokens=_longest(task), temperature=temperature, seed=attempt)
        requests = [ChatRequest((Turn("user", prompt_of(questions[at], task)),), sampling) for at in waiting]
        still = []
        for at, answer in zip(waiting, engine.answer(requests), strict=True):
            passes = rules.read_passes(_said(answer), revision=task.revision)
            fine = [not rules.trouble(scores, _emotions(questions[at])) for scores in passes.values()]
            if all(fine) or at not in kept or not kept[at].counts:
                kept[at] = EmotionReply(answer.text, passes, any(fine), answer.finish_reason)
            if not all(fine):
                still.append(at)
        waiting = still
        if not waiting:
            break
    return [kept[at] for at in range(len(questions))]


def _said(answer: Answer) -> str:
    """Return what an answer says: neither thoughts nor half a number at its end."""
    said = spoken(answer.text) or ""
    # The longest length may have cut its last number in two.
    return _HALF.sub("", said) if answer.finish_reason == "length" else said


def prompt_of(question: EmotionQuestion, task: EqBench) -> str:
    """Return the message that asks a question, with or without its revision part."""
    return question.prompt if task.revision else rules.cut_revision(question.prompt)


def eq_bench_result(name: str, task: EqBench, asked: EmotionQuestions, replies: Sequence[EmotionReply]) -> TaskResult:
    """Return the scores of replies, one to each question of `asked`.

    With revision the pass that stands for the run is the item's `score`; `first` and `revised` have both.
    """
    passes = [_question_scores(task, *pair) for pair in zip(asked.questions, replies, strict=True)]
    by_pass = {key: [scores[key] for scores in passes if key in scores] for key in ("first", "revised")}
    chosen = "revised" if task.revision and rules.revised_counts(by_pass["first"], by_pass["revised"]) else "first"
    items = tuple(
        _item(task, question, reply, scores, chosen)
        for question, reply, scores in zip(asked.questions, replies, passes, strict=True)
    )
    official = asked.official == task.version
    title = f"EQ-Bench {task.version}" if official else f"{asked.label}, by EQ-Bench {task.version}'s rule"
    parsed = np.array([item.values["parsed"] for item in items])
    share = estimate(parsed)
    about = join_notes(unanimous(parsed), without_error(share.standard_error, "item"))
    scores = [
        _points(title, "score", by_pass[chosen], len(items), f"the {chosen} pass" if task.revision else ""),
        Score("parsed", "parsed", share.mean, share.standard_error, share.count, note=about),
    ]
    if task.revision:
        scores += [_points(f"{key} pass", key, by_pass[key], len(items)) for key in by_pass]
    return TaskResult(
        name,
        task.kind,
        tuple(scores),
        items,
        eq_bench_settings(task, asked),
        count_problems(items),
        tuple(_warnings(task, asked, items, replies)),
    )


def eq_bench_settings(task: EqBench, asked: EmotionQuestions) -> dict[str, object]:
    """Return what decides a score beside the model."""
    return {
        "questions": asked.label,
        "digest": asked.digest,
        "version": task.version,
        "revision": task.revision,
        "prompt": _CUT_V1 if task.version == "v1" and not task.revision else _PUBLISHED,
        "attempts": task.attempts,
        "temperatures": rules.temperatures(task.attempts),
        "max_new_tokens": _longest(task),
        "batch_tokens": task.batch_tokens,
        "v2_scale": rules.V2_SCALE,
        "v2_sigmoid": [rules.SIGMOID_TOP, rules.SIGMOID_SLOPE, rules.SIGMOID_MIDDLE, rules.SIGMOID_UP_TO],
        "least_parsed": rules.LEAST_PARSED,
        "least_revised": rules.LEAST_REVISED,
    }


def _longest(task: EqBench) -> int:
    return task.max_new_tokens or (_LONG if task.revision else _SHORT)


def _emotions(question: EmotionQuestion) -> tuple[str, ...]:
    return tuple(next(iter(question.references.values())))


def _question_scores(task: EqBench, question: EmotionQuestion, reply: EmotionReply) -> dict[str, float]:
    """Return the scores, 10 at most, of the passes that have one."""
    if not reply.counts:
        return {}
    reference = question.references[task.version]
    scored = {key: rules.question_score(task.version, reference, scores) for key, scores in reply.passes.items()}
    return {key: score for key, score in scored.items() if score is not None}


def _item(task: EqBench, question: EmotionQuestion, reply: EmotionReply, scores: dict[str, float], chosen: str) -> Item:
    values = {"parsed": float(chosen in scores)}
    problem = ""
    if chosen in scores:
        values["score"] = 10 * scores[chosen]  # in the points of the total, whose mean it then is
    else:
        trouble = rules.trouble(reply.passes[chosen], _emotions(question))
        trouble = UNCLOSED if spoken(reply.text) is None else trouble
        problem = TOO_LONG if reply.ended == TOO_LONG else trouble
    if task.revision:
        values |= {key: 10 * score for key, score in scores.items()}
    reference = ", ".join(f"{name}: {score:g}" for name, score in question.references[task.version].items())
    asked = prompt_of(question, task)
    return Item(question.item, question.item, values, "", asked, reply.text, reference, problem)


def _points(name: str, metric: str, scores: list[float], asked: int, note: str = "") -> Score:
    """Return a pass's total in points of 100, or no value where too little of it was parsed."""
    if not rules.enough(len(scores), asked):
        note = f"{len(scores)} of {asked} parsed, and a score needs {rules.LEAST_PARSED:.2%}"
        return Score(name, metric, None, None, len(scores), "points", note=note)
    found = estimate(np.array(scores)).standard_error
    error = None if found is None else 10 * found
    note = join_notes(note, without_error(error, "item"))
    return Score(name, metric, rules.total(scores), error, len(scores), "points", note=note)


def _warnings(
    task: EqBench, asked: EmotionQuestions, items: Sequence[Item], replies: Sequence[EmotionReply]
) -> list[str]:
    found = list(thought_warnings(reply.text for reply in replies))
    if asked.official is None:
        found.append(f"{asked.label}: these are not EQ-Bench's, and the score compares with no published figure")
    elif asked.official != task.version:
        found.append(f"{asked.label}, are scored by {task.version}'s rule: no published figure is made so")
    if asked.official == task.version == "v1" and not task.revision:
        found.append(f"{_CUT_V1}: set revision to compare with published figures")
    short = sum(bool(item.problem) and reply.ended == "length" for item, reply in zip(items, replies, strict=True))
    if short:
        found.append(f"{short} of the answers without scores ended at max_new_tokens ({_longest(task)})")
    return found


def _read(name: str, task: EqBench, inputs: Inputs) -> Content:
    asked = read_questions(task.questions, task.version, revision=task.revision)
    return Content({"label": asked.label, "questions": [dataclasses.asdict(one) for one in asked.questions]}, None)


TASK = TaskRun(reads=_read, check_chosen=nothing_to_check, turn=NEXT, together=None, run=by_candidate(run_eq_bench))
