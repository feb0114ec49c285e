"""Questions, reference answers and judge prompts in FastChat's format, from a folder or the hub."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.evaluate.task_files import broken_questions, folder_of
from ratchet.plan.task_parts import Files
from ratchet.store.codec import json_rows
from ratchet.store.fingerprint import digest_file, fingerprint

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged against a reference answer."""
PROMPTS = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
_FIELDS = {
    "single-v1": {"question", "answer"},
    "single-v1-multi-turn": {"question_1", "answer_1", "question_2", "answer_2"},
    "single-math-v1": {"question", "answer", "ref_answer_1"},
    "single-math-v1-multi-turn": {
        "question_1", "answer_1", "question_2", "answer_2", "ref_answer_1", "ref_answer_2",
    },
}  # fmt: skip
_HOMES = ("", "mt_bench", "data/mt_bench", "fastchat/llm_judge/data/mt_bench")
_HUB_FILES = ("*question.jsonl", "*judge_prompts.jsonl", "*reference_answer/*")

# By content, so that another order of lines or keys is the same set.
MT_BENCH_QUESTIONS = "8c974fd93a3fbc63e65d"
MT_BENCH_PROMPTS = "152c9b6998412f56e673"
MT_BENCH_REFERENCES = "435b9765a911bd2f7ab4"


@dataclasses.dataclass(frozen=True)
class TalkQuestion:
    """Two turns of one user. `reference` has an answer to each where its category is judged against one."""

    question_id: int | str
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class JudgePrompt:
    """How a judge is asked: its system prompt, and the template that question and answer are put into."""

    system: str
    template: str


@dataclasses.dataclass(frozen=True)
class TalkQuestions:
    """All that is asked, and by what it is known.

    `name` is MT-Bench only for FastChat's 80 questions with FastChat's judge prompts. `settings` has names
    and digests of questions, references and prompts.
    """

    name: str
    is_mt_bench: bool
    questions: tuple[TalkQuestion, ...]
    prompts: Mapping[str, JudgePrompt]
    settings: Mapping[str, Any]


def read_set(files: Files, references: str) -> TalkQuestions:
    """Read a question set with the reference answers of `references`.

    The folder is one of FastChat's layouts: `question.jsonl` in it, or below it in `mt_bench` or
    `data/mt_bench`; `reference_answer/` beside that file, and `judge_prompts.jsonl` beside it or one folder up.
    Raises DataError, with file and line, where one is missing or broken.
    """
    root = folder_of(files, _HUB_FILES)
    home = _home(root)
    places = (home / "judge_prompts.jsonl", home.parent / "judge_prompts.jsonl")
    prompts_file = next((path for path in places if path.is_file()), None)
    if prompts_file is None:
        raise broken_questions(
            "judge_prompts.jsonl is missing", where=str(home), fix="put FastChat's, or your own, beside question.jsonl"
        )
    prompts = _read_prompts(prompts_file)
    questions, references_digest = _with_references(home, _read_questions(home / "question.jsonl"), references)
    told = [[q.question_id, q.category, *q.turns] for q in questions]
    # Sorted as texts: one file may have numbers and texts as ids, which do not compare.
    digest = fingerprint({"questions": sorted(told, key=str)})
    prompts_digest = fingerprint({name: dataclasses.asdict(prompts[name]) for name in PROMPTS})
    is_mt_bench = (digest, prompts_digest) == (MT_BENCH_QUESTIONS, MT_BENCH_PROMPTS)
    folder = files.hub or (root if root.is_dir() else home).resolve().name
    name = "MT-Bench" if is_mt_bench else f"{folder} ({len(questions)} questions; not MT-Bench)"
    settings = {
        "question_set": name,
        "questions": len(questions),
        "questions_digest": digest,
        "questions_sha256": digest_file(home / "question.jsonl"),
        "reference_set": _reference_name(references, references_digest),
        "references_digest": references_digest,
        "judge_prompts": "FastChat's" if prompts_digest == MT_BENCH_PROMPTS else "of this set",
        "judge_prompts_digest": prompts_digest,
    }
    return TalkQuestions(name, is_mt_bench, questions, prompts, settings)


def _home(root: Path) -> Path:
    """Return the folder of question.jsonl."""
    if root.is_file():
        root = root.parent
    for below in _HOMES:
        if (root / below / "question.jsonl").is_file():
            return root / below
    raise broken_questions(
        "has no question.jsonl",
        where=str(root),
        fix="name the folder that holds question.jsonl, judge_prompts.jsonl and reference_answer/",
    )


def _reference_name(references: str, digest: str | None) -> str:
    if digest is None:
        return "none needed"
    return f"{references} (FastChat's)" if digest == MT_BENCH_REFERENCES else references


