"""Questions of EQ-Bench's format and an engine whose answers are written beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.eq_bench.run import run_eq_bench
from ratchet.evaluate.results import TaskResult
from ratchet.plan.task_parts import Files
from ratchet.plan.tasks import EqBench
from ratchet.serving.requests import Answer, ChatRequest, Request

NAMES = ("Calm", "Sad", "Proud", "Angry")
RIGHT = "Calm: 1\nSad: 2\nProud: 3\nAngry: 4"


class Scripted:
    """An engine whose answers are a function of prompt and seed; it keeps what it was asked, call by call."""

    def __init__(self, say: Callable[[str, int], str], reason: str = "stop") -> None:
        self.say, self.reason = say, reason
        self.calls: list[list[ChatRequest]] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        chats = [request for request in requests if isinstance(request, ChatRequest)]
        assert len(chats) == len(requests)
        self.calls.append(chats)
        return [Answer(self.say(chat.turns[-1].content, chat.sampling.seed or 0), self.reason) for chat in chats]

    def answer_groups(self, groups: Any) -> dict[str, list[Answer]]:
        return {name: self.answer(requests) for name, requests in groups.items()}


def record(number: int, names: Sequence[str] = NAMES, **changes: Any) -> dict[str, Any]:
    """A question of EQ-Bench's format whose full scores are 1 to 4, which sum to 10."""
    form = "\n".join(f"{name}: <score>" for name in names)
    reference = {f"emotion{n}": name for n, name in enumerate(names, 1)}
    reference |= {f"emotion{n}_score": n for n in range(1, 5)}
    prompt = (
        f"\nDialogue {number}.\n\nGive scores. Then critique your answer. Give new ones.\n\nIn this form:\n\n"
        f"First pass scores:\n{form}\n\nCritique: <yours>\n\nRevised scores:\n{form}\n\n[End of answer]\n\nAll of it.\n"
    )
    return {"prompt": prompt, "reference_answer": reference, "reference_answer_fullscale": reference} | changes


def written(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def asked(tmp_path: Path, count: int, engine: Scripted, **settings: Any) -> TaskResult:
    path = written(tmp_path / "own.json", {str(number): record(number) for number in range(1, count + 1)})
    task = EqBench(kind="eq_bench", questions=Files(path=str(path)), **settings)
    return run_eq_bench("feelings", task, Candidate(engine, None, 4096, "scripted"))


def references(question: dict[str, Any]) -> dict[str, dict[str, float]]:
    """References by version, read by other means than the code under test."""
    keys = {"v1": "reference_answer", "v2": "reference_answer_fullscale"}
    return {
        version: {question[key][f"emotion{n}"]: float(question[key][f"emotion{n}_score"]) for n in range(1, 5)}
        for version, key in keys.items()
    }


def both(first: str, revised: str) -> str:
    return f"First pass scores:\n{first}\n\nCritique: hm.\n\nRevised scores:\n{revised}\n\n[End of answer]"
