"""From tokenised pairs to one forward pass: a token forest in one row, or padded rows.

Legend: _B pairs, _R rows of the model's input, _T positions of a row, _E scored entries (one answer
token each), _C (entry, sequence) incidences, _S sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ratchet.errors import DataError
from ratchet.model.tree import Branch, Forest, Ids, Sharing, lay_out, rows_laid_out, stretch, without_trunk
from ratchet.model.tree_plan import TreePlan
from ratchet.model.trunk import Sight
from ratchet.pairs.pair import TokenisedPair

Device = torch.device | str


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a model's sequences are laid out.

    With `why_padded` each sequence is a padded row of its own, and that says why; otherwise they
    are forests that share as `sharing` says, but for batches with a sequence of more than
    `longest` tokens. With `why_repeated` no prompt stays across passes, and that says why.
    The model has embeddings for ids below `vocabulary`; None is not looked at. With `whole` the last layer computes
    all rows, and not those alone that are scored.
    """

    sharing: Sharing = "auto"
    longest: int | None = None
    why_padded: str | None = None
    why_repeated: str | None = None
    vocabulary: int | None = None
    whole: bool = False

    def as_forest(self, branches: Sequence[Branch]) -> bool:
        """Return whether these sequences are laid out as a forest."""
        fits = self.longest is None or max(len(branch.ids) for branch in branches) <= self.longest
        return self.why_padded is None and fits


PADDED = Packing(why_padded="asked for")


