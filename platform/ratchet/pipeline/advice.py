"""What the tokens of a plan's stages come to, on its own rows, before anything runs. No torch, and nothing is written.

Tokens that lie in the store are counted as training has them. Else the rows are read: all of a small source, a seeded
sample of a large one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.documents.token_use import Counted, TokenUse
from ratchet.errors import RatchetError
from ratchet.model.tree import LEAST_SHARED
from ratchet.pairs.estimate import CHARACTERS_A_TOKEN, first_pairs
from ratchet.pairs.hub import cached_file
from ratchet.pairs.pair import PreferencePair, TokenisedPair
from ratchet.pairs.sample import PairSample, encoded, sample_pairs, whole_prompts
from ratchet.pairs.table import TokenTable, copies_of, open_table
from ratchet.pairs.tokens import Policy
from ratchet.pipeline.pins import pinned_before
from ratchet.pipeline.sizes import Sizes
from ratchet.plan.data import Source
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import supervised, trains
from ratchet.plan.training import TrainingStage
from ratchet.store.files import at_home
from ratchet.store.layout import layout_at
from ratchet.store.record import finished_record
from ratchet.train.batches import Rows
from ratchet.train.token_cost import BatchRoom, CostedRows, token_cost

_STORED = 20_000
"""Pairs in the store that are counted one by one, in about a second; of more, so many are drawn."""
_READ = 1_000
"""Pairs that are read from files and become tokens for this alone."""
_CHARACTERS = 1_000_000
"""About how many characters they have; of long pairs fewer are read."""


@dataclasses.dataclass(frozen=True)
class Advice:
    """What the plan's stages use, why some were not counted, and what of their sources seems to be lost, in words."""

    uses: tuple[TokenUse, ...]
    uncounted: tuple[str, ...]
    losses: tuple[str, ...] = ()


Made = Callable[[str, TrainingStage], Path | None]
"""Where the tokens of a source lie as a stage reads them; None where they are not there."""


def advise(plan: Plan, made: Made | None = None) -> Advice:
    """Count the tokens of each stage that trains, once where some train alike. A fault becomes a reason in words.

    `made` is a run's knowledge of its tokens; without it they are looked for in the plan's store.
    """
    uses, uncounted, losses = [], [], []
    for names, stage in _alike(plan):
        try:
            rows, how, lost = _rows(plan, stage, made)
            losses += [f"{', '.join(names)}: {line}" for line in lost]
            if not len(rows.prompt_of_N):
                uncounted.append(f"{', '.join(names)}: tokens a pair are not known before its sources are read")
                continue
            uses.append(_use(plan, names, stage, rows, how))
        except RatchetError as error:  # advice is never a reason to stop: a run says what is wrong, and where
            uncounted.append(f"{', '.join(names)}: tokens a pair were not counted: {error.what.splitlines()[0]}")
    return Advice(tuple(uses), tuple(uncounted), tuple(losses))


def _alike(plan: Plan) -> list[tuple[tuple[str, ...], TrainingStage]]:
    found: dict[str, tuple[tuple[str, ...], TrainingStage]] = {}
    for name, stage in plan.stages.items():
        if trains(stage):
            named = "shuffle" in stage.model_fields_set  # a stage that names none is warned
            key = repr(
                (stage.shares(), stage.mix, stage.batch, stage.shuffle, named, _policy(stage), supervised(stage))
            )
            found[key] = ((*found.get(key, ((), stage))[0], name), found.get(key, ((), stage))[1])
    return list(found.values())


def _use(plan: Plan, names: tuple[str, ...], stage: TrainingStage, rows: CostedRows, how: Counted) -> TokenUse:
    budget, by_characters = plan.cluster.token_budget, how == "characters"
    scale = CHARACTERS_A_TOKEN if by_characters else 1
    most, sharing = None if budget == "auto" else budget * scale, plan.cluster.sharing
    room = BatchRoom(stage.batch, most, plan.cluster.fewest_workers, sharing)
    count = functools.partial(
        token_cost, rows, seed=stage.seed, chosen_only=supervised(stage), least=LEAST_SHARED * scale
    )
    cost = count(room=room)
    better = None if sharing == "auto" else count(room=dataclasses.replace(room, sharing="auto")).shared[stage.shuffle]
    return TokenUse(
        stages=names,
        shuffle=stage.shuffle,
        if_shared=None if better is None else round(better / scale, 2),
        named="shuffle" in stage.model_fields_set,
        batch=stage.batch,
        pairs=cost.pairs,
        how=how,
        padded=round(cost.padded / scale, 2),
        packed=round(cost.packed / scale, 2),
        by_pairs=round(cost.shared["pairs"] / scale, 2),
        by_prompts=round(cost.shared["prompts"] / scale, 2),
        several=round(cost.several, 4),
    )


def _policy(stage: TrainingStage) -> Policy:
    return Policy(stage.max_length, stage.overlong)


