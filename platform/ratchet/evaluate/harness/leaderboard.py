"""The leaderboard of 2023: what lm-evaluation-harness b281b09 asked, said of today's task objects.

Its documents were shuffled by `Random(42)`, and the same generator then drew each document's examples; HellaSwag and
Winogrande drew them from their train split; GSM8K stopped at other strings and took an answer with a final dot for
wrong; nothing ever began with a BOS token. All else about the six tasks' requests is the same today: a test holds
hashes of the old harness's requests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ratchet.errors import PlanError
from ratchet.plan.tasks import Harness

# Examples before each question, as the leaderboard said them.
OPENLLM_V1 = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5}
_GSM8K_STOPS = (":", "Question:", "Question")
_SEED = 42


def check_openllm_v1(asked: Harness) -> None:
    """Raise PlanError where a task of a suite is not the leaderboard's."""
    if asked.task not in OPENLLM_V1:
        raise PlanError(
            f"openllm-v1 is the leaderboard of 2023, which had no {asked.task}",
            fix=f"its tasks are {', '.join(OPENLLM_V1)}; for others leave profile out",
            code="plan.task",
        )
    if asked.shots not in {None, OPENLLM_V1[asked.task]}:
        raise PlanError(
            f"openllm-v1 asks {asked.task} with {OPENLLM_V1[asked.task]} examples, not {asked.shots}",
            fix="leave shots out, or profile",
            code="plan.task",
        )
    if asked.include is not None:
        raise PlanError(
            "openllm-v1 knows lm-eval's own definitions alone", fix="leave include out, or profile", code="plan.task"
        )


def apply_openllm_v1(name: str, task: Any) -> None:
    """Give a leaf of the leaderboard task `name` its settings of 2023."""
    task.set_config(key="num_fewshot", value=OPENLLM_V1[name])
    if task.fewshot_cfg.split is None:
        task.fewshot_cfg.split = task.config.training_split
    if name == "gsm8k":
        task.config.generation_kwargs = {"until": list(_GSM8K_STOPS), "do_sample": False, "temperature": 0.0}
        strict = next(pipeline for pipeline in task._filters if pipeline.name == "strict-match")
        strict.filters.insert(1, _KeepFinalDot)  # after the pattern, before the first of its finds is taken


class _KeepFinalDot:
    """A filter of lm-eval's kind: `18.` is no `18`, as it was none in 2023."""

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        """Return what the filter before found, each answer's list as it was."""
        # Today's comparison drops a dot at the very end, which a space after it prevents.
        return [[f"{text} " if text.endswith(".") else text for text in found] for found in resps]


def order_of(task: Any, profile: str, count: int, limit: int | None) -> Sequence[int]:
    """Return which of a task's `count` documents are asked, in the order in which their examples are drawn."""
    order = list(range(count))
    if profile == "openllm-v1":
        generator = random.Random(_SEED)
        generator.shuffle(order)
        task.sampler.rnd = generator  # from here on the same generator draws examples
    return order[:limit]
