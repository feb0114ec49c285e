"""Whole evaluations in miniature, ways to run and to watch them as a user does, and what they leave on the disk."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from endpoint_server import Server, hangs_up, says
from tests.conftest import ROOT
from whole_run import command, environment, processes_below

ACTOR = "ray::_Worker.answer"
"""Title of an evaluation process while it computes."""
SETS = ROOT / "eval" / "sets"
SMALL = f"""\
tasks:
  small-sums: {{kind: harness, task: small_sums, metric: acc, include: {ROOT}/eval/harness, batch_tokens: 512}}
  word-letters:
    {{kind: harness, task: word_letters, metric: exact_match, include: {ROOT}/eval/harness, batch_tokens: 512}}
  text: {{kind: perplexity, rows: {{path: {SETS}/lighthouse.txt}}, window: 64, batch_tokens: 256}}
  overlap:
    kind: text_overlap
    rows: {{path: {SETS}/word_problems.jsonl}}
    max_rows: 12
    max_new_tokens: 24
    batch_tokens: 512
  feelings:
    kind: eq_bench
    questions: {{path: {SETS}/short-feelings.json}}
    attempts: 2
    max_new_tokens: 20
    batch_tokens: 1500
averages: {{both: [small-sums, word-letters]}}
"""
TEXT = f"""\
tasks:
  text: {{kind: perplexity, rows: {{path: {SETS}/lighthouse.txt}}, window: 64, batch_tokens: 512}}
"""
_OF_THE_RUN = {"created", "seconds", "start_seconds", "reused", "items", "record"}
"""Keys of a scores document that say when, where and how fast, not what."""


@contextlib.contextmanager
def begun(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start `ratchet` in `folder`; it ends with the block, whatever happens."""
    run = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield run
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def answers(storage: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each journal of answers, by its name."""
    return {path.stem: lines(path) for path in sorted((storage / "store" / "answers").glob("*.jsonl"))}


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file that may grow."""
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []
    return [json.loads(line) for line in whole]


def units(storage: Path) -> list[str]:
    """Return the keys of all units in the journals, as often as they stand there."""
    return [line["key"] for some in answers(storage).values() for line in some]


def kept(storage: Path) -> dict[str, tuple[bytes, list[dict[str, Any]]]]:
    """Return each kept result by its fingerprint: the bytes of result.json, and the rows of items.parquet."""
    folders = sorted((storage / "store" / "scores").iterdir())
    items = {folder: pyarrow.parquet.read_table(folder / "items.parquet").to_pylist() for folder in folders}
    return {folder.name: ((folder / "result.json").read_bytes(), items[folder]) for folder in folders}


def scores_files(storage: Path) -> list[Path]:
    """Return the documents of `ratchet evaluate`, the oldest first."""
    return sorted((storage / "evaluations").glob("*/scores.json"), key=lambda path: path.stat().st_mtime_ns)


def scores_of(storage: Path) -> dict[str, Any]:
    """Return the newest document of `ratchet evaluate`."""
    found: dict[str, Any] = json.loads(scores_files(storage)[-1].read_text())
    return found


def timeless(value: Any) -> Any:
    """Return a scores document without what says when, where and how fast it was made."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in _OF_THE_RUN}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def by_task(document: dict[str, Any], model: str) -> dict[str, dict[str, Any]]:
    """Return a model's results by task."""
    return {one["task"]: one for one in document["results"] if one["model"] == model}


def actors_of(run: subprocess.Popen[str]) -> list[int]:
    """Return the pids of a run's evaluation processes that compute now."""
    return [pid for pid, title in processes_below(run.pid) if title.startswith(ACTOR)]


def write_questions(folder: Path, count: int = 10) -> Path:
    """Write a set of two-turn questions in FastChat's format, the last with a reference, and return its folder."""
    rows = [
        {"question_id": n, "category": "writing", "turns": [f"Tell of {n} red balls.", "Tell it again."]}
        for n in range(1, count)
    ]
    rows.append({"question_id": count, "category": "math", "turns": ["What is 2 + 3?", "And twice that?"]})
    reference = {"question_id": count, "choices": [{"index": 0, "turns": ["5", "10"]}]}
    (folder / "reference_answer").mkdir(parents=True)
    (folder / "reference_answer" / "ours.jsonl").write_text(json.dumps(reference) + "\n")
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judge_prompts.jsonl").write_text((SETS / "short-chat" / "judge_prompts.jsonl").read_text())
    return folder


def rating_of(prompt: str) -> int:
    """Return the scripted judge's rating of a prompt, from 1 to 10."""
    return 1 + hashlib.sha256(prompt.encode()).digest()[0] % 10


class Grader:
    """A judge for the server: rates by `rating_of`, and notes what it answered.

    It fails over prompts of which `fails` says so, and after `last` answers it waits until `go_on` is
    set and then closes the connection: the client is gone.
    """

    def __init__(self, server: Server) -> None:
        self.answered: list[str] = []
        self.fails: Callable[[str], bool] = lambda prompt: False
        self.last: int | None = None
        self.go_on = threading.Event()
        self.waiting = threading.Event()
        server.always = self.behave

    def behave(self, handler: Any, body: dict[str, Any]) -> None:
        prompt = body["messages"][-1]["content"]
        if self.fails(prompt):
            says(500, "no")(handler, body)
            return
        if self.last is not None and len(self.answered) >= self.last:
            self.waiting.set()
            self.go_on.wait(300)
            hangs_up(handler, body)
            return
        self.answered.append(prompt)
        message = {"role": "assistant", "content": f"It is what it is. Rating: [[{rating_of(prompt)}]]"}
        handler.send(200, json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}))

    def most(self) -> int:
        """Return how often the prompt was answered that was answered most often."""
        return max(collections.Counter(self.answered).values())


def asked(model: Path, *arguments: str, suite: str = "small.yaml") -> list[str]:
    return ["evaluate", f"tales={model}", suite, "--chat-template", "plain", "--storage", "out", *arguments]


def suite_in(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    (folder / name).write_text(text)
    return folder
