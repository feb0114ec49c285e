"""The order of the pairs, and how a step's pairs are divided."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import orders
from ratchet.pairs.table import Repeats
from ratchet.plan.cluster import Cluster, DeepSpeed
from ratchet.plan.load import load_plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.stages import Dpop
from ratchet.plan.training import Checkpoint, Lora
from ratchet.train.batches import Course, epoch_order, global_batches
from ratchet.train.spec import TrainSpec

counts = st.integers(1, 60)


def test_the_order_is_fixed_for_all_time() -> None:
    """Written down once: a change here would change what a resumed run trains on."""
    assert epoch_order(10, seed=0, epoch=1).tolist() == FIXED
    assert epoch_order(10, seed=0, epoch=2).tolist() != FIXED
    assert epoch_order(10, seed=1, epoch=1).tolist() != FIXED


FIXED = [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]


@given(n=counts, seed=st.integers(-(2**63), 2**63 - 1), epoch=st.integers(1, 5))
def test_an_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(n, seed, epoch)) == list(range(n))


@given(n=counts, batch=st.integers(1, 20), epochs=st.integers(1, 4), cap=st.none() | st.integers(1, 30))
def test_each_pair_stands_once_in_an_epoch(n: int, batch: int, epochs: int, cap: int | None) -> None:
    course = Course(n, batch, epochs, seed=3, max_steps=cap)
    batches = list(global_batches(course))
    assert [b.step for b in batches] == list(range(1, course.total_steps + 1))
    for epoch in range(1, epochs + 1):
        rows = [int(row) for b in batches if b.epoch == epoch for row in b.rows]
        assert len(rows) == len(set(rows))
        if epoch * course.steps_per_epoch <= course.total_steps:
            assert sorted(rows) == list(range(n))
            assert batches[epoch * course.steps_per_epoch - 1].progress == epoch


@given(n=counts, batch=st.integers(1, 20), epochs=st.integers(1, 4))
def test_progress_is_the_epochs_behind_and_the_share_of_this_one(n: int, batch: int, epochs: int) -> None:
    pairs = 0
    for one in global_batches(Course(n, batch, epochs, seed=3)):
        pairs += len(one.rows)
        assert one.progress == pytest.approx(pairs / n, rel=1e-12)


@given(n=counts, batch=st.integers(1, 20), after=st.integers(0, 40))
def test_going_on_gives_the_same_batches(n: int, batch: int, after: int) -> None:
    course = Course(n, batch, epochs=3, seed=7)
    whole = list(global_batches(course))[after:]
    rest = list(global_batches(course, after))
    assert [b.step for b in rest] == [b.step for b in whole]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(rest, whole, strict=True))


@given(prompts=st.lists(st.integers(0, 9), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_pairs_of_a_prompt_come_together(prompts: list[int], seed: int) -> None:
    of_N = np.array(prompts, np.int64)
    order = epoch_order(len(of_N), seed, 1, of_N)
    assert sorted(order) == list(range(len(of_N)))
    runs = [key for key, _ in itertools.groupby(of_N[order].tolist())]
    assert len(runs) == len(set(prompts))
    for prompt in set(prompts):  # in their own order
        rows = [int(row) for row in order if of_N[row] == prompt]
        assert rows == sorted(rows)


def test_where_each_prompt_has_one_pair_nothing_changes() -> None:
    assert epoch_order(30, 4, 2, np.arange(30)).tolist() == epoch_order(30, 4, 2).tolist()


def repeats_of(counts: list[int]) -> Repeats:
    """Return rows of which pair k stands counts[k] times, one after the other."""
    of_N = np.repeat(np.arange(len(counts)), counts)
    number_N = np.concatenate([np.arange(count) for count in counts])
    return Repeats(of_N, number_N, np.repeat(counts, counts))


@given(n=st.integers(1, 60), copies=st.integers(2, 5), seed=st.integers(0, 99))
def test_each_part_of_an_epoch_has_one_copy_of_each_pair(n: int, copies: int, seed: int) -> None:
    repeats = repeats_of([copies] * n)
    order = epoch_order(n * copies, seed, 1, None, repeats)
    assert sorted(order) == list(range(n * copies))
    first = repeats.of_N[order[:n]].tolist()
    for part in range(copies):
        assert repeats.of_N[order[part * n : (part + 1) * n]].tolist() == first
        assert repeats.number_N[order[part * n : (part + 1) * n]].tolist() == [part] * n
    once = epoch_order(n, seed, 2).tolist()
    assert sorted(once) == sorted(first)  # each pair once


@given(counts=st.lists(st.integers(1, 4), min_size=40, max_size=80), seed=st.integers(0, 99))
def test_copies_stay_out_of_one_batch(counts: list[int], seed: int) -> None:
    repeats = repeats_of(counts)
    rows = len(repeats.of_N)
    order = epoch_order(rows, seed, 1, None, repeats).tolist()
    assert sorted(order) == list(range(rows))
    places = np.argsort(order)
    for pair, count in enumerate(counts):
        mine = np.sort(places[repeats.of_N == pair])
        assert count == 1 or np.diff(mine).min() > rows / count / 3


def test_a_prompt_that_is_repeated_comes_whole_each_time() -> None:
    repeats = repeats_of([2, 2, 1, 2])
    prompts = np.array([0, 0, 0, 0, 0, 1, 1])  # of each row: pairs 0, 1 and 2 have one prompt, and pair 3 another
    order = epoch_order(7, 5, 1, prompts, repeats)
    keys = zip(prompts[order].tolist(), repeats.number_N[order].tolist(), strict=True)
    runs = [(key, len(list(group))) for key, group in itertools.groupby(keys)]
    assert sorted(runs) == [((0, 0), 3), ((0, 1), 2), ((1, 0), 1), ((1, 1), 1)]


def test_rows_that_stand_once_come_as_without_repeats() -> None:
    assert epoch_order(30, 4, 2, None, repeats_of([1] * 30)).tolist() == epoch_order(30, 4, 2).tolist()


def test_a_spec_reaches_a_worker_as_it_is() -> None:
    stage = Dpop(
        kind="dpop",
        data=("a",),
        betas=(0.8, 0.99),
        lora=Lora(targets=("q_proj", "v_proj")),
        checkpoint=Checkpoint(every=7),
    )
    overrides = {"zero_optimization": {"overlap_comm": False}}
    cluster = Cluster(workers=(1, 4), deepspeed=DeepSpeed(zero=3, overrides=overrides))
    spec = TrainSpec("a", stage, "/f", "/m", ("/t",), (0.5,), cluster, options={"beta": 0.3}, references=("/r",))
    made = pickle.loads(pickle.dumps(spec))  # noqa: S301
    assert made == spec and type(made.stage) is Dpop and made.stage.betas == (0.8, 0.99)
    assert made.cluster.fewest_workers == 1 and made.token_budget is None


def test_a_spec_made_absolute_names_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrainSpec("a", Dpop(kind="dpop", data=("a",)), "f", "m", ("t", "/u"), (1.0, 1.0), Cluster(), rows="r.npy")
    made = spec.absolute()
    assert (made.folder, made.model, made.rows) == (f"{tmp_path}/f", f"{tmp_path}/m", f"{tmp_path}/r.npy")
    assert made.tokens == (f"{tmp_path}/t", "/u") and made.references == ()
    assert made.absolute() == made


def test_models_of_two_orders_are_compared_seed_by_seed() -> None:
    """Student's interval of the differences, and Fisher's of the deviations, by their formulas."""
    left, right = [0.61, 0.58, 0.63, 0.60], [0.59, 0.60, 0.60, 0.55]
    off = np.subtract(right, left)
    reach = stats.t.ppf(0.975, 3) * off.std(ddof=1) / 2
    ratio = np.std(right, ddof=1) / np.std(left, ddof=1)
    widest = np.sqrt(stats.f.ppf(0.975, 3, 3))
    assert orders.row("accuracy", left, right)[3:] == [
        f"{off.mean():+.4f}",
        f"{off.mean() - reach:+.4f} to {off.mean() + reach:+.4f}",
        f"{ratio:.2f} ({ratio / widest:.2f} to {ratio * widest:.2f})",
    ]


@pytest.mark.parametrize(("words", "stages"), [(["--seeds", "2"], 5), (["--kind", "sft", "--source", "twins"], 17)])
def test_two_orders_are_trained_by_one_plan(words: list[str], stages: int, tmp_path: Path) -> None:
    written = json.dumps(orders.plan_of(orders.parse(words), tmp_path))
    (tmp_path / "plan.yaml").write_text(written)
    plan = load_plan(tmp_path / "plan.yaml")
    assert len(plan.stages) == stages
    trained = [stage for name, stage in plan.stages.items() if name != "warm" and trains(stage)]
    assert {stage.shuffle for stage in trained} == {*orders.ORDERS}
