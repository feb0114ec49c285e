"""Who scores the blocks of a pass: processes that each hold one engine, over Ray Data, or without a Ray this one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.errors import DataError, some
from ratchet.pairs.table import TokenTable, open_table
from ratchet.reference.models import EngineChoice, Passes, ScoringModel
from ratchet.reference.processes import MOST, attempt, gone_afterwards, sign
from ratchet.reference.rate import Rater, TrainerRater
from ratchet.reference.store import block_path, write_block
from ratchet.store import warned
from ratchet.store.machine import keep_to_threads, on_ray

Item = dict[str, Any]
"""A block to score: its table, rows and folder, and the place of its model among those of the pass."""
Spread = Callable[[list[ScoringModel], list[Item]], AbstractContextManager[Iterator[dict[str, Any]]]]
"""What scores the blocks of a pass: within it, what `BlockScorer` says of each comes as the block is written."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The processes that score: how many, what each of them takes, and how it lays out pairs.

    Without a Ray the calling process is the only one.
    """

    actors: int
    gpus: float
    passes: Passes


class BlockScorer:
    """Scores one block at a time. Ray Data keeps it alive in its own process, which `sign_in` makes known."""

    def __init__(
        self,
        make_rater: Callable[[], Rater],
        models: Sequence[ScoringModel],
        run: str,
        sign_in: Callable[[], None],
        warnings: str | None,
    ) -> None:
        warned.send(warnings)
        keep_to_threads()
        self.make_rater, self.models, self.run, self.sign_in = make_rater, models, run, sign_in
        self.tables: dict[str, TokenTable] = {}

    @functools.cached_property
    def rater(self) -> Rater:
        """The engine; made with the first block, because an error in a constructor comes back without its cause."""
        return self.make_rater()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["file"] not in self.tables:
            self.tables[item["file"]] = open_table([Path(item["file"])], [1.0], 0)
        table = self.tables[item["file"]]
        rows, folder = np.asarray(item["rows"]), Path(item["folder"])
        ids = [table.pair_id(int(row)) for row in rows]
        started = time.monotonic()
        self.sign_in()
        with attempt(block_path(folder, item["block"]), self.run) as deaths:
            if deaths >= MOST:
                raise deadly(ids, folder, deaths)
            if deaths:
                self.rater.halve()
            logps = self.rater.rate(self.models[item["model"]], table, rows)
            write_block(folder, item["block"], ids, logps)
        self.sign_in()  # again: an engine may have started processes of its own
        return {"pairs": len(rows), "seconds": time.monotonic() - started, "folder": item["folder"]}


def in_pool(pool: Pool, engine: EngineChoice) -> Spread:
    """Return what scores blocks in the processes of a pool, or in this one where there is no Ray."""

    @contextlib.contextmanager
    def spread(models: list[ScoringModel], items: list[Item]) -> Iterator[Iterator[dict[str, Any]]]:
        if on_ray():
            with gone_afterwards() as register:
                yield _on_ray(models, items, engine, pool, register)
        else:
            make = _maker(models, items, engine, dataclasses.replace(pool, actors=1))
            yield map(BlockScorer(make, models, uuid.uuid4().hex, lambda: None, warned.destination()), items)

    return spread


def _on_ray(
    models: list[ScoringModel], items: list[Item], engine: EngineChoice, pool: Pool, register: Any
) -> Iterator[dict[str, Any]]:
    """Return what the pool's processes say of each item as it is done; they sign the register."""
    import ray

    make, sign_in = _maker(models, items, engine, pool), functools.partial(sign, register)
    # A foreign engine may be spread over more GPUs than a worker of the training has.
    gpus = max(pool.gpus, engine.tensor_parallel) if pool.gpus and engine.foreign else pool.gpus
    # A block of Ray Data for each item, or a process would be handed several at once, and report them together.
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        BlockScorer,
        fn_constructor_args=(make, models, uuid.uuid4().hex, sign_in, warned.destination()),
        # No more processes than blocks: each holds a whole engine.
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(items))),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    rows: Iterator[dict[str, Any]] = dataset.iter_rows()
    return rows


def _maker(models: list[ScoringModel], items: list[Item], engine: EngineChoice, pool: Pool) -> Callable[[], Rater]:
    """Return what makes a process's engine."""
    if not engine.foreign:
        # Of a GPU what Ray gives it; the machine's memory is divided among the processes.
        share = min(1.0, pool.gpus) if pool.gpus else 1 / pool.actors
        return functools.partial(TrainerRater, pool.passes, "cuda" if pool.gpus else "cpu", share)
    from ratchet.reference.vllm_rater import VllmRater

    return functools.partial(VllmRater, engine, tuple(models), _longest(items), gpu=bool(pool.gpus))


def _longest(items: list[dict[str, Any]]) -> int:
    """Return the tokens of the longest sequence of all tables: the same for all processes, and after a restart."""
    lengths = [open_table([Path(file)], [1.0], 0).lengths_N3 for file in {item["file"] for item in items}]
    return max(int((rows_N3[:, 0] + rows_N3[:, 1:].max(1)).max()) for rows_N3 in lengths)


def deadly(ids: Sequence[str], folder: Path, deaths: int) -> DataError:
    """Return the error of a block that kills every process that begins it."""
    return DataError(
        f"{deaths} processes died over the same {len(ids)}: {some(ids)}",
        where=str(folder),
        fix="if memory ran out (see the kernel's log), lower cluster.score_actors, or take shorter ones",
    )