def _rows(plan: Plan, stage: TrainingStage, made: Made | None) -> tuple[CostedRows, Counted, list[str]]:
    """Return the pairs of a stage, or some of them, how they are known, and what seems to be lost, in words."""
    sizes, plan = Sizes(), pinned_before(plan, layout_at(plan.cluster.storage))
    look = made or functools.partial(sizes.tokens_folder, plan)
    folders = [look(source, stage) for source in stage.shares()]
    if all(folders):
        there = {name: folder for name, folder in zip(stage.shares(), folders, strict=True) if folder}
        return *_stored_rows(there, stage), []
    return _read_rows(plan, stage, sizes)


def _stored_rows(folders: Mapping[str, Path], stage: TrainingStage) -> tuple[CostedRows, Counted]:
    """Return the pairs of a stage by its tokens' folders; of very many a sample. Raises DataError, CorruptError."""
    train = {name: finished_record(folder).counts["train"] for name, folder in folders.items()}
    files, shares = [folder / "train.arrow" for folder in folders.values()], stage.shares_of(train)
    table = open_table(files, [shares[name] for name in folders], stage.seed)
    sampled = len(table) > _STORED
    if sampled:
        table = table.subset(whole_prompts([str(one) for one in _prompts(table).tolist()], _STORED, stage.seed))
    dialogues = table.together_of_N(prompts=False)
    rows = CostedRows(table.__getitem__, _prompts(table), sampled, table.repeats, dialogues)
    return rows, "sampled" if sampled else "counted"


def _prompts(table: TokenTable) -> Rows:
    found = table.together_of_N(prompts=True)
    assert found is not None  # noqa: S101  each row has a prompt
    return found


def _read_rows(plan: Plan, stage: TrainingStage, sizes: Sizes) -> tuple[CostedRows, Counted, list[str]]:
    """Return pairs of a stage that are read now, from each source as many as its part of the stage's pairs."""
    train = {name: sizes.pairs(plan, name).train for name in stage.shares()}
    shares = stage.shares_of(train)
    parts = {name: share * train[name] for name, share in shares.items()}
    each = [first_pairs(plan.data[name]).tokens * CHARACTERS_A_TOKEN for name in shares]
    characters = sum(length * part for length, part in zip(each, parts.values(), strict=True))
    tokenizer = _tokenizer(plan.model)
    most = min(1.0, _READ / max(sum(parts.values()), 1), _CHARACTERS / max(characters, 1))
    pairs: list[PreferencePair] = []
    rows: list[TokenisedPair] = []
    sampled, lost = False, list[str]()
    for name, share in shares.items():
        found = sample_pairs(plan.data[name], plan.model.system, max(1, round(train[name] * most)))
        own = [pair for pair in found.pairs for _ in range(copies_of(stage.seed, pair.pair_id, share))]
        short = encoded(own, tokenizer, _policy(stage))
        pairs, rows, sampled = pairs + own, rows + short, sampled or not found.whole
        lost += _lost(name, plan.data[name], found, (len(own) - len(short)) / max(len(own), 1), stage.max_length)
    by_id = {pair.pair_id: pair for pair in pairs}
    kept = [by_id[row.pair_id] for row in rows]
    numbers = _numbers(pair.dialogue or pair.prompt_id for pair in kept)
    together = _numbers(pair.drawn_by for pair in kept) if any(pair.dialogue for pair in kept) else None
    costed = CostedRows(rows.__getitem__, numbers, sampled, dialogue_of_N=together)
    return costed, "characters" if tokenizer is None else "plain", lost


def _numbers(keys: Iterable[str]) -> Rows:
    numbers: Rows = np.unique([*keys], return_inverse=True)[1].astype(np.int64)
    return numbers


def _lost(name: str, source: Source, found: PairSample, long: float, max_length: int) -> Iterator[str]:
    """Yield what a run would stop at, as far as a sample of a source tells it."""
    bad = sum(found.bad.values()) / max(found.read, 1)
    for share, limit, what in (
        (bad, source.max_bad_share, f"of the rows of {name} are bad"),
        (long, source.max_overlong_share, f"of the pairs of {name} are longer than max_length {max_length:,}"),
    ):
        if share > limit:
            yield f"about {share:.0%} {what}, and a run stops above {limit:.0%}: `ratchet data` shows them"


def _tokenizer(spec: ModelSpec) -> Any:
    """Return the tokenizer of a model that is on this machine, or None; the library's own, which needs no torch."""
    if spec.path is not None:
        file: Path | None = at_home(spec.path) / "tokenizer.json"
    else:
        file = None if spec.name is None else cached_file("model", spec.name, spec.revision, "tokenizer.json")
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(file))
    except Exception:  # it raises a bare Exception for a damaged file, which a run names
        return None
    # A file may hold both; transformers, which a run uses, sets them at each call.
    found.no_padding()
    found.no_truncation()
    return found