def _read_questions(path: Path) -> dict[int | str, TalkQuestion]:
    found: dict[int | str, TalkQuestion] = {}
    for number, row in json_rows(path):
        where = f"{path}:{number}"
        question_id, category = _id(row, where), row.get("category")
        if not isinstance(category, str) or not category:
            raise broken_questions(
                "the question has no category", where=where, fix="give it one, such as writing or math"
            )
        if question_id in found:
            raise broken_questions(
                f"question {question_id} is there twice", where=where, fix="give each its own question_id"
            )
        turns = _two_texts(row.get("turns"), f"question {question_id}", where)
        found[question_id] = TalkQuestion(question_id, category, turns)
    return found


def _with_references(
    home: Path, questions: Mapping[int | str, TalkQuestion], name: str
) -> tuple[tuple[TalkQuestion, ...], str | None]:
    """Return the questions with their references, and the digest of these."""
    wanted = [q.question_id for q in questions.values() if q.category in WITH_REFERENCE]
    if not wanted:
        return tuple(questions.values()), None
    folder = home / "reference_answer"
    path = next((p for p in (folder / f"{name}.jsonl", folder / name) if p.is_file()), None)
    if path is None:
        there = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "none"
        raise broken_questions(
            f"no reference answers of {name!r}", where=str(folder), fix=f"set references to one of those there: {there}"
        )
    answers = read_answers(path)
    if lost := [str(question_id) for question_id in wanted if question_id not in answers]:
        raise broken_questions(
            f"no reference answer to {len(lost)} questions, first {lost[0]}",
            where=str(path),
            fix=f"questions of {', '.join(WITH_REFERENCE)} need one each",
        )
    told = [[question_id, *answers[question_id]] for question_id in wanted]
    full = [
        dataclasses.replace(q, reference=answers[q.question_id]) if q.category in WITH_REFERENCE else q
        for q in questions.values()
    ]
    return tuple(full), fingerprint({"references": sorted(told, key=str)})


def read_answers(path: Path) -> dict[int | str, tuple[str, str]]:
    """Return the two turns of each question's first choice, from a file of model_answer or reference_answer.

    Raises DataError where a line is broken or a question is answered twice.
    """
    found: dict[int | str, tuple[str, str]] = {}
    for number, row in json_rows(path):
        where = f"{path}:{number}"
        question_id = _id(row, where)
        if question_id in found:
            raise broken_questions(
                f"question {question_id} is answered twice", where=where, fix="keep one of the lines"
            )
        try:
            turns = row["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError):
            raise broken_questions(
                "no choices[0].turns", where=where, fix="give answers in FastChat's format"
            ) from None
        found[question_id] = _two_texts(turns, f"the answer to question {question_id}", where)
    return found


def _read_prompts(path: Path) -> dict[str, JudgePrompt]:
    found: dict[str, JudgePrompt] = {}
    for number, row in json_rows(path):
        name, where = row.get("name"), f"{path}:{number}"
        if name not in PROMPTS:
            continue  # prompts that compare two answers are not used
        if name in found:
            raise broken_questions(f"the prompt {name} is there twice", where=where, fix="keep one of them")
        texts = row.get("system_prompt"), row.get("prompt_template")
        if not all(isinstance(text, str) for text in texts):
            raise broken_questions(
                "system_prompt or prompt_template is missing", where=where, fix="give both, as texts"
            )
        found[name] = JudgePrompt(*map(str, texts))
        _check_fields(name, found[name].template, where)
        if "[[rating]]" not in "".join(map(str, texts)):
            raise broken_questions(
                f"the prompt {name} does not ask for a rating", where=where, fix='let it ask for the form "[[rating]]"'
            )
    if lost := [name for name in PROMPTS if name not in found]:
        raise broken_questions(f"prompts are missing: {', '.join(lost)}", where=str(path), fix="give all four")
    return found


def _check_fields(name: str, template: str, where: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise broken_questions(
            f"the template of {name} is broken: {error}", where=where, fix="double its braces"
        ) from None
    fields = {field for _, field, _, _ in parts if field is not None}
    if fields != _FIELDS[name] or any(spec or conversion for _, _, spec, conversion in parts):
        wanted = ", ".join(f"{{{field}}}" for field in sorted(_FIELDS[name]))
        raise broken_questions(f"the template of {name} must have {wanted}, and nothing else in braces", where=where)


def _id(row: Mapping[str, Any], where: str) -> int | str:
    question_id = row.get("question_id")
    # In Python true is a whole number too.
    if isinstance(question_id, bool) or not isinstance(question_id, int | str) or question_id == "":
        raise broken_questions("no question_id", where=where, fix="give each line the number of its question")
    return question_id


def _two_texts(value: Any, what: str, where: str) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(text, str) for text in value):
        raise broken_questions(
            f"{what} has not two turns of text", where=where, fix="give `turns` as a list of two texts"
        )
    return value[0], value[1]
