"""What attention needs to know of a token forest: its chains, and the masks that all layers share.

Legend: _T rows of the forest, kept ones first; _K scored rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ratchet.model.last_layer import scored_chains
from ratchet.model.segments import SegmentGroup, groups_of, segments_of
from ratchet.model.tree import Chain
from ratchet.model.windows import depths, windowed


class TreePlan:
    """What attention needs to know of a `Forest`; masks are made once and serve all layers.

    The first `kept` rows of keys are those of a path that was computed before: they have no queries. `scored_K` are the
    rows whose hidden states are read, int64, rising; without them all are. With `window` a row sees so many rows, the
    last of its path and itself.
    """

    def __init__(
        self,
        chains: tuple[Chain, ...],
        end_T: Tensor,
        scored_K: Tensor | None = None,
        *,
        kept: int = 0,
        window: int | None = None,
    ) -> None:
        self.whole = chains
        self.chains = chains if window is None else windowed(chains, window)
        self.end_T, self.scored_K, self.kept, self.window = end_T, scored_K, kept, window
        self._masks: dict[tuple[int, int, torch.dtype], Tensor] = {}
        self._within: dict[int, TreePlan] = {}

    def to(self, device: torch.device | str) -> TreePlan:
        """Return the plan on `device`; from pinned memory the copy does not wait."""
        scored_K = None if self.scored_K is None else self.scored_K.to(device, non_blocking=True)
        end_T = self.end_T.to(device, non_blocking=True)
        return TreePlan(self.whole, end_T, scored_K, kept=self.kept, window=self.window)

    def within(self, window: int | None) -> TreePlan:
        """Return the plan of a layer whose rows see `window` rows at most; None is any number."""
        if window is None or self.deepest <= window:
            return self
        if window not in self._within:
            self._within[window] = TreePlan(self.whole, self.end_T, kept=self.kept, window=window)
        return self._within[window]

    @functools.cached_property
    def deepest(self) -> int:
        """The rows of the longest path."""
        return max((chain.above + chain.stop - chain.start for chain in self.whole), default=0)

    def mask(self, chain: Chain, dtype: torch.dtype) -> Tensor | None:
        """Return a chain's additive mask (1, 1, own rows, ancestors and own rows); None is plain causal."""
        if chain.lead or not (chain.ancestors or chain.banded):
            return None
        own, above = chain.stop - chain.start, chain.above
        if (own, above, dtype) not in self._masks:
            mask = torch.full((own, above + own), -math.inf, dtype=dtype).triu(above + 1)
            if chain.banded and chain.window is not None:
                mask += torch.full_like(mask, -math.inf).tril(above - chain.window)
            self._masks[own, above, dtype] = mask[None, None]
        return self._masks[own, above, dtype]

    def own(self, queries_BHTD: Tensor, chain: Chain) -> Tensor:
        """Return a chain's own rows of what has a row for each query: a view."""
        return queries_BHTD.narrow(2, chain.start - self.kept, chain.stop - chain.start)

    @functools.cached_property
    def last(self) -> TreePlan:
        """The plan of the last layer."""
        if self.scored_K is None:
            return self
        return TreePlan(scored_chains(self.whole, (self.scored_K + self.kept).tolist()), self.end_T, kept=self.kept)

    @functools.cached_property
    def by_segments(self) -> tuple[Tensor, list[int], list[SegmentGroup], Tensor]:
        """The forest for layers that carry a state: the rows of all groups of segments in their order, how many each
        group has, the groups, and where among those rows each row of the forest is.
        """
        groups = groups_of(segments_of(self.whole))
        rows_X = np.concatenate([group.rows_SL.reshape(-1) for group in groups]) - self.kept
        back_T = np.zeros(len(self.end_T) - self.kept, np.int64)
        back_T[rows_X[::-1]] = np.arange(len(rows_X))[::-1]  # of a row that is repeated the first
        rows, back = (torch.from_numpy(some).to(self.end_T.device) for some in (rows_X, back_T))
        return rows, [group.rows_SL.size for group in groups], groups, back

    @functools.cached_property
    def sees(self) -> list[Tensor]:
        """Whom each chain's rows see, bool, shape (own rows, ancestors and own rows)."""
        found = []
        for chain in self.chains:
            own, above = chain.stop - chain.start, chain.above
            seen = torch.ones(own, above + own, dtype=torch.bool, device=self.end_T.device).tril(above)
            found.append(seen.triu(above + 1 - chain.window) if chain.banded and chain.window is not None else seen)
        return found

    @functools.cached_property
    def dense(self) -> Tensor:
        """Who sees whom, bool, shape (queries, keys)."""
        row = torch.arange(len(self.end_T), device=self.end_T.device)
        query = row[self.kept :, None]
        seen = (row[None] <= query) & (query < self.end_T[None])
        if self.window is None:
            return seen
        depth_T = self._depth_T
        return seen & (depth_T[self.kept :, None] - depth_T[None] < self.window)

    @functools.cached_property
    def _depth_T(self) -> Tensor:
        return torch.tensor(depths(self.whole, len(self.end_T)), device=self.end_T.device)

    @functools.cached_property
    def blocks(self) -> Any:
        """The forest as a FlexAttention block mask."""
        # Uncompiled code writes out all rows by all rows on the way.
        return self.block_mask(compiled=self.end_T.is_cuda)

    def block_mask(self, *, compiled: bool) -> Any:
        """Return the block mask."""
        end_T, rows, kept, window = self.end_T, len(self.end_T), self.kept, self.window

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query + kept) & (query + kept < end_T[key])

        if window is None:
            return _mask_maker(compiled)(sees, None, None, rows - kept, rows, device=end_T.device)
        depth_T = self._depth_T

        def sees_near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sees(batch, head, query, key) & (depth_T[query + kept] - depth_T[key] < window)

        return _mask_maker(compiled)(sees_near, None, None, rows - kept, rows, device=end_T.device)


@functools.cache
def _mask_maker(compiled: bool) -> Callable[..., Any]:
    """Torch's maker of block masks; compiled once, for any row count."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True) if compiled else create_block_mask
