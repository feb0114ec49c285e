"""EQ-Bench's questions, from a file of its format or rows of a data set, and whether they are its own."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.errors import some
from ratchet.evaluate.eq_bench.rules import FIRST, REVISED, Scores, Version, asks_revision, cut_revision
from ratchet.evaluate.task_files import broken_questions, folder_of
from ratchet.plan.task_parts import Files
from ratchet.store.fingerprint import fingerprint

KEYS: Mapping[Version, str] = {"v1": "reference_answer", "v2": "reference_answer_fullscale"}
# Digests of the two published sets, as `digest_of` takes them.
OFFICIAL: Mapping[str, Version] = {"077506f38bd197f09e18": "v1", "5ebaa2d93cba70a25a05": "v2"}

_ENDINGS = (".json", ".jsonl", ".parquet")
_NO_QUESTIONS = ("dataset_infos.json", "dataset_dict.json", "state.json")
_FORMAT = "EQ-Bench's format is {id: {prompt, reference_answer, reference_answer_fullscale}}, or rows of these columns"


@dataclasses.dataclass(frozen=True)
class EmotionQuestion:
    """A dialogue with four emotions to score; `references` has those of each version that the file knows."""

    item: str
    prompt: str
    references: Mapping[Version, Scores]


@dataclasses.dataclass(frozen=True)
class EmotionQuestions:
    """Questions, where they came from, the digest of their content, and the version whose set they are, if any."""

    label: str
    digest: str
    official: Version | None
    questions: tuple[EmotionQuestion, ...]


def read_questions(files: Files, version: Version, *, revision: bool) -> EmotionQuestions:
    """Return the questions that a task names, all of them fit for `version` and for `revision`.

    Raises DataError with file and question where there is none, or one is broken or lacks the reference of the version.
    With `revision`, each must ask for one.
    """
    path, source = _file(files)
    questions = tuple(_question(source, item, record) for item, record in _records(path, source))
    if not questions:
        raise broken_questions("the file holds no question", where=source, fix=_FORMAT)
    for question in questions:
        at = f"{source}: question {question.item}"
        if version not in question.references:
            other = "v1" if version == "v2" else "v2"
            raise broken_questions(
                f"has no {KEYS[version]}, which {version} compares answers with",
                where=at,
                fix=f"take a file that has it, or set version: {other}",
            )
        if revision and not asks_revision(question.prompt):
            raise broken_questions(
                "does not ask for a critique and revised scores",
                where=at,
                fix="take the questions in EQ-Bench's own file, or leave revision out",
            )
    digest = questions_digest(questions)
    official = OFFICIAL.get(digest)
    origin = f"EQ-Bench {official}" if official else source if files.hub else path.name
    count = f"{len(questions)} question{'s' if len(questions) > 1 else ''}"
    return EmotionQuestions(f"{origin}, {count}", digest, official, questions)


def questions_digest(questions: tuple[EmotionQuestion, ...]) -> str:
    """Return a digest of what is asked and compared, whatever file it was read from."""
    content = [
        # Without revision, so that the same questions already cut are the same set.
        [each.item, cut_revision(each.prompt).strip(), {str(version): of for version, of in each.references.items()}]
        for each in questions
    ]
    return fingerprint({"eq_bench": content})


def _file(files: Files) -> tuple[Path, str]:
    """Return the file of questions, and the name by which people know it."""
    root = folder_of(files, [f"*{ending}" for ending in _ENDINGS])
    origin = files.path or f"hub:{files.hub}" + (f"@{files.revision}" if files.revision else "")
    if root.is_file():
        found = [root]
    else:
        found = sorted(
            path
            for path in root.rglob("*")
            if path.suffix in _ENDINGS and path.name not in _NO_QUESTIONS and path.is_file()
        )
    if len(found) != 1 or found[0].suffix not in _ENDINGS:
        names = some([str(path.relative_to(root)) for path in found]) if root.is_dir() else ""
        held = f"holds {names}" if names else "is no file or folder with questions"
        raise broken_questions(
            f"{held}: one {', '.join(_ENDINGS)} file is wanted",
            where=origin,
            fix="give the file itself as questions: {path: …}; in a suite it counts from the suite's file",
        )
    return found[0], origin if found[0] == root else f"{origin}/{found[0].relative_to(root)}"


def _records(path: Path, source: str) -> list[tuple[str, Any]]:
    """Return ids and records; rows are known by their number, from 1."""
    try:
        if path.suffix == ".parquet":
            content: Any = pq.read_table(path).to_pylist()
        elif path.suffix == ".jsonl":
            # Not by `splitlines`, which also divides at signs that JSON allows inside a text.
            content = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise broken_questions(f"cannot be read: {error}", where=source, fix="fetch or make the file again") from error
    if isinstance(content, dict):
        return list(content.items())
    if isinstance(content, list):
        return [(str(row), record) for row, record in enumerate(content, 1)]
    raise broken_questions("holds neither questions by id nor rows", where=source, fix=_FORMAT)


def _question(source: str, item: str, record: Any) -> EmotionQuestion:
    at = f"{source}: question {item}"
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise broken_questions("has no prompt", where=at, fix=_FORMAT)
    if not asks_revision(prompt) and (FIRST in prompt or REVISED in prompt):
        raise broken_questions(
            "asks for revised scores in a form that cannot be cut out",
            where=at,
            fix=f"EQ-Bench's has ` Then critique your answer …`, `{FIRST}`, `Critique: <…>`, `{REVISED}` "
            "and `[End of answer]`, in this order",
        )
    references = {
        version: _reference(record[key], f"{at}: {key}") for version, key in KEYS.items() if record.get(key) is not None
    }
    if len({frozenset(reference) for reference in references.values()}) > 1:
        raise broken_questions("its two references name different emotions", where=at, fix="correct the question")
    return EmotionQuestion(item, prompt, references)


def _reference(value: Any, at: str) -> Scores:
    """Return the four emotions of a reference with their scores. Rows of data sets hold it as text."""
    if isinstance(value, str):
        try:
            # Data sets hold it as Python writes it, in single quotes, which is no JSON.
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError) as error:
            raise broken_questions("is no dictionary", where=at, fix=_FORMAT) from error
    found: dict[str, float] = {}
    for number in range(1, 5):
        emotion, score = (
            value.get(f"emotion{number}{end}") if isinstance(value, dict) else None for end in ("", "_score")
        )
        # Answers are read word by word, so that a name of two words would never be found.
        if not isinstance(emotion, str) or not re.fullmatch(r"\w+", emotion) or emotion in found:
            raise broken_questions(
                f"emotion{number} is {emotion!r}", where=at, fix="a reference has four different emotions, of one word"
            )
        found[emotion] = _number(score, f"{at}: emotion{number}_score")
    return found


def _number(value: Any, at: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise broken_questions(f"is {value!r}, which is no number", where=at, fix="correct the question")
    return number