@dataclasses.dataclass(frozen=True)
class SequenceBatch:
    """Prompts with answers; sequences are numbered all chosen first, then the rejected.

    `rows_E` indexes the R·T positions, flattened, whose hidden state predicts `targets_E`. Entry
    `entry_C[c]` belongs to sequence `sequence_C[c]`, and `tokens_S` counts each sequence's.
    `rejected_of_K` is the pair of each rejected sequence: demonstrations have none. `positions_RT`
    and `plan` are a forest's; without them rows are padded on the right. With `sight` a trunk keeps the rows above it.
    `times_RT` sequences have the token of each position: 0 where it is padding.
    Index tensors are int64.
    """

    input_ids_RT: Tensor
    positions_RT: Tensor | None
    plan: TreePlan | None
    rows_E: Tensor
    targets_E: Tensor
    entry_C: Tensor
    sequence_C: Tensor
    tokens_S: Tensor
    rejected_of_K: Tensor
    times_RT: Tensor
    sight: Sight | None = None

    @property
    def sequences(self) -> int:
        return len(self.tokens_S)

    @property
    def pairs(self) -> int:
        return self.sequences - len(self.rejected_of_K)

    @property
    def computed(self) -> int:
        """Positions that a forward pass computes, padding included."""
        return self.input_ids_RT.numel()

    def to(self, device: Device) -> SequenceBatch:
        """Return the batch on `device`; from pinned memory the copy does not wait."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        plan = self.plan and self.plan.to(device)
        return dataclasses.replace(self, **moved, plan=plan)


def branches_of(pairs: Sequence[TokenisedPair], *, chosen_only: bool = False) -> tuple[list[Branch], tuple[int, ...]]:
    """Return the sequences of `pairs`, all chosen first, and the pair of each rejected one.

    Raises DataError where a prompt or a chosen answer is empty.
    """
    rejected_of = tuple(i for i, pair in enumerate(pairs) if len(pair.rejected) and not chosen_only)
    sides = [(pair.prompt, pair.chosen) for pair in pairs]
    sides += [(pairs[i].prompt, pairs[i].rejected) for i in rejected_of]
    if not all(len(prompt) and len(answer) for prompt, answer in sides):
        raise DataError(
            "a pair without prompt or answer tokens cannot be scored",
            fix="make the tokens again",
            code="data.empty-answer",
        )
    return [Branch(np.concatenate(side), len(side[0])) for side in sides], rejected_of


def collate(
    pairs: Sequence[TokenisedPair],
    packing: Packing,
    *,
    chosen_only: bool = False,
    pin: bool = False,
    sight: Sight | None = None,
) -> SequenceBatch:
    """Return the batch of `pairs`, on the CPU (with `pin` in pinned memory).

    With `chosen_only` the rejected answers are left out (sft). With `sight` all pairs have the same prompt, and those
    of its rows that the trunk keeps are left out. Raises DataError as `branches_of`, and for ids that the model has
    no embedding of.
    """
    branches, rejected_of = branches_of(pairs, chosen_only=chosen_only)
    if packing.vocabulary is not None:
        _check_ids(branches, packing.vocabulary)
    forest = lay_out(branches, packing.sharing) if packing.as_forest(branches) else None
    if forest is not None and sight is not None:
        forest = without_trunk(forest, sight.before)
    return _batch(branches, rejected_of, forest, pin=pin, sight=sight, whole=packing.whole)


def _check_ids(branches: Sequence[Branch], vocabulary: int) -> None:
    largest = max(int(branch.ids.max()) for branch in branches)
    if largest >= vocabulary:
        raise DataError(
            f"a text has the token {largest}, and the model knows ids 0 to {vocabulary - 1}",
            fix="take the special token that the tokenizer has under this id out of the texts",
            code="data.foreign-token",
        )


def collate_trunk(
    prompt: Ids, stop: int, sight: Sight, *, times: int = 1, whole: bool = False, pin: bool = False
) -> SequenceBatch:
    """Return the batch of a prompt's rows from `sight.before` to `stop`, which its trunk keeps for `times` sequences.

    Its one entry scores the next token, for an engine that wants a loss of every pass.
    """
    branch = Branch(prompt[: stop + 1], stop)
    return _batch([branch], (), stretch(prompt, sight.before, stop, times), pin=pin, sight=sight, whole=whole)


def _batch(
    branches: Sequence[Branch],
    rejected_of: Sequence[int],
    forest: Forest | None,
    *,
    pin: bool,
    sight: Sight | None,
    whole: bool,
) -> SequenceBatch:
    def tensor(array: npt.NDArray[np.int64]) -> Tensor:
        made = torch.from_numpy(array)
        return made.pin_memory() if pin else made

    arrays = _padded(branches) if forest is None else _one_row(forest)
    ids_RT, times_RT, rows_E, targets_E, entry_C, sequence_C = (tensor(array) for array in arrays)
    plan, kept = None, sight.before if sight else 0
    if forest is not None:
        scored_K = None if whole else tensor(np.unique(forest.rows_E))
        plan = TreePlan(forest.chains, tensor(forest.end_T), scored_K, kept=kept)
    return SequenceBatch(
        ids_RT,
        None if forest is None else tensor(forest.depth_T[None]),
        plan,
        rows_E,
        targets_E,
        entry_C,
        sequence_C,
        tokens_S=tensor(np.array([len(branch.ids) - branch.start for branch in branches], np.int64)),
        rejected_of_K=tensor(np.array(rejected_of, np.int64)),
        times_RT=times_RT,
        sight=sight,
    )


def computed_tokens(pairs: Sequence[TokenisedPair], packing: Packing, *, chosen_only: bool = False) -> int:
    """Return the positions that one forward pass over `pairs` computes, padding included."""
    return footprint(pairs, packing, chosen_only=chosen_only)[0]


def footprint(pairs: Sequence[TokenisedPair], packing: Packing, *, chosen_only: bool = False) -> tuple[int, int]:
    """Return the positions that a pass over `pairs` computes, and how wide its padded rows are (0: a forest)."""
    branches, _ = branches_of(pairs, chosen_only=chosen_only)
    if packing.as_forest(branches):
        return rows_laid_out(branches, packing.sharing), 0
    width = max(len(branch.ids) for branch in branches)
    return len(branches) * width, width


def _one_row(forest: Forest) -> tuple[npt.NDArray[np.int64], ...]:
    return (
        forest.ids_T[None],
        forest.times_T[None],
        forest.rows_E,
        forest.targets_E,
        forest.entry_C,
        forest.sequence_C,
    )


def _padded(branches: Sequence[Branch]) -> tuple[npt.NDArray[np.int64], ...]:
    longest = max(len(branch.ids) for branch in branches)
    ids_RT, times_RT = np.zeros((2, len(branches), longest), np.int64)
    rows, targets, owners = [], [], []
    for s, branch in enumerate(branches):
        end = len(branch.ids)
        ids_RT[s, :end], times_RT[s, :end] = branch.ids, 1
        # One to the left: the hidden state before a token predicts it.
        rows.append(s * longest + np.arange(branch.start - 1, end - 1))
        targets.append(branch.ids[branch.start :])
        owners.append(np.full(end - branch.start, s))
    rows_E, targets_E, owner_E = (np.concatenate(part).astype(np.int64) for part in (rows, targets, owners))
    return ids_RT, times_RT, rows_E, targets_E, np.arange(len(owner_E)), owner_E
