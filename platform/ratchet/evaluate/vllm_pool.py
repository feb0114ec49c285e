"""Answers by vLLM on a pool of processes with Ray Data, each of them journalled as it comes."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import DataError, EngineDeathError, some
from ratchet.reference.attempts import MOST, attempt
from ratchet.reference.gone import gone_afterwards, sign
from ratchet.reference.score import deadly
from ratchet.serving.journal import Journal
from ratchet.serving.requests import Answer, Request, describe, key_of
from ratchet.serving.restart import with_one_restart
from ratchet.serving.vllm import Served, VllmEngine


class BatchAnswerer:
    """Holds one engine; Ray Data keeps it alive in its own process."""

    def __init__(self, served: Served, notes: Path, run: str, register: Any) -> None:
        self.served, self.notes, self.run, self.register = served, notes, run, register
        self.engine: VllmEngine | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        requests: list[Request] = item["requests"].value
        sign(self.register)
        with attempt(self.notes.with_name(f"{self.notes.stem}-{item['batch']}"), self.run) as deaths:
            if deaths >= MOST:
                raise deadly([describe(request) for request in requests], self.notes, deaths)
            if deaths:
                self._halve()
            answers = self._twice(requests)
        sign(self.register)  # again: an engine may have started processes of its own
        return {"batch": item["batch"], "answers": _Kept(answers)}

    def _twice(self, requests: list[Request]) -> list[Answer]:

        def failed(error: EngineDeathError) -> DataError:
            asked = some([describe(request) for request in requests])
            return DataError(
                f"vLLM died twice over {len(requests)} requests ({error.what}): {asked}",
                where=str(self.served.folder),
                fix="ask for shorter answers or fewer at a time, or give the engine more memory",
            )

        return with_one_restart(lambda: self._answer(requests), self._halve, failed)

    def _answer(self, requests: list[Request]) -> list[Answer]:
        # Not in the constructor: an error there comes back from Ray Data without its cause.
        if self.engine is None:
            self.engine = VllmEngine(self.served)
        return self.engine.answer(requests)

    def _halve(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        self.served = dataclasses.replace(self.served, batched_tokens=max(1, self.served.batched_tokens // 2))


class _Kept:
    """Python objects that Ray Data is to carry as they are."""

    def __init__(self, value: Any) -> None:
        self.value = value


class VllmPool:
    """An engine (`serving.requests.Engine`) of `actors` processes, each with one vLLM engine of `gpus` GPUs.

    `name` stands for the model in the journal: its content digest, so that another model's answers
    are never taken for this one's.
    """

    def __init__(self, served: Served, name: str, journal: Journal, *, actors: int, gpus: float, batch: int) -> None:
        self.served, self.name, self.journal = served, name, journal
        self.actors, self.gpus, self.batch = actors, gpus, batch

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order; those in the journal are not asked for.

        Equal requests are one. Raises ModelError, StorageError, DataError where engines die
        over some; what was answered is kept.
        """
        keys = [key_of(self.name, request) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.journal}
        if missing:
            self._ask(list(missing.values()))
        return [self.journal.find(key) for key in keys]

    def _ask(self, requests: list[Request]) -> None:
        import ray

        batches = [requests[i : i + self.batch] for i in range(0, len(requests), self.batch)]
        items = [{"batch": n, "requests": _Kept(some)} for n, some in enumerate(batches)]
        with gone_afterwards() as register:
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
                BatchAnswerer,
                fn_constructor_args=(self.served, self.journal.path, uuid.uuid4().hex, register),
                compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(items))),
                num_cpus=1,
                num_gpus=self.gpus or None,
            )
            for row in dataset.iter_rows():
                for request, answer in zip(batches[row["batch"]], row["answers"].value, strict=True):
                    self.journal.append(self.name, request, answer)
