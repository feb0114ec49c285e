"""vLLM as an engine of scores: one engine in the process, moved from model to model without waste."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.errors import DataError, EngineDeathError, some
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.table import TokenTable
from ratchet.reference.jobs import EngineChoice, ScoringModel
from ratchet.reference.store import Logps
from ratchet.serving.restart import with_one_restart
from ratchet.serving.vllm import Served, VllmEngine


class VllmRater:
    """Scores pairs as token ids. `models` are all that will be asked for, `longest` the longest sequence's tokens.

    A model that is another one with an adapter is served as that one and its adapter, on the engine
    that is up if it holds it. A model of the same shape as the one before it is loaded in its place.
    """

    def __init__(self, choice: EngineChoice, models: Sequence[ScoringModel], longest: int, *, gpu: bool) -> None:
        adapters = [model.adapter for model in models if model.adapter is not None]
        self.choice, self.longest, self.gpu = choice, longest, gpu
        self.rank = max((adapter.rank for adapter in adapters), default=0)
        self.targets = tuple(sorted({target for adapter in adapters for target in adapter.targets}))
        self.halvings = 0
        self.starts = 0
        self._engine: VllmEngine | None = None

    def rate(self, model: ScoringModel, table: TokenTable, rows: Any) -> Logps:
        """Return the scores of `rows` in their order.

        An engine that dies is started again, once, with half as much at a time. Raises DataError
        with the pairs' ids where it dies again, or where a pair is longer than the model allows.
        """
        pairs = [table[int(row)] for row in rows]
        ids = [pair.pair_id for pair in pairs]

        def failed(error: EngineDeathError) -> DataError:
            return DataError(
                f"vLLM died twice over {len(ids)} pairs ({error.what}): {some(ids)}",
                where=str(model.folder),
                fix="lower the stage's max_length, give the engine more memory, or set reference.engine to trainer",
            )

        return with_one_restart(lambda: self._rate(model, pairs), self.halve, failed)

    def halve(self) -> None:
        """Close the engine; the next one takes half as much at a time."""
        self.halvings += 1
        self._close()

    def _rate(self, model: ScoringModel, pairs: list[TokenisedPair]) -> Logps:
        engine = self._holding(model)
        sequences = [
            (np.concatenate([pair.prompt, side]), len(pair.prompt))
            for pair in pairs
            for side in (pair.chosen, pair.rejected)
            if len(side)
        ]
        sums = iter(engine.answer_logps(sequences, model.adapter.folder if model.adapter else None).tolist())
        sides = [[next(sums) if len(side) else np.nan for side in (pair.chosen, pair.rejected)] for pair in pairs]
        both: npt.NDArray[np.float64] = np.array(sides, np.float64).reshape(-1, 2)
        counts = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs], np.int32).reshape(-1, 2)
        return Logps(both[:, 0], both[:, 1], counts[:, 0], counts[:, 1])

    def _holding(self, model: ScoringModel) -> VllmEngine:
        """Return the engine with `model` in it: as it is, with other weights, or a new one."""
        folder = model.adapter.base if model.adapter else model.folder
        if self._engine is not None and self._engine.served.folder == folder:
            return self._engine
        if self._engine is not None and self._engine.reload(folder):
            return self._engine
        self._close()
        self._engine = VllmEngine(self._served(model, folder))
        self.starts += 1
        return self._engine

    def _served(self, model: ScoringModel, folder: Path) -> Served:
        served = Served(
            folder,
            model.dtype,
            self.longest + 1,  # vLLM draws a token, which is thrown away
            self.gpu,
            tensor_parallel=self.choice.tensor_parallel,
            quantisation=self.choice.quantisation,
            trust_remote_code=model.trust_remote_code,
            adapter_rank=self.rank,
            adapter_targets=self.targets,
        )
        return dataclasses.replace(served, batched_tokens=max(1, served.batched_tokens >> self.halvings))

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
