"""Log-probabilities on disk: one row for each pair, in blocks, joined by pair id.

    store/logps/<fp>/block-000000.parquet   pair_id, chosen, rejected, chosen_tokens, rejected_tokens
    store/logps/<fp>/block-000000.sha256    the block's SHA-256, as `sha256sum -c` reads it
    store/logps/<fp>/record.json            written last, once every block is there and proved

A finished pass of many blocks has them in one file (`pack`). A block is held against its digest before it is read, also
in an unfinished folder; one that is not as it was written, or has no digest, is scored again, and no other.

The identity holds what decides the numbers: tokens, which rows, weights, code, precision, engine. It holds no names, no
β and no learning rate. So every stage, epoch, run and trial that asks for the same scores finds them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptError, DataError, some
from ratchet.pairs.table import TokenTable, open_table
from ratchet.reference.models import ScoreJob, Scores
from ratchet.reference.pack import MOST_BLOCKS, is_packed, read_pack, remove_pack, sound_blocks, write_pack
from ratchet.store.files import write_bytes
from ratchet.store.fingerprint import digest_once
from ratchet.store.record import NAME, Record, examine_folder, finished_record, read_record, write_record

_log = logging.getLogger(__name__)

BLOCK = 256
"""Pairs in one block: what a kill can cost, and one unit of work of a scoring process."""

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("chosen", pa.float64()),
        ("rejected", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
    ]
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
PairIds: TypeAlias = Sequence[str] | pa.ChunkedArray


@dataclasses.dataclass(frozen=True)
class Logps:
    """Summed answer log-probabilities in nats, shape (N,), in the order of the ids asked for."""

    chosen: Floats
    rejected: Floats
    chosen_tokens: Ints
    rejected_tokens: Ints

    def at(self, rows: npt.NDArray[np.int64]) -> Logps:
        """Return the scores of some rows, in that order."""
        return Logps(self.chosen[rows], self.rejected[rows], self.chosen_tokens[rows], self.rejected_tokens[rows])


def joined(parts: Sequence[Logps]) -> Logps:
    """Return several scores as one, in their order."""
    names = [field.name for field in dataclasses.fields(Logps)]
    return Logps(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def sample_rows(rows: int, size: int) -> tuple[int, ...] | None:
    """Return a fixed sample of `size` row numbers in rising order, or None where that is all of them."""
    if size >= rows:
        return None
    # The key is in no identity: another one would let every run score another sample.
    return tuple(np.sort(np.random.Generator(np.random.Philox(key=0)).permutation(rows)[:size]).tolist())


def blocks(rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block number, first row, end row) over `rows` rows."""
    for number, start in enumerate(range(0, rows, BLOCK)):
        yield number, start, min(start + BLOCK, rows)


def block_path(folder: Path, number: int) -> Path:
    """Return where a block lies."""
    return folder / f"block-{number:06d}.parquet"


