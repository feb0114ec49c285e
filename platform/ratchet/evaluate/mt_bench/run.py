"""MT-Bench: two-turn conversations, each answer rated by a judge (Zheng et al. 2023, arXiv 2306.05685).

The protocol is FastChat's llm_judge in its single-answer mode. It has temperatures by category, the four `single-*`
prompts, and references for math, reasoning and coding. The score is the mean over all rated answers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from ratchet.documents.scores import Score
from ratchet.errors import ModelError, some
from ratchet.evaluate.bench import Candidates
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.judges.guard import Guard
from ratchet.evaluate.judges.judge import HIGHEST, LOWEST, MAX_TOKENS, WARMER, Judge, JudgeCase, Verdict, judge_cases
from ratchet.evaluate.judges.kinds import open_judge
from ratchet.evaluate.mt_bench.files import WITH_REFERENCE, TalkQuestion, TalkQuestions, read_set
from ratchet.evaluate.mt_bench.scores import METRIC, answer_line, item_id, judgment_line, scores_from
from ratchet.evaluate.results import Item, TaskResult, count_problems
from ratchet.evaluate.task_run import LAST, Answered, Content, Inputs, Ready, TaskRun, each_alone, nothing_to_check
from ratchet.pairs.pair import Turn
from ratchet.pairs.style import chat_ids, find_style
from ratchet.plan.tasks import MtBench
from ratchet.serving.requests import TOO_LONG as NOT_ASKED
from ratchet.serving.requests import Answer, ChatRequest, Sampling
from ratchet.track.progress import Console, under_way

TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0,
    "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7
# Below this temperature FastChat draws nothing.
GREEDY_BELOW = 1e-4
SEED = 0
"""FastChat seeds each answer with the number of the choice; there is one."""
TOO_LONG = "no answer: the conversation is too long for the model"
GAVE_UP = "no answer: the engine gave up"
_GAVE_UP = {"abort", "error"}


@dataclasses.dataclass(frozen=True)
class Talk:
    """A conversation: the answers that were given, and why there are fewer than two. `cut` counts cut ones."""

    question: TalkQuestion
    answers: tuple[str, ...] = ()
    problem: str = ""
    cut: int = 0


@dataclasses.dataclass(frozen=True)
class Judged:
    """One answer with its verdict. `prompt_name` and `prompt` are what the judge was given.

    `defused` tells whether something in the candidate's text was taken out or apart before.
    """

    talk: Talk
    turn: int
    prompt_name: str
    prompt: str
    verdict: Verdict
    defused: bool


@dataclasses.dataclass(frozen=True)
class MtBenchRun:
    """A result, with the conversations and judgments that it is made of."""

    result: TaskResult
    talks: tuple[Talk, ...]
    judged: tuple[Judged, ...]
    judge: str

    def answer_lines(self, model: str, when: float) -> list[str]:
        """Return FastChat's `model_answer` lines of the whole conversations."""
        return [answer_line(model, t.question.question_id, t.answers, when) for t in self.talks if not t.problem]

    def judgment_lines(self, model: str, when: float) -> list[str]:
        """Return FastChat's `model_judgment` lines of all answers that went to the judge."""
        return [
            judgment_line(
                model,
                one.talk.question.question_id,
                one.turn,
                (self.judge, one.prompt_name),
                one.prompt,
                one.verdict.texts,
                one.verdict.rating,
                when,
            )
            for one in self.judged
        ]


def run_mt_bench(name: str, task: MtBench, candidate: Candidate, judge: Judge) -> MtBenchRun:
    """Ask the candidate, then the judge. Raises DataError for files, and what candidate or judge raise for all."""
    asked = read_set(task.questions, task.references)
    talks = converse(asked.questions, candidate, task.max_new_tokens)
    judged = judge_talks(asked, talks, judge, task.judge_retries)
    return MtBenchRun(_result(name, task, asked, talks, judged, judge), tuple(talks), tuple(judged), judge.name)


