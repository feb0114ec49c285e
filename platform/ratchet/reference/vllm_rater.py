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
from ratchet.reference.models import EngineChoice, ScoringModel
from ratchet.reference.store import Logps
from ratchet.serving.served import Served, context, with_one_restart
from ratchet.serving.vllm import VllmEngine


class VllmRater:
    """Scores pairs as token ids. `models` are all that will be asked for, `longest` the longest sequence's tokens.

    A model that is another one with an adapter is served as these two, on the running engine if that holds the other
    one. A model of the same shape as the previous one replaces it in the engine.
    """

    def __init__(self, choice: EngineChoice, models: Sequence[ScoringModel], longest: int, *, gpu: bool) -> None:
        # Of all models that will come: an engine takes the rank and targets of adapters once, when it starts.
        adapters = [model.adapter for model in models if model.adapter is not None]
        self.choice, self.longest, self.gpu = choice, longest, gpu
        self.rank = max((adapter.rank for adapter in adapters), default=0)
        self.targets = tuple(sorted({target for adapter in adapters for target in adapter.targets}))
        self.halved = False
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
                code="data.deadly",
            )

        return with_one_restart(lambda: self._rate(model, pairs), self.halve, failed)

    def halve(self) -> None:
        """Close the engine; the next one, and those after it, take half as much at a time as the first."""
        self.halved = True
        self._close()

    def _rate(self, model: ScoringModel, pairs: list[TokenisedPair]) -> Logps:
        # One position less, as vLLM draws a token behind what it scores.
        _refuse_longer(pairs, context(model.folder) - 1, model.folder)
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
        wanted = self._served(model)
        if self._engine is not None:
            held = self._engine.served
            # Precision and the rest must agree too: a reload puts in weights, and nothing else.
            alike = held == dataclasses.replace(wanted, folder=held.folder)
            if held == wanted or (alike and self._engine.reload(wanted.folder)):
                return self._engine
        self._close()
        self._engine = VllmEngine(wanted)
        self.starts += 1
        return self._engine

    def _served(self, model: ScoringModel) -> Served:
        folder = model.adapter.base if model.adapter else model.folder
        served = Served(
            folder,
            model.dtype,
            min(self.longest + 1, context(folder)),  # vLLM draws a token, which is thrown away
            self.gpu,
            tensor_parallel=self.choice.tensor_parallel,
            quantisation=self.choice.quantisation,
            trust_remote_code=model.trust_remote_code,
            adapter_rank=self.rank,
            adapter_targets=self.targets,
        )
        return served.halved() if self.halved else served

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _refuse_longer(pairs: list[TokenisedPair], longest: int, folder: Path) -> None:
    ids = [pair.pair_id for pair in pairs if len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) > longest]
    if ids:
        raise DataError(
            f"{len(ids)} pairs have more than the {longest} tokens that vLLM can score with this model: {some(ids)}",
            where=str(folder),
            fix="lower the stage's max_length (vLLM needs one position more than a pair has), or set reference.engine "
            "to trainer",
        )
