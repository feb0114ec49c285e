"""Nodes that come and go: what the workers are told, from what Ray says of its nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratchet.train.driver_loop import LOOKS, Nodes, NodeWatch, room
from ratchet.train.notice import WORKERS, Notice
from train_bench import spec_of

ONE_CPU = {"CPU": 1.0}


def nodes(leaving: tuple[str, ...] = (), **free: float) -> Nodes:
    """Nodes of four CPUs each, with so many of them free."""
    return Nodes({name: {"CPU": 4.0} for name in free}, {k: {"CPU": v} for k, v in free.items()}, frozenset(leaving))


def watch(folder: Path, used: list[str], fewest: int = 1, most: int = 4) -> NodeWatch:
    (folder / WORKERS).write_text(json.dumps({"nodes": used}))
    return NodeWatch(spec_of(folder, workers=most, fewest_workers=fewest), ONE_CPU)


@pytest.mark.parametrize(
    ("found", "used", "each", "expected"),
    [
        (nodes(a=3.0), ["a"], ONE_CPU, 4),
        (nodes(a=3.0, b=4.0), ["a"], ONE_CPU, 8),
        (nodes(("b",), a=3.0, b=4.0), ["a"], ONE_CPU, 4),
        (nodes(a=1.0, b=4.0), ["a"], {"CPU": 3.0}, 2),
        (nodes(a=3.0), ["a"], {"CPU": 1.0, "GPU": 1.0}, 1),
        (nodes(a=0.99), [], ONE_CPU, 0),
        (nodes(a=0.3), [], {"CPU": 0.1}, 3),
    ],
)
def test_room_is_what_is_free_on_nodes_that_stay(found: Nodes, used: list[str], each: dict, expected: int) -> None:
    assert room(found, used, each) == expected


def test_nothing_is_told_before_there_are_workers(tmp_path: Path) -> None:
    assert NodeWatch(spec_of(tmp_path), ONE_CPU).notice(nodes(("a",), a=4.0)) is None


def test_a_node_that_is_taken_away_is_told_whatever_the_range(tmp_path: Path) -> None:
    found = watch(tmp_path, ["a", "b"], fewest=2, most=2).notice(nodes(("b",), a=0.0, b=0.0))
    assert found == Notice("leave", "node b is being taken away")
    assert watch(tmp_path, ["a"]).notice(nodes(("b",), a=0.0, b=4.0)) is None  # not one of ours


def test_room_must_last_before_more_workers_are_asked_for(tmp_path: Path) -> None:
    seen = watch(tmp_path, ["a"], most=2)
    roomy, full = nodes(a=2.0), nodes(a=0.0)
    looks = [*[roomy] * (LOOKS - 1), full, *[roomy] * LOOKS]
    told = [seen.notice(now) for now in looks]
    assert told[:-1] == [None] * (len(looks) - 1)
    assert told[-1] == Notice("grow", "there is room for 2 workers in place of 1")


@pytest.mark.parametrize(("fewest", "most"), [(2, 2), (1, 2)])
def test_a_full_group_or_a_fixed_one_never_grows(tmp_path: Path, fewest: int, most: int) -> None:
    seen = watch(tmp_path, ["a", "a"], fewest, most)
    assert [seen.notice(nodes(a=2.0, b=4.0)) for _ in range(2 * LOOKS)] == [None] * (2 * LOOKS)


def test_room_that_brought_no_worker_is_not_asked_for_again_until_the_nodes_change(tmp_path: Path) -> None:
    seen, now = watch(tmp_path, ["a"], most=2), nodes(a=2.0)
    assert [seen.notice(now) for _ in range(LOOKS)][-1] is not None
    seen.regrouped("grow", 1, now)
    assert [seen.notice(now) for _ in range(2 * LOOKS)] == [None] * (2 * LOOKS)  # Ray began one worker again
    more = nodes(a=2.0, b=4.0)
    assert [seen.notice(more) for _ in range(LOOKS)][-1] is not None


def test_room_that_was_gone_and_is_there_again_is_asked_for_again(tmp_path: Path) -> None:
    seen, roomy, full = watch(tmp_path, ["a"], most=2), nodes(a=2.0), nodes(a=0.0)
    assert [seen.notice(roomy) for _ in range(LOOKS)][-1] is not None
    seen.regrouped("grow", 1, roomy)
    assert [seen.notice(roomy) for _ in range(2 * LOOKS)] == [None] * (2 * LOOKS)
    assert seen.notice(full) is None
    assert [seen.notice(roomy) for _ in range(LOOKS)][-1] is not None


def test_room_that_brought_workers_may_be_asked_for_again(tmp_path: Path) -> None:
    seen, now = watch(tmp_path, ["a"], most=3), nodes(a=3.0)
    assert [seen.notice(now) for _ in range(LOOKS)][-1] is not None
    seen.regrouped("grow", 1, now)
    (tmp_path / WORKERS).write_text(json.dumps({"nodes": ["a", "a"]}))
    assert [seen.notice(now) for _ in range(LOOKS)][-1] is not None