def converse(questions: Sequence[TalkQuestion], candidate: Candidate, max_new_tokens: int) -> list[Talk]:
    """Return the conversations: all first turns are asked together, then all second ones.

    An answer gets fewer tokens than `max_new_tokens` where the model has no room for more, and a
    conversation that leaves none ends there. Raises RatchetError.
    """
    talks = [Talk(question) for question in questions]
    for _ in range(2):
        requests: dict[int, ChatRequest] = {}
        for n, talk in enumerate(talks):
            if talk.problem:
                continue
            request = _next_request(talk, candidate, max_new_tokens)
            if request is None:
                talks[n] = dataclasses.replace(talk, problem=TOO_LONG)
            else:
                requests[n] = request
        answers = candidate.engine.answer(list(requests.values())) if requests else []
        for n, answer in zip(requests, answers, strict=True):
            talks[n] = _said(talks[n], answer)
    return talks


def _said(talk: Talk, answer: Answer) -> Talk:
    if answer.finish_reason == NOT_ASKED:
        return dataclasses.replace(talk, problem=TOO_LONG)
    if answer.finish_reason in _GAVE_UP:
        return dataclasses.replace(talk, problem=GAVE_UP)
    cut = talk.cut + (answer.finish_reason == "length")
    return dataclasses.replace(talk, answers=(*talk.answers, answer.text), cut=cut)


def _next_request(talk: Talk, candidate: Candidate, max_new_tokens: int) -> ChatRequest | None:
    """Return the request for the next answer, or None where the model has no room for one."""
    turns = []
    for n in range(len(talk.answers) + 1):
        turns.append(Turn("user", talk.question.turns[n]))
        turns += [Turn("assistant", text) for text in talk.answers[n : n + 1]]
    find_style(candidate.tokenizer)  # raises by itself, before any conversation is to blame
    try:
        prompt = chat_ids(candidate.tokenizer, turns)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise ModelError(
            f"its chat template fails on a conversation: {error}",
            where=candidate.identity,
            fix="set model.chat_template to one for several turns",
            code="model.template-fails",
        ) from error
    room = candidate.longest - len(prompt)
    temperature = TEMPERATURES.get(talk.question.category, OTHER_TEMPERATURE)
    if temperature < GREEDY_BELOW:
        temperature = 0.0
    sampling = Sampling(max_tokens=min(max_new_tokens, room), temperature=temperature, seed=SEED)
    return ChatRequest(tuple(turns), sampling) if room > 0 else None


def prompt_for(asked: TalkQuestions, question: TalkQuestion, answers: Sequence[str]) -> tuple[str, str]:
    """Return the name and the text of the judge's prompt about the last of `answers`, one or two.

    Only the template is formatted: braces in a question or an answer are text.
    """
    with_reference = question.category in WITH_REFERENCE
    name = f"single{'-math' * with_reference}-v1{'-multi-turn' * (len(answers) > 1)}"
    if len(answers) > 1:
        fields = {f"{kind}_{n}": text for kind, texts in (("question", question.turns), ("answer", answers))
                  for n, text in enumerate(texts, 1)}  # fmt: skip
    else:
        fields = {"question": question.turns[0], "answer": answers[0]}
    if question.reference is not None:
        fields |= {f"ref_answer_{n}": text for n, text in enumerate(question.reference, 1)}
    return name, asked.prompts[name].template.format(**fields)


def judge_talks(asked: TalkQuestions, talks: Sequence[Talk], judge: Judge, retries: int) -> list[Judged]:
    """Return every given answer with its verdict; all answers go to the judge together. Raises RatchetError.

    A recording is asked by FastChat's own prompt, where it was made with that. Else the guard reads the answers first.
    """
    guard = Guard([prompt.template for prompt in asked.prompts.values()], judge.control)
    cases, told = [], []
    for talk in talks:
        for turn in range(1, len(talk.answers) + 1):
            answers = talk.answers[:turn]
            shown = answers
            name, prompt = prompt_for(asked, talk.question, answers)
            if not judge.holds(prompt):
                shown = tuple(map(guard.defuse, answers))
                name, prompt = prompt_for(asked, talk.question, shown)
            given = (*talk.question.turns[:turn], *(talk.question.reference or ())[:turn])
            cases.append(JudgeCase(asked.prompts[name].system, prompt, answers, given))
            told.append((talk, turn, name, shown != answers))
    with under_way("judge", f"{len(cases):,} answers are judged", Console()):
        verdicts = judge_cases(judge, cases, retries)
    return [
        Judged(talk, turn, name, case.prompt, verdict, defused)
        for (talk, turn, name, defused), case, verdict in zip(told, cases, verdicts, strict=True)
    ]


