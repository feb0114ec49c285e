"""Demonstrations of a dialogue meet in one pass, and are paid once: by counts, and beside a masked pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from ratchet.model.batch import Packing
from ratchet.model.divide import divide_units, openings, units
from ratchet.model.forward import PairScorer, score
from ratchet.model.passes import divide_passes
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.table import SCHEMA, TokenTable, open_table
from ratchet.train.batches import Course, epoch_order, global_batches
from tiny_models import tiny


def dialogue(draw: np.random.Generator, name: str) -> list[TokenisedPair]:
    """Return demonstrations of a dialogue as long as those of ultrachat: 2 to 5 exchanges, long answers."""
    found, before = [], np.array([1], np.int32)
    for turn in range(int(draw.integers(2, 6))):
        ask, answer = (draw.integers(9, 500, draw.integers(*most)).astype(np.int32) for most in ((15, 60), (60, 250)))
        prompt = np.concatenate([before, [5], ask, [6, 7]]).astype(np.int32)
        found.append(TokenisedPair(f"{name}-{turn}", prompt, np.append(answer, 2).astype(np.int32), ask[:0]))
        before = np.concatenate([prompt, found[-1].chosen])
    return found


def written(path: Path, dialogues: list[list[TokenisedPair]], *, named: bool = True) -> TokenTable:
    rows = [
        (one.pair_id, one.pair_id, one.prompt, one.chosen, [], 0.0, f"d{k}" if named else None)
        for k, pairs in enumerate(dialogues)
        for one in pairs
    ]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA))
    return open_table([path], [1.0], 0)


def computed(table: TokenTable, batch: int, budget: int) -> int:
    """Return the tokens that an epoch computes."""
    course = Course(len(table), batch, 1, 0)
    total = 0
    for one in global_batches(course, 0, table.together_of_N(prompts=False), table.repeats):
        (mine,) = divide_passes(table.__getitem__, one.rows, Packing(), budget, 1, chosen_only=True)
        total += sum(micro.cost for micro in mine)
    return total


def test_a_dialogue_costs_about_what_one_masked_pass_costs(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    dialogues = [dialogue(draw, f"{k}") for k in range(150)]
    once = sum(len(pairs[-1].prompt) + len(pairs[-1].chosen) for pairs in dialogues)
    apart = sum(len(one.prompt) + len(one.chosen) for pairs in dialogues for one in pairs)
    table = written(tmp_path / "a", dialogues)
    assert computed(table, 64, 8192) < 1.06 * once
    # Where a batch ends within a dialogue, its beginning is computed twice.
    assert computed(table, 16, 8192) < 1.2 * once
    assert apart > 1.9 * once
    assert computed(written(tmp_path / "b", dialogues, named=False), 64, 8192) > 1.6 * once


def test_dialogues_come_together_and_others_are_shuffled(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    groups = [dialogue(draw, f"{k}") for k in range(20)]
    table = written(tmp_path / "a", groups)
    together = table.together_of_N(prompts=False)
    assert together is not None and len(set(together.tolist())) == 20
    order = epoch_order(len(table), 0, 1, together)
    names = [table.pair_id(int(row)).split("-")[0] for row in order]
    changes = sum(left != right for left, right in itertools.pairwise(names))
    assert changes == 19 and names != sorted(names, key=int)
    assert written(tmp_path / "b", groups, named=False).together_of_N(prompts=False) is None


def test_a_dialogue_is_drawn_whole_and_its_copies_come_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    table = written(tmp_path / "a", [dialogue(draw, f"{k}") for k in range(40)])
    half = open_table(table.files, [0.5], 3)
    cut = {name.split("-")[0] for name in half.pair_ids().to_pylist()}
    whole = {k: sum(name.startswith(f"{k}-") for name in table.pair_ids().to_pylist()) for k in cut}
    taken = {k: sum(name.startswith(f"{k}-") for name in half.pair_ids().to_pylist()) for k in cut}
    assert len(half) == round(len(table) / 2)
    assert sum(whole[k] != taken[k] for k in cut) <= 1
    twice = open_table(table.files, [2.0], 3)
    order = epoch_order(len(twice), 0, 1, twice.together_of_N(prompts=False), twice.repeats)
    first = [twice.pair_id(int(row)) for row in order[: len(table)]]
    assert sorted(first) == sorted(table.pair_ids().to_pylist())


@given(st.data())
def test_prompts_that_go_on_from_one_another_have_one_opening(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 999)))
    groups = [dialogue(draw, f"{k}") for k in range(data.draw(st.integers(1, 5)))]
    prompts = [(k, one.prompt) for k, pairs in enumerate(groups) for one in pairs]
    mixed = [prompts[place] for place in data.draw(st.permutations(range(len(prompts))))]
    found = openings([prompt for _, prompt in mixed])
    for (k, _), first in zip(mixed, found, strict=True):
        assert np.array_equal(first, groups[k][0].prompt)


def test_the_end_of_a_prompt_may_be_written_otherwise_once_it_is_answered() -> None:
    body = np.arange(40, dtype=np.int32)
    asked, answered = np.append(body, [90, 91]).astype(np.int32), np.append(body, [70, 71, 72, 73]).astype(np.int32)
    other = np.append(body[:30], np.arange(50, 70)).astype(np.int32)
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        prompts = [(asked, answered, other)[place] for place in order]
        found = openings(prompts)
        assert np.array_equal(found[order.index(1)], asked) and np.array_equal(found[order.index(2)], other)


def test_units_keep_a_dialogue_together_and_each_row_once() -> None:
    draw = np.random.default_rng(3)
    pairs = [one for k in range(6) for one in dialogue(draw, f"{k}")]
    rows = draw.permutation(len(pairs))
    parts = units(pairs.__getitem__, rows, Packing(), 8192, chosen_only=True)
    assert len(parts) == 6
    assert sorted(row for part in parts for row in part.rows) == list(range(len(pairs)))
    for micro in (one for mine in divide_units(parts, 2, 2048) for one in mine):
        assert micro.cost <= 2048 or len({pairs[row].pair_id.split("-")[0] for row in micro.rows}) == 1


def test_the_loss_and_the_gradient_of_a_dialogue_are_those_of_a_masked_pass() -> None:
    model = tiny("llama")
    draw = np.random.default_rng(4)
    before, pairs, mask = [1], [], [False]
    for turn in range(3):
        ask, answer = (draw.integers(9, 60, draw.integers(3, 9)).tolist() for _ in range(2))
        prompt = [*before, *ask]
        pairs.append(
            TokenisedPair(str(turn), np.array(prompt, np.int32), np.array(answer, np.int32), np.zeros(0, np.int32))
        )
        mask += [False] * len(ask) + [True] * len(answer)
        before = [*prompt, *answer]
    logits = model(input_ids=torch.tensor([before])).logits[0, :-1].double().log_softmax(-1)
    of_tokens = logits.gather(1, torch.tensor(before[1:])[:, None])[:, 0]
    wanted = -of_tokens[torch.tensor(mask[1:])].mean()
    scored = score(PairScorer(model), pairs, "cpu", chosen_only=True)
    found = -scored.chosen_B.double().sum() / sum(len(one.chosen) for one in pairs)
    assert abs(float(found.detach() - wanted.detach())) < 1e-6
    slopes = (torch.autograd.grad(loss, [*model.parameters()]) for loss in (found, wanted))
    for ours, plain in zip(*slopes, strict=True):
        assert float(plain.abs().max()) > 0 and torch.allclose(ours, plain, atol=1e-6)
    assert sum(len(one.chosen) for one in pairs) == sum(mask)
