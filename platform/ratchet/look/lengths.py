"""How long a source's pairs are, what each length limit costs, and which of them cannot be written at all.

Lengths are counted in bins of one, so that quantiles are exact and memory does not grow with the rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.documents.data_report import DataPlace, Quantiles
from ratchet.pairs.estimate import CHARACTERS_A_TOKEN
from ratchet.pairs.left_out import Lost
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.pair_table import SIDES, read_pairs
from ratchet.pairs.refusals import Refusal, RefusalReason
from ratchet.pairs.style import Style
from ratchet.pairs.tokens import Encoded, Policy, fit, tokenise

UNLIMITED = Policy(2**31 - 1, "drop")
_BATCH = 256
_BINS = 40
_EXAMPLES = 5
TO_LOSE = {"0": 0.0, "1 %": 0.01, "5 %": 0.05}
"""Shares of pairs that a limit may cost, under the names that the report has for them."""


class LengthCounts:
    """How many things have which length."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(1024, np.int64)

    def add(self, lengths: npt.NDArray[np.int64]) -> None:
        """Count some more."""
        found = np.bincount(lengths, minlength=len(self._counts))
        found[: len(self._counts)] += self._counts
        self._counts = found

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self._counts.sum())

    def to_lose(self, share: float) -> int:
        """Return the least limit that leaves out at most this share of them."""
        kept = np.cumsum(self._counts)
        return int(np.searchsorted(kept, kept[-1] - int(share * kept[-1])))

    def quantiles(self) -> Quantiles:
        """Return the least, some quantiles and the most. There must be one at least."""
        kept = np.cumsum(self._counts)
        # The length of the thing at such a place, were they sorted; the first and the last are at the ends.
        places = [1, *(max(1, int(np.ceil(share * kept[-1]))) for share in (0.5, 0.9, 0.95, 0.99)), kept[-1]]
        least, p50, p90, p95, p99, most = (int(np.searchsorted(kept, place)) for place in places)
        return Quantiles(least, p50, p90, p95, p99, most)

    def histogram(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return edges and counts of some 40 equal bins; what is above the 99.5th percentile is in the last one."""
        kept = np.cumsum(self._counts)
        top = max(int(np.searchsorted(kept, int(np.ceil(0.995 * kept[-1])))), 1)
        width = -(-(top + 1) // _BINS)
        starts = np.arange(0, top + 1, width)
        counts = np.add.reduceat(self._counts, starts)  # the last one takes all that is above
        return (*starts.astype(float).tolist(), float(starts[-1] + width)), tuple(map(int, counts))


@dataclasses.dataclass
class Written:
    """What became of a source's pairs as tokens, or, without a tokenizer, as characters.

    `refused` are pairs that cannot be written. `too_long` and `trimmed` are of each policy, `train` and
    `heldout` the pairs that it leaves.
    """

    in_tokens: bool
    parts: dict[str, LengthCounts] = dataclasses.field(default_factory=dict)
    read: int = 0
    refused: Counter[RefusalReason] = dataclasses.field(default_factory=Counter)
    first_refused: list[DataPlace] = dataclasses.field(default_factory=list)
    too_long: dict[Policy, Counter[RefusalReason]] = dataclasses.field(default_factory=dict)
    trimmed: Counter[Policy] = dataclasses.field(default_factory=Counter)
    train: Counter[Policy] = dataclasses.field(default_factory=Counter)
    heldout: Counter[Policy] = dataclasses.field(default_factory=Counter)
    first_too_long: dict[Policy, list[DataPlace]] = dataclasses.field(default_factory=dict)
    waiting: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def count(self, part: str, length: int) -> None:
        """Count a length of a part, once `settle` is called."""
        self.waiting.setdefault(part, []).append(length)

    def settle(self) -> None:
        """Count what waits."""
        for part, lengths in self.waiting.items():
            self.parts.setdefault(part, LengthCounts()).add(np.array(lengths, np.int64))
        self.waiting.clear()

    def lost(self, name: str, policy: Policy) -> Lost:
        """Return what a policy costs the source, as a run says it."""
        reasons = Counter(self.refused) + self.too_long[policy]
        return Lost(name, self.read, reasons, policy.max_length, self.longest)

    @property
    def longest(self) -> int | None:
        """The length of the longest pair."""
        return self.parts["total"].quantiles().most if "total" in self.parts else None

    def first(self, policy: Policy, reasons: Mapping[RefusalReason, int]) -> list[DataPlace]:
        """Return the first pairs that some reasons leave out."""
        every = [*self.first_refused, *self.first_too_long[policy]]
        return [place for place in every if place.text.partition(":")[0] in reasons][:_EXAMPLES]


def write_all(
    folder: Path, tokenizer: Any, style: Style | None, policies: Sequence[Policy], tell: Callable[[int], None]
) -> Written:
    """Return the lengths of all pairs of a folder; in characters where there is no tokenizer, or no style."""
    written = Written(tokenizer is not None and style is not None)
    written.too_long = {policy: Counter() for policy in policies}
    written.first_too_long = {policy: [] for policy in policies}
    for side in SIDES:
        path = folder / f"{side}.parquet"
        if style is None or tokenizer is None:
            for number, pair in enumerate(read_pairs(path), 1):
                _count_characters(written, pair, policies, train=side == "train")
                if number % _BATCH == 0:
                    written.settle()
                    tell(written.read)
        else:
            for table in _tables(path):
                for row in tokenise(table, tokenizer, style, UNLIMITED).to_pylist():
                    _count_tokens(written, row, style, train=side == "train")
                written.settle()
                tell(written.read)
        written.settle()
    return written


def _tables(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_BATCH):
            yield pa.Table.from_batches([batch])


def _count_tokens(written: Written, row: Mapping[str, Any], style: Style, *, train: bool) -> None:
    written.read += 1
    if row["reason"] is not None:
        reason = RefusalReason(row["reason"])
        written.refused[reason] += 1
        if written.refused[reason] <= _EXAMPLES:
            written.first_refused.append(DataPlace(row["file"], row["row"], f"{reason}: {row['detail']}"))
        return
    pair = Encoded(row["prompt"], row["chosen"], row["rejected"])
    _count_sides(written, len(pair.prompt), len(pair.chosen), len(pair.rejected) or None)
    total = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
    for policy, reasons in written.too_long.items():
        fitted = fit(pair, style, policy) if total > policy.max_length else pair
        if isinstance(fitted, Refusal):
            reasons[fitted.reason] += 1
            if reasons[fitted.reason] <= _EXAMPLES:
                place = DataPlace(row["file"], row["row"], f"{fitted.reason}: {fitted.detail}")
                written.first_too_long[policy].append(place)
            continue
        written.trimmed[policy] += fitted.trimmed
        written.train[policy] += train
        written.heldout[policy] += not train


def _count_characters(written: Written, pair: PreferencePair, policies: Sequence[Policy], *, train: bool) -> None:
    """Count characters; so many of them are taken for a policy's token, and what it costs is a guess."""
    written.read += 1
    prompt, chosen = sum(map(_size, pair.prompt)), _size(pair.chosen)
    rejected = None if pair.rejected is None else _size(pair.rejected)
    _count_sides(written, prompt, chosen, rejected)
    answer = max(chosen, rejected or 0)
    for policy in policies:
        room = policy.max_length * CHARACTERS_A_TOKEN
        if answer >= room or (prompt + answer > room and policy.overlong == "drop"):
            written.too_long[policy][RefusalReason.ANSWER_TOO_LONG if answer >= room else RefusalReason.TOO_LONG] += 1
            continue
        written.trimmed[policy] += prompt + answer > room
        written.train[policy] += train
        written.heldout[policy] += not train


def _size(turn: Turn) -> int:
    return sum(map(len, turn.texts))


def _count_sides(written: Written, prompt: int, chosen: int, rejected: int | None) -> None:
    """Count the lengths of a pair; a demonstration has no rejected answer, and 0 would count as one."""
    written.count("prompt", prompt)
    written.count("chosen", chosen)
    if rejected is not None:
        written.count("rejected", rejected)
    written.count("total", prompt + max(chosen, rejected or 0))
