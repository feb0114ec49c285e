"""The loss of some rows, as training and the held-out check both compute it, and work prepared one step ahead.

Legend: _N rows of the table, _B pairs of one micro-batch, _K metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ratchet.losses.preference import PairLogps, bound_loss, pair_metrics, rewards_of, sft
from ratchet.model.batch import SequenceBatch
from ratchet.model.divide import Micro, Role
from ratchet.model.forward import Scorer, by_side
from ratchet.model.passes import batches, divide_passes
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.table import Repeats
from ratchet.train.batches import Rows, epoch_order
from ratchet.train.communicate import Communicator
from ratchet.train.engine import TrainingEngine
from ratchet.train.spec import TrainSpec

T = TypeVar("T")
_END = object()
_LOOK_SECONDS = 0.1


class Table(Protocol):
    """Tokenised pairs by row; `lengths_N3` counts the tokens of prompt, chosen and rejected, and rows
    with the same number in `prompt_of_N` have the same prompt. `repeats` says which rows are copies, and
    `file_of_N` which of its files each row is from.
    """

    lengths_N3: npt.NDArray[np.int32]
    file_of_N: npt.NDArray[np.int32]

    @property
    def prompt_of_N(self) -> Rows: ...
    def together_of_N(self, *, prompts: bool) -> Rows | None: ...
    @property
    def repeats(self) -> Repeats | None: ...
    def pair_id(self, index: int) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> TokenisedPair: ...


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference's summed log-probabilities of a table's rows, float64, shape (N,), nats."""

    chosen_N: npt.NDArray[np.float64]
    rejected_N: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Data:
    """A table with its reference; `reference` is None where the loss has none."""

    table: Table
    reference: Reference | None


@dataclasses.dataclass(frozen=True)
class Work:
    """One forward pass, prepared: its pairs and their ids, their weight in the loss (1, or 0 for a stand-in), the
    model's input, and the reference's log-probabilities, (2, B) float64 chosen then rejected, 0 without one.

    A pass whose role is not ``score`` is over a prompt that stays across passes, and has no pairs.
    """

    pairs: tuple[TokenisedPair, ...]
    ids: tuple[str, ...]
    weight: float
    batch: SequenceBatch
    reference_2B: Tensor
    role: Role = "score"

    def to(self, device: torch.device) -> Work:
        """Return the work on `device`; from pinned memory the copy does not wait."""
        moved = self.reference_2B.to(device, non_blocking=True)
        return dataclasses.replace(self, batch=self.batch.to(device), reference_2B=moved)


def prepare(spec: TrainSpec, data: Data, micro: Micro, batch: SequenceBatch, *, pin: bool = False) -> Work:
    """Return the work of one forward pass, on the CPU (with `pin` in pinned memory)."""
    rows = micro.rows if micro.role == "score" else micro.rows[:0]
    # 0 where the loss reads no reference: a Work has the same form for every kind.
    known = np.zeros((2, len(rows)))
    if data.reference is not None:
        known = np.stack([data.reference.chosen_N[rows], data.reference.rejected_N[rows]])
    reference_2B = torch.from_numpy(known.astype(np.float64))
    return Work(
        pairs=tuple(data.table[int(row)] for row in rows),
        ids=tuple(data.table.pair_id(int(row)) for row in rows),
        weight=micro.weight,
        batch=batch,
        reference_2B=reference_2B.pin_memory() if pin else reference_2B,
        role=micro.role,
    )


def passes_over(
    spec: TrainSpec,
    data: Data,
    rows: Rows,
    engine: TrainingEngine,
    token_budget: int,
    communicator: Communicator,
    *,
    backward: bool = True,
) -> Iterator[Work]:
    """Yield this worker's forward passes over `rows`, as many as every other worker has, and of the same kinds."""
    pin, only = engine.device.type == "cuda", spec.supervised
    pair_of, packing, world = data.table.__getitem__, engine.packing, communicator.world
    workers = divide_passes(pair_of, rows, packing, token_budget, world, chosen_only=only, backward=backward)
    for micro, batch in batches(workers[communicator.rank], pair_of, packing, chosen_only=only, pin=pin):
        yield prepare(spec, data, micro, batch, pin=pin)


def pass_over_prompt(
    engine: TrainingEngine, work: Work, *, last: bool, more: Callable[[Work], Tensor | float] = lambda _: 0.0
) -> None:
    """Compute rows of a prompt that stays across passes: to keep them, or to return the gradients that they brought.

    `more` gives a loss of the pass besides, once it is computed.
    """
    sight = work.batch.sight
    assert sight is not None  # noqa: S101  only such passes have these roles
    with torch.set_grad_enabled(work.role == "return"), sight.drawing(engine.device):
        logps, added = engine(work.batch), more(work)
        if work.role == "return":
            # Its own loss is 0: gradients come in at its keys and values. But it reaches every weight, as engines ask.
            engine.backward(torch.nan_to_num(logps).sum() * 0.0 + added, last=last)
            sight.returned()


