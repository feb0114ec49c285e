"""The engines that run a model under evaluation."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ratchet.errors import DataError, EngineDeathError, PlanError, some
from ratchet.pairs.chat import ChatTemplate
from ratchet.plan.cluster import Cluster
from ratchet.reference.models import Model
from ratchet.serving import vllm
from ratchet.serving.requests import Answer, Engine, Request, request_words
from ratchet.serving.served import Served, with_one_restart
from ratchet.serving.vllm import VllmEngine

# Positions that vLLM keeps memory for.
_VLLM_LONGEST = 16_384


class RevivingVllm:
    """Holds one engine, made with the first requests. Raises ModelError, DataError where it dies twice over some."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.engine: VllmEngine | None = None

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order."""

        def failed(error: EngineDeathError) -> DataError:
            asked = some([request_words(request) for request in requests])
            return DataError(
                f"vLLM died twice over {len(requests)} requests ({error.what}): {asked}",
                where=str(self.served.folder),
                fix="ask for shorter answers or fewer at a time, or give the engine more memory",
                code="data.deadly",
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
        self.served = self.served.halved()


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that an engine is to hold, on what: `longest` is in positions, `quantise` in how many bits."""

    model: Model
    chat_template: ChatTemplate | None
    tokenizer: Any
    longest: int
    cluster: Cluster
    quantise: str | None

    @property
    def gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return bool(self.cluster.gpus_per_worker)


@dataclasses.dataclass(frozen=True)
class EngineKind:
    """A kind of engine. No column has a default.

    libraries      names and versions of those that give the last bits
    positions      the model's positions in, those that a prompt and its answer may have out
    gpus           how many GPUs one process holds
    make           returns what makes the engine, in another process
    check          raises PlanError, at the key where it is asked for, where it is not installed
    """

    libraries: Callable[[], str]
    positions: Callable[[int], int]
    gpus: Callable[[Cluster], float]
    make: Callable[[Subject], Callable[[], Engine]]
    check: Callable[[str], object]


def need_vllm(where: str) -> str:
    """Return the version of vLLM, which is asked for at `where`. Raises PlanError where none is installed."""
    version = vllm.version()
    if version is None:
        raise PlanError(
            "vLLM is not installed",
            where=where,
            fix="install it (docs/install.md), or set the engine to trainer",
            code="plan.no-engine",
        )
    return version


def _trainer_libraries() -> str:
    # Without what follows a +, such as cpu: `engine_label` says by itself what it ran on.
    return ", ".join(
        f"{name} {importlib.metadata.version(name).partition('+')[0]}" for name in ("transformers", "torch")
    )


def _trainer(subject: Subject) -> Callable[[], Engine]:
    # Here, as torch and transformers take seconds to load, and naming an engine needs neither.
    from ratchet.evaluate.engines.local import LocalEngine

    return functools.partial(
        LocalEngine,
        subject.model.folder,
        subject.model.dtype,
        "cuda" if subject.gpu else "cpu",
        chat_template=subject.chat_template,
        trust_remote_code=subject.model.trust_remote_code,
        quantise=subject.quantise,
    )


def _vllm(subject: Subject) -> Callable[[], Engine]:
    from ratchet.evaluate.engines.local import end_ids_of

    served = Served(
        subject.model.folder,
        subject.model.dtype,
        min(subject.longest, _VLLM_LONGEST),
        subject.gpu,
        tensor_parallel=subject.cluster.tensor_parallel,
        trust_remote_code=subject.model.trust_remote_code,
        tokenizer=True,
        chat_template=subject.chat_template,
        end_ids=end_ids_of(subject.tokenizer),
    )
    return functools.partial(RevivingVllm, served)


ENGINES: Mapping[str, EngineKind] = {
    "trainer": EngineKind(
        libraries=_trainer_libraries,
        positions=lambda longest: longest,
        gpus=lambda cluster: cluster.gpus_per_worker,
        make=_trainer,
        check=lambda where: None,
    ),
    "vllm": EngineKind(
        libraries=lambda: f"vllm {vllm.version()}",
        # It draws one token after a text that it scores, and counts the last of a text among its positions.
        positions=lambda longest: min(longest, _VLLM_LONGEST) - 2,
        gpus=lambda cluster: cluster.gpus_per_worker and max(cluster.gpus_per_worker, cluster.tensor_parallel),
        make=_vllm,
        check=need_vllm,
    ),
}
"""The rows by the name that a suite's `engine` gives."""


def engine_kind(name: str) -> EngineKind:
    """Return the row of an engine. Raises PlanError on an unknown one."""
    if name not in ENGINES:
        raise PlanError(f"no engine is called {name!r}", fix=f"use one of {', '.join(ENGINES)}")
    return ENGINES[name]


def engine_label(name: str, *, gpu: bool) -> str:
    """Return who runs a model: engine, version, and on what; other ones give other last bits."""
    return f"{engine_kind(name).libraries()}, {'cuda' if gpu else 'cpu'}"
