"""The engines that run a model under evaluation."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence

from ratchet.errors import DataError, EngineDeathError, some
from ratchet.serving import vllm
from ratchet.serving.requests import Answer, Request, describe
from ratchet.serving.restart import with_one_restart
from ratchet.serving.vllm import Served, VllmEngine


class RevivingVllm:
    """Holds one engine, made with the first requests. Raises ModelError, DataError where it dies twice over some."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.engine: VllmEngine | None = None

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order."""

        def failed(error: EngineDeathError) -> DataError:
            asked = some([describe(request) for request in requests])
            return DataError(
                f"vLLM died twice over {len(requests)} requests ({error.what}): {asked}",
                where=str(self.served.folder),
                fix="ask for shorter answers or fewer at a time, or give the engine more memory",
            )

        return with_one_restart(lambda: self._answer(requests), self._halve, failed)

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        if self.engine is None:
            self.engine = VllmEngine(self.served)
        return self.engine.answer(requests)

    def _halve(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        self.served = dataclasses.replace(self.served, batched_tokens=max(1, self.served.batched_tokens // 2))


def engine_label(engine: str, *, gpu: bool) -> str:
    """Return who runs a model: engine, version, and on what; other ones give other last bits."""
    where = "cuda" if gpu else "cpu"
    if engine == "vllm":
        return f"vllm {vllm.version()}, {where}"
    libraries = (f"{name} {importlib.metadata.version(name).partition('+')[0]}" for name in ("transformers", "torch"))
    return ", ".join([*libraries, where])
