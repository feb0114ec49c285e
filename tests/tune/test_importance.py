"""Which key explains how much, against functions whose variance can be taken apart by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from nightly import nightly
from ratchet.documents.sweep import Key, ObjectiveResult, Point
from ratchet.tune.importance import importance


def points_of(values: list[dict[str, Any]], f: Callable[[Mapping[str, Any]], float | None]) -> list[Point]:
    return [
        Point(
            f"p{n}",
            one,
            (ObjectiveResult("other", 7.0, None, 1, False), ObjectiveResult("m", f(one), None, 1, False)),
            None,
            False,
        )
        for n, one in enumerate(values)
    ]


def grid(**keys: Any) -> list[dict[str, Any]]:
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]


@pytest.mark.parametrize("kind", ["grid", "choice", "randint"])
def test_a_sum_on_a_grid_is_explained_by_the_squares_of_its_factors(kind: Any) -> None:
    made = points_of(grid(a=range(8), b=range(8)), lambda p: 3 * p["a"] + p["b"])
    ends = (0, 7) if kind == "randint" else tuple(range(8))
    shares = importance([Key("a", kind, ends), Key("b", kind, ends)], made, "m")
    assert shares == pytest.approx({"a": 0.9, "b": 0.1}, abs=0.025)
    assert sum(shares.values()) == pytest.approx(1)


def test_ranges_are_numbers_and_loguniform_ones_their_logarithms() -> None:
    random = np.random.default_rng(0)
    drawn = [{"u": float(u), "v": float(10**v)} for u, v in zip(*random.uniform(-1, 1, (2, 200)), strict=True)]
    made = points_of(drawn, lambda p: p["u"] + 2 * np.log10(p["v"]))
    shares = importance([Key("u", "uniform", (-1.0, 1.0)), Key("v", "loguniform", (0.1, 10.0))], made, "m")
    assert shares == pytest.approx({"u": 0.2, "v": 0.8}, abs=0.05)


def test_orders_are_categories_and_a_key_that_does_nothing_has_nothing() -> None:
    orders = [list(order) for order in itertools.permutations("abc")]
    good = {order[0]: gain for order, gain in zip(orders[::2], (0.0, 1.0, 5.0), strict=True)}
    made = points_of(grid(order=orders, idle=[1, 2, 3]), lambda p: good[p["order"][0]])
    shares = importance([Key("order", "permutation", ("a", "b", "c")), Key("idle", "grid", (1, 2, 3))], made, "m")
    assert shares["order"] > 0.99
    one = importance([Key("order", "permutation", ("a", "b", "c")), Key("idle", "grid", (1,))], made, "m")
    assert one["idle"] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("sources", nightly(["abcd", "abcde"], lambda sources: sources == "abcd"))
def test_many_orders_have_the_share_that_their_variance_has(sources: str) -> None:
    random, orders = np.random.default_rng(0), [list(order) for order in itertools.permutations(sources)]
    gains = {str(order): random.normal() for order in orders}
    made = points_of(grid(order=orders, b=[0, 1.0, 2]), lambda p: gains[str(p["order"])] + p["b"])
    shares = importance([Key("order", "permutation", tuple(sources)), Key("b", "grid", (0, 1, 2))], made, "m")
    variances = np.var(list(gains.values())), np.var([0, 1, 2])
    assert shares["order"] == pytest.approx(variances[0] / sum(variances), abs=0.03)


def test_the_same_points_give_the_same_shares_and_unfinished_ones_do_not_count() -> None:
    keys = [Key("a", "grid", (0, 1, 2)), Key("b", "grid", (False, None, "x"))]
    made = points_of(grid(a=range(3), b=[False, None, "x"]), lambda p: p["a"] + (p["b"] == "x"))
    known = importance(keys, made, "m")
    assert known == importance(keys, made, "m")
    assert known == importance(keys, [*made, *points_of([{"a": 9, "b": "y"}], lambda p: None)], "m")


def test_where_there_is_too_little_to_tell_nothing_is_said() -> None:
    keys = [Key("a", "grid", (0, 1)), Key("b", "grid", (0, 1))]
    four = points_of(grid(a=[0, 1], b=[0, 1]), lambda p: p["a"])
    assert importance(keys, four, "m")["a"] > importance(keys, four, "m")["b"]
    assert importance(keys, four[:3], "m") == {}
    assert importance(keys, four, "other") == {}, "all values are equal"
    assert importance(keys[:1], four, "m") == {}, "one key has it all"
    assert importance(keys, [], "m") == {}
