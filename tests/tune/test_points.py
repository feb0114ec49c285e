"""The points of a space: a pure function of the space, spread out where trials would wait for each other."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ratchet.plan.distributions import DISTRIBUTIONS, Distribution, DistributionName, order_at
from ratchet.plan.space import Space
from ratchet.store.fingerprint import fingerprint
from ratchet.tune.points import (
    SeededPoint,
    drawn,
    points,
    trial_count,
    trials_in_turn,
    unseen_of,
)
from ratchet.tune.tpe import distributions

KEYS: dict[str, Any] = {
    "stages.align.beta": {"loguniform": [0.01, 10]},
    "stages.align.warmup": {"uniform": [0.0, 0.5]},
    "stages.align.batch": {"randint": [8, 11]},
    "stages.align.kind": {"choice": ["dpo", "ipo"]},
    "stages.align.data": {"permutation": ["a", "b", "c"]},
    "stages.align.epochs": {"grid": [1, 2, 3]},
}


def space(keys: dict[str, Any], **rest: Any) -> Space:
    """Return a space with these keys; random without a budget is for check_space to refuse."""
    return Space.model_validate({"name": "s", "keys": keys, "objectives": {"a/train/loss": "min"}, **rest})


def random(keys: dict[str, Any], seed: int = 0, **rest: Any) -> Space:
    return space(keys, search={"by": "random", "seed": seed}, **rest)


def test_ids_are_of_the_values_alone() -> None:
    one, other = SeededPoint({"a.b": 0.3, "c": [1, 2]}, 7), SeededPoint({"c": (1, 2), "a.b": 0.3})
    assert one.point_id == other.point_id == "p" + fingerprint({"a.b": 0.3, "c": [1, 2]})[:8]
    assert one.trial_id == f"t{one.point_id[1:]}-s7"
    assert other.trial_id == f"t{one.point_id[1:]}"
    assert SeededPoint({"a.b": 0.31, "c": [1, 2]}).point_id != one.point_id


@pytest.mark.parametrize("count", range(2, 8))
def test_orders_are_all_orders_and_neighbours_begin_differently(count: int) -> None:
    names = [f"n{n}" for n in range(count)]
    orders = [tuple(order_at(names, n)) for n in range(math.factorial(count))]
    assert set(orders) == set(itertools.permutations(names))
    assert len(orders) == math.factorial(count)
    assert orders[0] == tuple(names)
    for start in range(0, len(orders), count):
        assert {order[0] for order in orders[start : start + count]} == set(names)


def test_a_grid_is_every_combination_once() -> None:
    keys = {key: one for key, one in KEYS.items() if not {"uniform", "loguniform"} & one.keys()}
    made = list(points(space(keys)))
    wanted = itertools.product(range(8, 12), ["dpo", "ipo"], map(list, itertools.permutations("abc")), [1, 2, 3])
    assert sorted(list(point.values()) for point in made) == sorted(map(list, wanted))
    assert list(made[0]) == list(keys)
    assert trial_count(space(keys)) == len(made) == 4 * 2 * 6 * 3


def test_neighbours_of_a_grid_differ_in_every_key() -> None:
    keys = {"x": {"grid": [1, 2, 3]}, "y": {"permutation": ["a", "b", "c"]}, "z": {"choice": [1, 2, 3, 4]}}
    made = list(points(space(keys)))
    alike = [key for one, other in itertools.pairwise(made) for key in keys if one[key] == other[key]]
    assert len(alike) <= len(made) // 3  # where the first key starts again, another may stay
    first = made[:3]
    assert all(len({str(point[key]) for point in first}) == 3 for key in keys)
    assert len({point["y"][0] for point in first}) == 3


def test_seeds_come_in_turn_and_the_budget_counts_runs() -> None:
    keys = {"x": {"grid": [1, 2, 3]}}
    made = [
        (trial.values["x"], trial.seed) for trial in trials_in_turn(space(keys, seeds=[5, 6], budget={"trials": 5}))
    ]
    assert made == [(1, 5), (1, 6), (2, 5), (2, 6), (3, 5)]
    assert trial_count(space(keys, seeds=[5, 6], budget={"trials": 5})) == 5
    assert trial_count(space(keys, seeds=[5, 6], budget={"trials": 50})) == 6
    assert [trial.seed for trial in trials_in_turn(space(keys))] == [None, None, None]


@pytest.mark.parametrize(
    ("keys", "rest", "count"),
    [
        (KEYS, {"budget": {"hours": 1}}, None),
        (KEYS, {"budget": {"trials": 9}, "seeds": [1, 2]}, 9),
        ({"x": {"randint": [1, 4]}, "y": {"choice": [1, 2]}}, {"budget": {"hours": 1}, "seeds": [1, 2, 3]}, 24),
    ],
)
def test_how_many_trials(keys: dict[str, Any], rest: dict[str, Any], count: int | None) -> None:
    assert trial_count(random(keys, **rest)) == count


def fits(key: str, value: Any) -> bool:
    match KEYS[key]:
        case {"uniform": [low, high]} | {"loguniform": [low, high]}:
            return isinstance(value, float) and low <= value <= high
        case {"randint": [low, high]}:
            return isinstance(value, int) and low <= value <= high
        case {"permutation": names}:
            return sorted(value) == sorted(names)
        case {"choice": values} | {"grid": values}:
            return value in values
    return False


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**9), st.permutations(list(KEYS)), st.data())
def test_a_draw_is_of_seed_number_and_key(seed: int, number: int, keys: list[str], data: st.DataObject) -> None:
    point = drawn(random(KEYS, seed), number)
    assert all(fits(key, value) for key, value in point.items())
    assert list(point) == list(KEYS)
    drawn(random(KEYS, seed), data.draw(st.integers(0, 100)))  # whatever was drawn before
    fewer = {key: KEYS[key] for key in keys[: data.draw(st.integers(1, len(keys)))]}
    assert drawn(random(fewer, seed), number) == {key: point[key] for key in fewer}


@pytest.mark.heavy
def test_draws_are_spread_as_their_distributions_say() -> None:
    """4000 draws: each quantile within 4 standard errors (0.5/sqrt(4000) = 0.8 points at most) of its share."""
    made = [drawn(random(KEYS, 11), number) for number in range(4000)]
    beta = np.log10([point["stages.align.beta"] for point in made])
    warmup = np.array([point["stages.align.warmup"] for point in made])
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        error = 4 * math.sqrt(share * (1 - share) / 4000)
        assert abs(np.mean(beta < -2 + 3 * share) - share) < error
        assert abs(np.mean(warmup < 0.5 * share) - share) < error
    for key, count in (("stages.align.batch", 4), ("stages.align.kind", 2), ("stages.align.data", 6)):
        values = [str(point[key]) for point in made]
        shares = [values.count(value) / 4000 for value in set(values)]
        assert len(shares) == count
        assert max(abs(share - 1 / count) for share in shares) < 4 * math.sqrt((1 / count) * (1 - 1 / count) / 4000)
    assert abs(np.corrcoef(beta, warmup)[0, 1]) < 4 / math.sqrt(4000)
    assert [point["stages.align.epochs"] for point in made[:7]] == [1, 2, 3, 1, 2, 3, 1]


def philox(counter: list[int], key: list[int]) -> int:
    """Return the first word of Philox4x64-10 (Salmon et al. 2011, section 3.2) in plain integers."""
    mask, weyl = 2**64 - 1, (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
    for n in range(10):
        left, right = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        first, second = ((part + n * step) & mask for part, step in zip(key, weyl, strict=True))
        counter = [right >> 64 ^ counter[1] ^ first, right & mask, left >> 64 ^ counter[3] ^ second, left & mask]
    return counter[0]


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (3, 1), (2**32 - 1, 10**6)])
def test_draws_are_philoxs(seed: int, number: int) -> None:
    """Another version of numpy, or a restarted sweep, must draw the same points."""
    point = drawn(random({"x": {"uniform": [0, 1]}, "y": {"randint": [1, 1000]}}, seed), number)
    streams = [int.from_bytes(hashlib.sha256(key).digest()[:8], "little") for key in (b"x", b"y")]
    words = [philox([1, 0, 0, stream], [seed, number]) for stream in streams]  # numpy counts before it draws
    assert point == {"x": (words[0] >> 11) / 2**53, "y": 1 + 1000 * (words[1] >> 11) // 2**53}


def test_another_seed_draws_other_points() -> None:
    assert drawn(random(KEYS, 1), 0) != drawn(random(KEYS, 2), 0)
    assert drawn(random(KEYS, 1), 0) != drawn(random(KEYS, 1), 1)


def test_a_finite_space_is_exhausted_each_point_once() -> None:
    keys = {"x": {"randint": [1, 4]}, "y": {"permutation": ["a", "b", "c"]}, "z": {"grid": [1, 2]}}
    made = [SeededPoint(point).point_id for point in points(random(keys))]
    assert len(made) == len(set(made)) == 48
    again = itertools.islice(trials_in_turn(random(keys, seeds=[4, 5], budget={"hours": 1})), 6)
    assert [trial.point_id for trial in again] == [name for name in made[:3] for _ in range(2)]


def test_a_long_permutation_is_not_listed() -> None:
    names = [f"n{n}" for n in range(20)]
    grid, blind = space({"x": {"permutation": names}}), random({"x": {"permutation": names}})
    assert trial_count(grid) == math.factorial(20)
    for made in (points(grid), points(blind)):
        assert [sorted(point["x"]) for point in itertools.islice(made, 3)] == [sorted(names)] * 3


def test_dimensions_for_a_searcher() -> None:
    """Values without an order are known by their numbers, those of an order of sources too."""
    assert distributions(random(KEYS)) == {
        "stages.align.beta": FloatDistribution(0.01, 10, log=True),
        "stages.align.warmup": FloatDistribution(0.0, 0.5, log=False),
        "stages.align.batch": IntDistribution(8, 11),
        "stages.align.kind": CategoricalDistribution([0, 1]),
        "stages.align.data": CategoricalDistribution([0, 1, 2, 3, 4, 5]),
        "stages.align.epochs": CategoricalDistribution([0, 1, 2]),
    }


def test_tpe_has_no_list_of_points() -> None:
    with pytest.raises(ValueError, match="depend on the trials before"):
        next(points(space(KEYS, search={"by": "tpe"})))
    with pytest.raises(ValueError, match="a grid cannot hold a loguniform key"):
        next(points(space(KEYS)))


@pytest.mark.parametrize("by", ["random", "tpe"])
def test_one_of_one_more_points_than_are_known_is_new(by: str) -> None:
    endless = space(KEYS, search={"by": by})
    assert len({SeededPoint(point).point_id for point in unseen_of(endless, 40)}) == 41
    short = space({"x": {"grid": [1, 2, 3]}, "y": {"randint": [0, 1]}}, search={"by": by})
    assert [len({SeededPoint(point).point_id for point in unseen_of(short, seen)}) for seen in (0, 4, 6)] == [1, 5, 6]


def test_every_kind_has_its_row() -> None:
    assert list(DISTRIBUTIONS) == list(Distribution.model_fields) == list(get_args(DistributionName))
    assert {kind for one in KEYS.values() for kind in one} == {*DISTRIBUTIONS}  # the tests above try each


def test_values_are_tried_at_both_ends_and_a_whole_range_where_it_is_short() -> None:
    tried = {key: list(one.row.tried(one.given)) for key, one in random(KEYS).keys.items()}
    assert tried == {
        "stages.align.beta": [0.01, 10],
        "stages.align.warmup": [0.0, 0.5],
        "stages.align.batch": [8, 9, 10, 11],
        "stages.align.kind": ["dpo", "ipo"],
        "stages.align.data": [["a", "b", "c"], ["b", "a", "c"]],
        "stages.align.epochs": [1, 2, 3],
    }
    for last, count in ((50, 50), (51, 2)):
        (one,) = random({"x": {"randint": [1, last]}}).keys.values()
        assert len(one.row.tried(one.given)) == count
