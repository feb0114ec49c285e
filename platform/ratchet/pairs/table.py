"""Token tables: the rows that a stage trains on, read from memory-mapped Arrow files.

A row is found by an index into the table; the table maps it to a file and a row of that file.
Nothing is held in memory but that mapping and the lengths, 24 bytes a row: ids and tokens stay in the files.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.errors import CorruptError, DataError
from ratchet.pairs.lean import lean_arrow
from ratchet.pairs.pair import Ids, TokenisedPair
from ratchet.store.record import checked

lean_arrow()
SIDES = ("prompt", "chosen", "rejected")
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        *((side, pa.list_(pa.int32())) for side in SIDES),
        ("edit_distance", pa.float32()),
        ("dialogue", pa.string()),
    ]
)


class _File:
    """One memory-mapped Arrow IPC file."""

    def __init__(self, path: Path) -> None:
        try:
            # A changed bit may end the process that reads it, so the file's digest is compared first.
            with pa.memory_map(str(checked(path))) as source:
                self.batches = _batches(pa.ipc.open_file(source))
        except FileNotFoundError:
            fix = "run the plan again: it is made again"
            raise DataError("no such token file", where=str(path), fix=fix, code="data.no-file") from None
        except pa.ArrowInvalid as error:
            raise CorruptError(
                f"not an Arrow file: {error}",
                where=str(path),
                fix="delete its folder; it will be made again",
                code="corrupt.table",
            ) from error
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self.rows = int(self.starts[-1])

    @functools.cached_property
    def _lists(self) -> list[tuple[tuple[Ids, Ids], ...]]:
        """(offsets, values) of each side, for each batch, without a copy."""
        return [tuple(_list_arrays(batch.column(side)) for side in SIDES) for batch in self.batches]

    def strings(self, column: str) -> list[pa.Array]:
        """The pieces of a column of strings, without a copy."""
        return [batch.column(column) for batch in self.batches]

    def drawn_by(self) -> Iterator[str]:
        """What decides whether each row is in a share: its dialogue, or its own id."""
        for ids, dialogues in zip(self.strings("pair_id"), self.strings("dialogue"), strict=True):
            yield from pc.coalesce(dialogues, ids).to_pylist()

    def lengths(self) -> npt.NDArray[np.int32]:
        sides = [np.stack([np.diff(offsets) for offsets, _ in batch], axis=1) for batch in self._lists]
        return np.concatenate([np.zeros((0, len(SIDES)), np.int32), *sides]).astype(np.int32)

    def pair_id(self, row: int) -> str:
        at, i = self._place(row)
        return str(self.batches[at].column("pair_id")[i].as_py())

    def pair(self, row: int) -> TokenisedPair:
        at, i = self._place(row)
        sides = (values[offsets[i] : offsets[i + 1]] for offsets, values in self._lists[at])
        return TokenisedPair(self.pair_id(row), *sides)

    def _place(self, row: int) -> tuple[int, int]:
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return at, row - int(self.starts[at])


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Rows of a table that stand several times: the number of each row's pair, which copy it is (from 0), of how many.

    All int64, shape (N,).
    """

    of_N: npt.NDArray[np.int64]
    number_N: npt.NDArray[np.int64]
    count_N: npt.NDArray[np.int64]


