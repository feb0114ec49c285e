"""Token tables: the rows that a stage trains on, read from memory-mapped Arrow files.

A row is found by an index into the table; the table maps it to a file and a row of that file.
Nothing is held in memory but the mapping, the ids and the lengths.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ratchet.errors import CorruptError, DataError
from ratchet.pairs.pair import Ids, TokenisedPair

SIDES = ("prompt", "chosen", "rejected")
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        *((side, pa.list_(pa.int32())) for side in SIDES),
        ("edit_distance", pa.float32()),
    ]
)


class _File:
    """One memory-mapped Arrow IPC file."""

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                self.batches = _batches(pa.ipc.open_file(source))
        except FileNotFoundError:
            raise DataError("no such token file", where=str(path), fix="run the plan again: it is made anew") from None
        except pa.ArrowInvalid as error:
            raise CorruptError(
                f"not an Arrow file: {error}", where=str(path), fix="delete its folder; it will be made again"
            ) from error
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self.rows = int(self.starts[-1])

    @functools.cached_property
    def _lists(self) -> list[tuple[tuple[Ids, Ids], ...]]:
        """(offsets, values) of each side, for each batch, without a copy."""
        return [tuple(_list_arrays(batch.column(side)) for side in SIDES) for batch in self.batches]

    def ids(self) -> list[str]:
        return [pair_id for batch in self.batches for pair_id in batch.column("pair_id").to_pylist()]

    def prompts(self) -> Any:
        """The prompt ids, as one Arrow array."""
        return pa.concat_arrays([batch.column("prompt_id") for batch in self.batches] or [pa.array([], pa.string())])

    def lengths(self) -> npt.NDArray[np.int32]:
        sides = [np.stack([np.diff(offsets) for offsets, _ in batch], axis=1) for batch in self._lists]
        return np.concatenate([np.zeros((0, len(SIDES)), np.int32), *sides]).astype(np.int32)

    def pair(self, row: int, pair_id: str) -> TokenisedPair:
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        i = row - int(self.starts[at])
        sides = (values[offsets[i] : offsets[i + 1]] for offsets, values in self._lists[at])
        return TokenisedPair(pair_id, *sides)


class TokenTable:
    """Rows of one or more token files, in the files' order.

    `pair_ids` are the N rows' ids; `prompt_of_N` numbers their prompts, int64; `lengths_N3` are their
    int32 counts of prompt, chosen and rejected tokens; `file_of_N` the index into
    `files` that each row comes from; `duplicates` how many rows were left out because an earlier row
    has the same id; `demonstrations` whether any row has no
    rejected answer. A table can be pickled: it travels as its files and row numbers.
    """

    def __init__(
        self, files: Sequence[Path], file_of_N: npt.NDArray[np.int32], row_of_N: npt.NDArray[np.int64], duplicates: int
    ) -> None:
        self.files, self.duplicates = tuple(files), duplicates
        self.file_of_N, self.row_of_N = file_of_N, row_of_N
        self._open = [_File(path) for path in self.files]
        ids = [np.array(file.ids(), dtype=object) for file in self._open]
        lengths = [file.lengths() for file in self._open]
        self.pair_ids: list[str] = [""] * len(row_of_N)
        self.lengths_N3: npt.NDArray[np.int32] = np.zeros((len(row_of_N), len(SIDES)), np.int32)
        id_of_N = np.empty(len(row_of_N), dtype=object)
        for k in range(len(self.files)):
            here = file_of_N == k
            id_of_N[here], self.lengths_N3[here] = ids[k][row_of_N[here]], lengths[k][row_of_N[here]]
        self.pair_ids = id_of_N.tolist()
        self.prompt_of_N = self._number_prompts()

    def _number_prompts(self) -> npt.NDArray[np.int64]:
        """Number the prompts of all files: rows with one prompt_id have one number, whatever file they are in."""
        first_row = np.cumsum([0, *(file.rows for file in self._open)])
        prompts = pa.concat_arrays([pa.array([], pa.string()), *(file.prompts() for file in self._open)])
        numbers = prompts.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers[first_row[self.file_of_N] + self.row_of_N]  # type: ignore[no-any-return]

    @property
    def demonstrations(self) -> bool:
        return bool((self.lengths_N3[:, 2] == 0).any())

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __getitem__(self, index: int) -> TokenisedPair:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)}")
        file: _File = self._open[self.file_of_N[index]]
        return file.pair(int(self.row_of_N[index]), self.pair_ids[index])

    def __iter__(self) -> Iterator[TokenisedPair]:
        return (self[i] for i in range(len(self)))

    def subset(self, indexes: Sequence[int] | npt.NDArray[np.int64]) -> TokenTable:
        """Return the table of the rows at `indexes`, in that order."""
        picked = np.asarray(indexes, dtype=np.int64)
        return TokenTable(self.files, self.file_of_N[picked], self.row_of_N[picked], 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, (self.files, self.file_of_N, self.row_of_N, self.duplicates)


def open_table(files: Sequence[Path], shares: Sequence[float], seed: int) -> TokenTable:
    """Return the table of `files`, in order; of each file, its share of rows.

    A share below 1 keeps the rows whose seeded hash of the pair_id falls below it, so a smaller
    share is part of a larger one and no order matters. A pair_id that stands in two files is kept
    where it stands first. Raises DataError for a missing file, CorruptError for a broken one.
    """
    file_of: list[npt.NDArray[np.int32]] = []
    row_of: list[npt.NDArray[np.int64]] = []
    seen: set[str] = set()
    duplicates = 0
    for k, (path, share) in enumerate(zip(files, shares, strict=True)):
        ids = _File(path).ids()
        picked = [row for row, pair_id in enumerate(ids) if share >= 1 or _unit(seed, pair_id) < share]
        kept = []
        for row in picked:
            if ids[row] not in seen:
                seen.add(ids[row])
                kept.append(row)
        duplicates += len(picked) - len(kept)
        row_of.append(np.array(kept, dtype=np.int64))
        file_of.append(np.full(len(kept), k, dtype=np.int32))
    empty = np.zeros(0, np.int64)
    return TokenTable(
        files, np.concatenate([empty, *file_of]).astype(np.int32), np.concatenate([empty, *row_of]), duplicates
    )


def _unit(seed: int, pair_id: str) -> float:
    """A number in [0, 1) that only `seed` and `pair_id` decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{pair_id}".encode()).digest()[:7], "big") / 2**56


def _batches(reader: Any) -> list[Any]:
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _list_arrays(column: Any) -> tuple[Ids, Ids]:
    return column.offsets.to_numpy(), column.values.to_numpy()
