"""The trainer's own forward pass as an engine: a model, a table and rows in, scores out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ratchet.pairs.table import TokenTable
from ratchet.reference.models import Passes, ScoringModel
from ratchet.reference.store import Logps


class Rater(Protocol):
    """An engine in a process of its own; it holds one model at a time."""

    def rate(self, model: ScoringModel, table: TokenTable, rows: Any) -> Logps:
        """Return the scores of `rows` in their order. Raises DataError, ModelError."""

    def halve(self) -> None:
        """Take half as much at a time from now on: the process before this one died."""


class TrainerRater:
    """Scores by `model.forward`; `share` is the part of the memory that this process may take."""

    def __init__(self, passes: Passes, device: str, share: float) -> None:
        self.sharing, self.device, self.share = passes.sharing, device, share
        self.budget, self.halved = passes.token_budget, False
        self._model: ScoringModel | None = None
        self._scorer: Any = None

    def rate(self, model: ScoringModel, table: TokenTable, rows: Any) -> Logps:
        """Return the scores of `rows` in their order. Raises ModelError."""
        if model != self._model:
            self._scorer = None  # the old model's memory goes before the new one's comes
            self.hold(model, self._load(model))
        if self.budget is None:
            self.budget = fitting_budget(self._scorer, table, rows, self.device, self.share)
            if self.halved:
                self.halve()
        return score_rows(self._scorer, table, rows, self.budget, self.device)

    def hold(self, model: ScoringModel, loaded: Any) -> None:
        """Score from now on with `loaded`, which is `model` as `load_model` gives it, to the bit. Raises ModelError."""
        from ratchet.model.forward import PairScorer

        # bitsandbytes has put its weights where they belong.
        on_device = loaded if model.quantise else loaded.to(self.device)
        self._scorer, self._model = PairScorer(on_device, sharing=self.sharing).eval(), model

    def halve(self) -> None:
        """Take half as many tokens at a time, now or once it is found how many."""
        self.halved = True
        if self.budget is not None:
            self.budget = max(1, self.budget // 2)

    def _load(self, model: ScoringModel) -> Any:
        from ratchet.model.load import load_model

        trusted, quantise = model.trust_remote_code, model.quantise
        return load_model(model.folder, model.dtype, trust_remote_code=trusted, quantise=quantise)


def score_rows(scorer: Any, table: TokenTable, rows: Any, token_budget: int, device: str) -> Logps:
    """Return the scores of `rows` in their order; forward alone, at most `token_budget` tokens at a time."""
    import torch

    from ratchet.model.forward import by_side
    from ratchet.model.passes import batches, divide_passes

    place = {int(row): at for at, row in enumerate(rows)}
    # NaN, so that a row that no part covered is found when the scores are proved.
    out = np.full((4, len(rows)), np.nan)
    (micros,) = divide_passes(table.__getitem__, rows, scorer.packing, token_budget, 1, backward=False)
    with torch.inference_mode():
        for micro, made in batches(micros, table.__getitem__, scorer.packing):
            batch = made.to(device)
            logps_S = scorer(batch)
            if micro.role != "score":
                continue
            sides = by_side(batch, logps_S)
            columns = (sides.chosen_B, sides.rejected_B, sides.chosen_tokens_B, sides.rejected_tokens_B)
            for line, column in zip(out, columns, strict=True):
                line[[place[int(row)] for row in micro.rows]] = column.double().cpu().numpy()
    return Logps(out[0], out[1], out[2].astype(np.int32), out[3].astype(np.int32))


def fitting_budget(scorer: Any, table: TokenTable, rows: Any, device: str, share: float) -> int:
    """Return the tokens of a pass that fit into this process's `share` of memory, by trying the longest of `rows`."""
    import torch

    from ratchet.model import memory
    from ratchet.model.divide import filling
    from ratchet.model.forward import score

    longest = rows[np.argsort(-table.lengths_N3[rows].sum(1), kind="stable")]
    on = torch.device(device)

    def peak_at(budget: int) -> int:
        pairs = filling((table[int(row)] for row in longest), scorer.packing, budget)
        with torch.inference_mode():
            return memory.taken_by(lambda: score(scorer, pairs, device), on)

    return memory.largest_budget(peak_at, int(share * memory.SHARE * memory.available(on)), on)