def write_block(folder: Path, number: int, pair_ids: Sequence[str], logps: Logps) -> None:
    """Write one block whole or not at all, its digest first. Raises StorageError."""
    table = pa.table([pair_ids, logps.chosen, logps.rejected, logps.chosen_tokens, logps.rejected_tokens], SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path, data = block_path(folder, number), buffer.getvalue()
    # A kill between the two leaves a digest without a block, which is made; the other way round it would be made again.
    write_bytes(_digest_path(path), _digest_line(path, hashlib.sha256(data).hexdigest()))
    write_bytes(path, data)


def missing_blocks(folder: Path, rows: int) -> list[tuple[int, int, int]]:
    """Return the blocks that are not there, or not as they were written: those are removed.

    So are blocks that `rows` rows do not have. One warning names what a finished folder lacks, and what was damaged.
    """
    wanted = {block_path(folder, number): (number, start, end) for number, start, end in blocks(rows)}
    told = examine_folder(folder) if (folder / NAME).exists() else None
    unpack_blocks(folder)
    damaged = {path.name: fault for path in wanted if path.exists() and (fault := block_fault(path))}
    damaged |= {path.name: "does not belong to it" for path in block_paths(folder) if path not in wanted}
    told = [f"{name} {fault}" for name, fault in damaged.items()] if told is None else told
    for name in damaged:
        remove_block(folder / name)
    missing = [block for path, block in wanted.items() if not path.exists()]
    if told and not isinstance(told, Record):
        _log.warning("%s is damaged (%s): %d of its blocks are scored again", folder, some(told), len(missing))
    return missing


def block_fault(path: Path) -> str:
    """Return what is wrong with a block that is there, in words; nothing where it is as it was written."""
    try:
        written = _digest_path(path).read_bytes()
    except FileNotFoundError:
        return "has no digest"
    return "" if written == _digest_line(path, digest_once(path)) else "does not have the bytes that were written"


def unpack_blocks(folder: Path) -> int:
    """Give back the sound blocks of a packed file, which goes, and return how many. The folder's lease must be held."""
    given = list(sound_blocks(folder))
    for number, rows in given:
        if not block_path(folder, number).exists():
            write_block(folder, number, rows["pair_id"].to_pylist(), _logps_of(rows))
    remove_pack(folder)
    return len(given)


def finish(folder: Path, record: Record, rows: pa.Table) -> None:
    """Write the record of a folder whose `rows` are proved; many blocks become one file. Raises StorageError."""
    paths = block_paths(folder)
    if len(paths) <= MOST_BLOCKS:
        write_record(folder, record, finished_files(folder))
        return
    names = write_pack(folder, [rows.slice(start, end - start) for _, start, end in blocks(len(rows))])
    write_record(folder, record, names)
    for path in paths:
        remove_block(path)


def remove_block(path: Path) -> None:
    """Remove a block and its digest."""
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)


def _digest_path(block: Path) -> Path:
    return block.with_suffix(".sha256")


def _digest_line(block: Path, digest: str) -> bytes:
    return f"{digest}  {block.name}\n".encode()


def block_paths(folder: Path) -> list[Path]:
    """Return the blocks in `folder`, by number."""
    return sorted(folder.glob("block-*.parquet"))


def finished_files(folder: Path) -> list[str]:
    """Return the names of the files that a finished folder is made of."""
    return [name for path in block_paths(folder) for name in (path.name, _digest_path(path).name)]


def read_block(path: Path) -> pa.Table:
    """Return the rows of a block once its bytes are known to be those that were written. Raises CorruptError."""
    fault = block_fault(path)
    if not fault:
        try:
            return pq.read_table(path, schema=SCHEMA)
        except (pa.ArrowInvalid, OSError) as error:
            fault = f"is no block of scores: {error}"
    raise CorruptError(
        f"the block {fault}",
        where=str(path),
        fix="run again: its pairs are scored again, and no others",
        code="corrupt.scores",
    )


def prove(folder: Path, pair_ids: PairIds) -> dict[str, Any]:
    """Check that the blocks hold exactly one finite row ≤ 0 for each pair id, and return the counts.

    Raises DataError with the counts where they do not.
    """
    return proved(scored_rows(folder), folder, pair_ids)


def proved(table: pa.Table, folder: Path, pair_ids: PairIds) -> dict[str, Any]:
    """As `prove`, of a folder's rows that were read."""
    wanted = _column(pair_ids)
    ids = table["pair_id"]
    absent, foreign = (len(some) - pc.sum(pc.is_in(some, of)).as_py() for some, of in ((wanted, ids), (ids, wanted)))
    doubled = len(ids) - pc.count_distinct(ids).as_py()
    bad = ids.filter(pa.array(_not_scores(_logps_of(table))))
    if absent or foreign or doubled or len(bad):
        raise DataError(
            f"scores do not match their pairs: {absent} absent, {foreign} foreign, {doubled} doubled, "
            f"{len(bad)} not finite or above 0 {bad[:3].to_pylist()}",
            where=str(folder),
            fix="if a model scores NaN, look at its weights and precision; then delete the folder",
            code="data.other-pairs",
        )
    return {
        "pairs": table.num_rows,
        "tokens": int(pc.sum(table["chosen_tokens"]).as_py() or 0) + int(pc.sum(table["rejected_tokens"]).as_py() or 0),
    }