def _result(
    name: str, task: MtBench, asked: TalkQuestions, talks: Sequence[Talk], judged: Sequence[Judged], judge: Judge
) -> TaskResult:
    verdicts = {(one.talk.question.question_id, one.turn): one.verdict for one in judged}
    items = tuple(
        _item(talk, turn, verdicts.get((talk.question.question_id, turn))) for talk in talks for turn in (1, 2)
    )
    # Whose rating, of what: a number of this task says nothing without them.
    about = f"{asked.name}, judged by {judge.name}, references {asked.settings['reference_set']}"
    scores = scores_from(items, about)
    settings = {
        **asked.settings,
        "judge": judge.name,
        "judge_how": judge.how,
        "judge_temperature": 0.0,
        "judge_max_tokens": MAX_TOKENS,
        "judge_retries": task.judge_retries,
        "judge_retry_temperature_step": WARMER,
        "rating_range": [LOWEST, HIGHEST],
        "max_new_tokens": task.max_new_tokens,
        "temperatures": {**TEMPERATURES, "other": OTHER_TEMPERATURE},
        "seed": SEED,
    }
    # Another kind, because results of two kinds are never held against each other.
    kind = "mt_bench" if asked.is_mt_bench else "mt_bench_format"
    warnings = tuple(_warnings(asked, talks, judged, scores[0]))
    whole = not any(one.verdict.unanswered for one in judged)
    return TaskResult(name, kind, scores, items, settings, count_problems(items), warnings, whole)


def _item(talk: Talk, turn: int, verdict: Verdict | None) -> Item:
    question, place = talk.question, turn - 1
    rated: dict[str, Any] = {METRIC: verdict.rating} if verdict and verdict.rating is not None else {}
    return Item(
        item=item_id(question.question_id, turn),
        cluster=str(question.question_id),
        values=rated,
        group=question.category,
        question=question.turns[place],
        answer=talk.answers[place] if turn <= len(talk.answers) else "",
        reference=question.reference[place] if question.reference else "",
        problem=verdict.problem if verdict else talk.problem,
    )


def _warnings(asked: TalkQuestions, talks: Sequence[Talk], judged: Sequence[Judged], average: Score) -> list[str]:
    found = []
    if not asked.is_mt_bench:
        found.append(f"This is not MT-Bench but {asked.name}: its scores compare with those of the same set alone.")
    if average.value is None:
        found.append(f"There is {average.note}.")
    if again := sum(len(one.verdict.texts) > 1 for one in judged):
        rated = sum(len(one.verdict.texts) > 1 and one.verdict.rating is not None for one in judged)
        attempts = sum(len(one.verdict.texts) for one in judged)
        found.append(
            f"{again} judgments were asked for again ({attempts} attempts at {len(judged)}), {rated} got a rating."
        )
    if cut := sum(talk.cut for talk in talks):
        found.append(f"{cut} answers were cut off at the longest allowed.")
    if marked := [item_id(one.talk.question.question_id, one.turn) for one in judged if one.defused]:
        found.append(
            f"{len(marked)} answers held a rating, a mark of the judge's prompt or a control token, which was "
            f"taken out or apart before the judge read it: {some(marked)}."
        )
    return found


def _read(name: str, task: MtBench, inputs: Inputs) -> Content:
    return Content(dict(read_set(task.questions, task.references).settings), None)


def _ask(candidates: Candidates, name: str, ready: Ready) -> Answered:
    """Ask, and have it judged; answers and judgments come in FastChat's format too, for other tools."""
    task = ready.settings
    with open_judge(candidates, task.judge, f"tasks.{name}.judge") as judge:
        done = run_mt_bench(name, task, candidates.of(task), judge)
    model, when = candidates.model.name, time.time()
    lines = {"answers.jsonl": done.answer_lines(model, when), "judgments.jsonl": done.judgment_lines(model, when)}
    return Answered(done.result, lines)


TASK = TaskRun(reads=_read, check_chosen=nothing_to_check, turn=LAST, together=None, run=each_alone(_ask))