class TokenTable:
    """Rows of one or more token files, in the files' order.

    `lengths_N3` are the N rows' int32 counts of prompt, chosen and rejected tokens; `file_of_N` the
    index into `files` that each row comes from, int32, and `row_of_N` its row there, int64;
    `duplicates` how many rows were left out because an earlier row has the same id; `demonstrations`
    whether any row has no rejected answer. A table can be pickled: it travels as its files and row numbers.
    """

    def __init__(
        self, files: Sequence[Path], file_of_N: npt.NDArray[np.int32], row_of_N: npt.NDArray[np.int64], duplicates: int
    ) -> None:
        self.files, self.duplicates = tuple(files), duplicates
        self.file_of_N, self.row_of_N = file_of_N, row_of_N
        self._open = [_File(path) for path in self.files]
        self.lengths_N3: npt.NDArray[np.int32] = np.zeros((len(row_of_N), len(SIDES)), np.int32)
        for k, file in enumerate(self._open):
            here = file_of_N == k
            self.lengths_N3[here] = file.lengths()[row_of_N[here]]

    @functools.cached_property
    def prompt_of_N(self) -> npt.NDArray[np.int64]:
        """The number of each row's prompt: rows with one prompt_id have one number, whatever file they are in."""
        numbers = self._strings("prompt_id").dictionary_encode().combine_chunks().indices
        return numbers.to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]

    def together_of_N(self, *, prompts: bool) -> npt.NDArray[np.int64] | None:
        """Return a number for each row: rows that come together in an epoch have one. None where none do.

        Demonstrations of a dialogue come together, and so do copies of one number; with `prompts` rows of a prompt too.
        """
        dialogues = self._strings("dialogue")
        if dialogues.null_count == len(dialogues):
            return self.prompt_of_N if prompts else None
        codes = dialogues.dictionary_encode().combine_chunks().indices
        dialogue_of_N = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        repeats = self.repeats
        alone_of_N = np.arange(len(self)) if repeats is None else repeats.of_N
        others_of_N = self.prompt_of_N if prompts else alone_of_N
        found: npt.NDArray[np.int64] = np.where(
            dialogue_of_N >= 0, dialogue_of_N, others_of_N + 1 + dialogue_of_N.max()
        )
        return found

    @functools.cached_property
    def repeats(self) -> Repeats | None:
        """Which rows are one pair of one file, where any stands more than once."""
        place_N = self.file_of_N.astype(np.int64) << 48 | self.row_of_N
        _, of_N, count = np.unique(place_N, return_inverse=True, return_counts=True)
        if len(count) == len(place_N):
            return None
        order = np.argsort(of_N, kind="stable")
        number_N = np.empty(len(order), np.int64)
        number_N[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        return Repeats(of_N.astype(np.int64), number_N, count[of_N].astype(np.int64))

    def pair_ids(self) -> pa.ChunkedArray:
        """Return the rows' pair ids, in order: a copy of strings that are in the files."""
        return self._strings("pair_id")

    def _strings(self, column: str) -> pa.ChunkedArray:
        pieces = [piece for file in self._open for piece in file.strings(column)]
        first_row = np.cumsum([0, *(file.rows for file in self._open)])
        return pa.chunked_array(pieces, pa.string()).take(pa.array(first_row[self.file_of_N] + self.row_of_N))

    @property
    def demonstrations(self) -> bool:
        return bool((self.lengths_N3[:, 2] == 0).any())

    def __len__(self) -> int:
        return len(self.row_of_N)

    def __getitem__(self, index: int) -> TokenisedPair:
        return self._file(index).pair(int(self.row_of_N[index]))

    def pair_id(self, index: int) -> str:
        """Return the id of the pair at `index`."""
        return self._file(index).pair_id(int(self.row_of_N[index]))

    def _file(self, index: int) -> _File:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)}")
        return self._open[int(self.file_of_N[index])]

    def __iter__(self) -> Iterator[TokenisedPair]:
        return (self[i] for i in range(len(self)))

    def subset(self, indexes: Sequence[int] | npt.NDArray[np.int64]) -> TokenTable:
        """Return the table of the rows at `indexes`, in that order."""
        picked = np.asarray(indexes, dtype=np.int64)
        return TokenTable(self.files, self.file_of_N[picked], self.row_of_N[picked], 0)

    def __reduce__(self) -> tuple[Any, ...]:
        # Files are mapped again where it arrives: workers on one host share the pages of the system's cache.
        return TokenTable, (self.files, self.file_of_N, self.row_of_N, self.duplicates)


def open_table(files: Sequence[Path], shares: Sequence[float], seed: int) -> TokenTable:
    """Return the table of `files`, in order; of each file, its share of rows.

    A share of 0.5 is half of a file's rows, one of 3 has each three times, one after the other, and 1.5 is all and half
    of them again: share × rows in all, rounded. A part is the rows of the lowest seeded hashes of pair_ids. A pair_id
    that stands in two files is kept where it stands first, as often as that file has it. Raises DataError for a missing
    file, CorruptError for a broken one.
    """
    opened = [_File(path) for path in files]
    copies = [_copies(file, share, seed) for file, share in zip(opened, shares, strict=True)]
    picked = [np.flatnonzero(count) for count in copies]
    file_of_N = np.repeat(np.arange(len(files), dtype=np.int32), [len(rows) for rows in picked])
    row_of_N = np.concatenate([np.zeros(0, np.int64), *picked])
    every = TokenTable(files, file_of_N, row_of_N, 0)
    # Arrow numbers equal strings in its own memory. A Python set of ids takes many times as much.
    numbers = every.pair_ids().dictionary_encode().combine_chunks().indices.to_numpy(zero_copy_only=False)
    first = np.sort(np.unique(numbers, return_index=True)[1])
    pa.default_memory_pool().release_unused()  # of the ids, which nothing holds any more
    times = np.concatenate([np.zeros(0, np.int64), *(count[rows] for count, rows in zip(copies, picked, strict=True))])
    kept = np.repeat(first, times[first])
    if len(kept) == len(every) == len(first):
        return every
    return TokenTable(files, file_of_N[kept], row_of_N[kept], int(times.sum()) - len(kept))


def _copies(file: _File, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return how often each row of a file is taken."""
    whole, part = divmod(round(share * file.rows), max(file.rows, 1))
    found = np.full(file.rows, whole, np.int64)
    if part:
        # By a hash, so that a smaller share is part of a larger one and no order matters.
        # Demonstrations of a dialogue are drawn one after the other: a share cuts one dialogue at most.
        drawn = np.fromiter((_place_of(seed, one) for one in file.drawn_by()), np.int64, file.rows)
        found[np.argsort(drawn, kind="stable")[:part]] += 1
    return found


def _place_of(seed: int, pair_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{pair_id}".encode()).digest()[:7], "big")


def copies_of(seed: int, pair_id: str, share: float) -> int:
    """Return how often a pair is in a stage's share of its source, where its other pairs are not at hand: about."""
    return int(share) + (_place_of(seed, pair_id) / 2**56 < share % 1)


def _batches(reader: Any) -> list[Any]:
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _list_arrays(column: Any) -> tuple[Ids, Ids]:
    return column.offsets.to_numpy(), column.values.to_numpy()