def read_logps(folders: Sequence[Path], pair_ids: PairIds) -> Logps:
    """Return the scores of `pair_ids`, joined by id from any of `folders`, in that order.

    Raises DataError with counts where an id has no score or a score is not finite.
    """
    return find_logps({folder: scored_rows(folder) for folder in folders}, pair_ids)


def find_logps(scored: Mapping[Path, pa.Table], pair_ids: PairIds) -> Logps:
    """Return the scores of `pair_ids`, joined by id, from folders' rows that were read. Raises as `read_logps`."""
    folders, wanted = list(scored), _column(pair_ids)
    table = pa.concat_tables(scored.values()) if scored else SCHEMA.empty_table()
    found = pc.index_in(wanted, value_set=table["pair_id"].combine_chunks())
    if found.null_count:
        raise DataError(
            f"{found.null_count} of {len(wanted)} pairs have no reference score, first "
            f"{wanted.filter(pc.is_null(found))[0].as_py()}",
            where=", ".join(map(str, folders)),
            fix="run again: what is not there is scored again",
            code="data.no-score",
        )
    logps = _logps_of(table.take(found))
    bad = ~np.isfinite(logps.chosen) | ((logps.rejected_tokens > 0) & ~np.isfinite(logps.rejected))
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} reference scores are not finite, first {wanted[int(bad.argmax())]}",
            where=", ".join(map(str, folders)),
            fix="look at the reference model",
            code="data.score-not-finite",
        )
    return logps


def read_all(folder: Path) -> Logps:
    """Return all scores of a finished folder, in the order in which they were made. Raises CorruptError."""
    return _logps_of(scored_rows(folder))


def ids_in(folder: Path) -> list[str]:
    """Return the ids of the pairs that a folder has scores of, in the order in which they were made."""
    return [str(one) for one in scored_rows(folder)["pair_id"].to_pylist()]


def _not_scores(logps: Logps) -> npt.NDArray[np.bool_]:
    """Mark the rows with a number that no answer's log-probability can be."""
    # A demonstration has no rejected answer: no tokens, and NaN for its score.
    right = np.isfinite(logps.chosen) & (logps.chosen <= 0)
    return ~right | ((logps.rejected_tokens > 0) & ~(np.isfinite(logps.rejected) & (logps.rejected <= 0)))


def _column(pair_ids: PairIds) -> pa.ChunkedArray:
    return pair_ids if isinstance(pair_ids, pa.ChunkedArray) else pa.chunked_array([pair_ids], pa.string())


def scored_rows(folder: Path) -> pa.Table:
    """Return a folder's rows in the order in which they were made; each file is opened once. Raises CorruptError."""
    record = read_record(folder)
    return block_rows(folder) if record is None or not is_packed(record) else read_pack(folder, record)


def block_rows(folder: Path) -> pa.Table:
    """Return the rows of a folder's blocks, which a pass that is not finished has. Raises CorruptError."""
    tables = [read_block(path) for path in block_paths(folder)]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def _logps_of(rows: pa.Table) -> Logps:
    return Logps(*(rows[key].to_numpy() for key in SCHEMA.names[1:]))


def read_job(job: ScoreJob, scored: Scores) -> Logps:
    """Return a job's scores in the order of its rows."""
    return read_logps([scored.folder], _table(job).pair_ids())


def ids_of(job: ScoreJob) -> list[str]:
    """Return the ids of a job's pairs, in the order of its rows."""
    return list(_table(job).pair_ids().to_pylist())


def holds(job: ScoreJob, pair_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mark the ids of pairs that a job scores; of the job's own ids nothing is kept."""
    found = pc.is_in(pa.array(pair_ids, pa.string()), value_set=_table(job).pair_ids())
    return found.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _table(job: ScoreJob) -> TokenTable:
    table = open_table([job.file], [1.0], 0)
    return table if job.rows is None else table.subset(job.rows)


def job_size(job: ScoreJob) -> int:
    """Return the pairs of a job."""
    return len(job.rows) if job.rows is not None else int(finished_record(Path(job.tokens_folder)).counts[job.split])
