"""Generate answers on a pool of processes with Ray Data; a thin shell over `evaluate.generate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.evaluate.generate import Answerer
from ratchet.pairs.pair import Ids
from ratchet.reference.gone import gone_afterwards, sign


class _BatchAnswerer:
    def __init__(self, make: Callable[[], Answerer], max_new_tokens: int, register: Any) -> None:
        self.make, self.max_new_tokens, self.register = make, max_new_tokens, register

    @functools.cached_property
    def answerer(self) -> Answerer:
        """The model; loaded with the first batch, because an error in a constructor comes back without its cause."""
        return self.make()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        sign(self.register)
        prompts = [np.frombuffer(prompt, dtype=np.int32) for prompt in item["prompts"]]
        return {"batch": item["batch"], "answers": self.answerer.answer(prompts, self.max_new_tokens)}


def generate(
    folder: Path,
    prompts: Sequence[Ids],
    *,
    dtype: str,
    batch: int,
    max_new_tokens: int,
    actors: int,
    gpus: float,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
) -> list[str]:
    """Return one greedy answer for each prompt, in order. Prompts are batched by length.

    Batches are fixed here, so the answers do not depend on how many actors there are.
    """
    if not prompts:
        return []
    import ray

    device = "cuda" if gpus else "cpu"
    make = functools.partial(
        Answerer, folder, dtype, device, chat_template=chat_template, trust_remote_code=trust_remote_code
    )
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    items = [
        {"batch": n, "prompts": [np.asarray(prompts[i], dtype=np.int32).tobytes() for i in places]}
        for n, places in enumerate(batches)
    ]
    answers = [""] * len(prompts)
    with gone_afterwards() as register:
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _BatchAnswerer,
            fn_constructor_args=(make, max_new_tokens, register),
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(items))),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        for row in dataset.iter_rows():
            for place, answer in zip(batches[row["batch"]], row["answers"], strict=True):
                answers[place] = str(answer)
    return answers