def answer_logps(scorer: Scorer, work: Work) -> PairLogps:
    """Run one forward pass and return the log-probabilities of its pairs; those of a rejected answer that is not
    there are NaN, and the reference's are 0 where the loss reads none.
    """
    sides = by_side(work.batch, scorer(work.batch))
    chosen_B, rejected_B = work.reference_2B.to(sides.chosen_B.dtype)
    return PairLogps(
        policy_chosen_B=sides.chosen_B,
        policy_rejected_B=sides.rejected_B,
        reference_chosen_B=chosen_B,
        reference_rejected_B=rejected_B,
        chosen_tokens_B=sides.chosen_tokens_B,
        rejected_tokens_B=sides.rejected_tokens_B,
    )


def loss_function(spec: TrainSpec) -> Callable[[PairLogps], Tensor]:
    """Return the loss of each pair, (B,), as a function of its log-probabilities, not yet averaged over anything."""
    if spec.supervised:
        return lambda logps: sft(logps.policy_chosen_B)
    return bound_loss(spec.stage.kind, spec.stage.model_dump())


def metrics_of(spec: TrainSpec, logps: PairLogps, loss_B: Tensor) -> Mapping[str, Tensor]:
    """Return each metric of each pair, by its name."""
    if spec.supervised:
        return {"loss": loss_B}
    return pair_metrics(spec.stage.kind, logps, loss_B, getattr(spec.stage, "beta", 0.0))


def metric_sums(metrics: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of each metric over its pairs, shape (K,), float64, in the mapping's order.

    Add these over micro-batches and workers, and divide by the pairs of the global batch.
    """
    return torch.stack([values_B.detach().to(torch.float64).sum() for values_B in metrics.values()])


def normaliser(spec: TrainSpec, table: Table, rows: Rows) -> int:
    """Return what the losses of a global batch are divided by: its pairs, or its answer tokens (sft)."""
    return int(table.lengths_N3[rows, 1].sum()) if spec.supervised else len(rows)


def own_tokens(spec: TrainSpec, table: Table, rows: Rows) -> int:
    """Return the tokens of `rows` as they stand: prompt and answer of each side that is scored."""
    prompt, chosen, rejected = table.lengths_N3[rows].astype(np.int64).sum(0)
    return int(prompt + chosen) if spec.supervised else int(2 * prompt + chosen + rejected)


def heldout_rows(n: int, cap: int) -> Rows:
    """Return at most `cap` of `n` rows, in rising order: always the same ones."""
    return np.sort(epoch_order(n, 0, 0)[:cap])


@torch.no_grad()
def heldout_metrics(
    spec: TrainSpec, engine: TrainingEngine, data: Data, token_budget: int, communicator: Communicator
) -> dict[str, float]:
    """Return ``heldout/loss`` and, but for sft, ``heldout/accuracy``: the share of pairs whose chosen answer has
    the greater reward, as the kind of loss has it.

    Rows are divided over the workers; every worker makes the same number of forward passes.
    """
    rows = heldout_rows(len(data.table), spec.heldout_rows)
    if not len(rows):
        return {}
    sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    loss = loss_function(spec)
    # Without dropout, as the published model will answer.
    engine.train(False)
    for prepared in passes_over(spec, data, rows, engine, token_budget, communicator, backward=False):
        work = prepared.to(engine.device)
        if work.role != "score":
            pass_over_prompt(engine, work, last=False)
            continue
        logps = answer_logps(engine, work)
        sums[0] += loss(logps).double().sum() * work.weight
        if not spec.supervised:
            chosen_B, rejected_B = rewards_of(spec.stage.kind, logps)
            sums[1] += (chosen_B > rejected_B).sum() * work.weight
    engine.train(True)
    total = communicator.sum(sums)
    found = {"heldout/loss": float(total[0]) / normaliser(spec, data.table, rows)}
    return found if spec.supervised else {**found, "heldout/accuracy": float(total[1]) / len(rows)}


@contextlib.contextmanager
def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Give `items` in order while a thread makes up to `depth` of them beforehand. Leaving stops the thread."""
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[object, BaseException | None]) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                # With a limit: a reader that leaves early takes nothing more, and this thread would wait for ever.
                ready.put(entry, timeout=_LOOK_SECONDS)
                return

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((_END, None))
        except BaseException as error:
            # It is raised where the item would have come.
            put((_END, error))

    def read() -> Iterator[T]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]

    thread = threading.Thread(target=make, name="prepare", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        stop.set()
        thread.join()
