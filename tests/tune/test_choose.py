"""Which trials a sweep has, in which order, and that a restart changes nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from ratchet.documents.sweep import Status, Value
from ratchet.documents.trial import TrialEnd, TrialPoint
from ratchet.plan.space import Space
from ratchet.store.codec import to_values
from ratchet.store.files import write_sealed
from ratchet.tune.choose import Chooser, Chosen
from ratchet.tune.points import SeededPoint
from ratchet.tune.tpe import Known, propose

METRIC = "align/heldout/accuracy"


def space(**keys: Any) -> Space:
    fields = {
        "name": "x",
        "keys": {"stages.align.beta": {"uniform": [0.0, 1.0]}},
        "objectives": {METRIC: "max"},
        "search": {"by": "tpe", "seed": 3},
        "budget": {"trials": 12},
    }
    return Space.model_validate(fields | keys)


def choose(folder: Path, chosen: Chosen) -> None:
    """Write down that a trial was chosen, as its process does."""
    trial = chosen.trial
    path = folder / trial.trial_id / "point.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        point = TrialPoint(trial.trial_id, chosen.number, trial.values, trial.point_id, trial.seed, chosen.by, "now")
        write_sealed(path, to_values(point))


def end(folder: Path, chosen: Chosen, value: float | None, **fields: Any) -> TrialEnd:
    """Write down what a trial came to, and return it."""
    trial = chosen.trial
    made = {
        "reason": None if value is not None else {"kind": "TrainingError", "what": "", "where": "", "fix": ""},
        "metrics": {METRIC: Value(value)} if value is not None else {},
        **fields,
    }
    status: Status = "finished" if value is not None else "failed"
    found = TrialEnd(1, trial.trial_id, chosen.number, trial.values, trial.point_id, trial.seed, status, **made)
    write_sealed(folder / trial.trial_id / "trial.json", to_values(found))
    return found


def worth(chosen: Chosen) -> float:
    """A hill with its top at 0.3."""
    return -abs(float(chosen.trial.values["stages.align.beta"]) - 0.3)


def play(asked: Space, folder: Path, most: int = 1000) -> list[tuple[int, str]]:
    """Run trials one after another until there are no more, or a driver is killed after `most`."""
    chooser, found = Chooser(asked, folder), []
    while len(found) < most and (chosen := chooser.next()) is not None:
        choose(folder, chosen)
        chooser.ended(chosen.trial.trial_id, end(folder, chosen, worth(chosen)))
        found.append((chosen.number, chosen.trial.trial_id))
    return found


@pytest.mark.parametrize(
    ("by", "killed_after"),
    nightly(itertools.product(["tpe", "random"], [1, 5, 11]), lambda by, killed: (by == "tpe") == (killed == 5)),
)
def test_a_driver_killed_and_started_again_ends_with_the_same_trials(
    tmp_path: Path, by: str, killed_after: int
) -> None:
    asked = space(search={"by": by, "seed": 3})
    whole = play(asked, tmp_path / "whole")
    first = play(asked, tmp_path / "cut", killed_after)
    assert first + play(asked, tmp_path / "cut") == whole
    assert [number for number, _ in whole] == list(range(1, 13))


def test_what_was_left_unfinished_comes_first_and_what_has_ended_not_at_all(tmp_path: Path) -> None:
    asked = space(search={"by": "random"}, budget={"trials": 4})
    chooser = Chooser(asked, tmp_path)
    one, two = chooser.next(), chooser.next()
    assert one and two
    choose(tmp_path, one)
    choose(tmp_path, two)
    end(tmp_path, one, 0.5)
    again = Chooser(asked, tmp_path)
    assert again.ended_before == [one.trial.trial_id]
    names = [found.trial.trial_id for found in iter(again.next, None)]
    assert names[0] == two.trial.trial_id
    assert one.trial.trial_id not in names and len(names) == len(set(names)) == 3


@pytest.mark.parametrize(("kind", "again"), [("StorageError", True), ("ClusterError", True), ("TrainingError", False)])
def test_a_trial_that_failed_of_its_machine_is_run_again_and_one_of_its_point_is_not(
    tmp_path: Path, kind: str, again: bool
) -> None:
    asked = space(search={"by": "random"}, budget={"trials": 1})
    chosen = Chooser(asked, tmp_path).next()
    assert chosen
    choose(tmp_path, chosen)
    end(tmp_path, chosen, None, reason={"kind": kind, "what": "", "where": "", "fix": ""})
    assert (Chooser(asked, tmp_path).next() is not None) == again


def test_a_larger_budget_goes_on_with_the_same_sweep(tmp_path: Path) -> None:
    short, long = space(budget={"trials": 3}), space(budget={"trials": 7})
    assert play(short, tmp_path / "a") + play(long, tmp_path / "a") == play(long, tmp_path / "b")


def test_hours_that_earlier_calls_took_count(tmp_path: Path) -> None:
    asked = space(budget={"hours": 2.0})
    assert Chooser(asked, tmp_path, spent=1.9).next() is not None
    assert Chooser(asked, tmp_path, spent=2.0).next() is None


def test_what_a_kill_left_is_gone_on_with_after_the_hours_are_used_up(tmp_path: Path) -> None:
    asked = space(budget={"hours": 2.0})
    chosen = Chooser(asked, tmp_path).next()
    assert chosen
    choose(tmp_path, chosen)
    late = Chooser(asked, tmp_path, spent=2.5)
    assert [late.next(), late.next()] == [chosen, None]


def told(asked: Space, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Known]:
    """Return what TPE is told of the points before it is asked for another."""
    asks: list[list[Known]] = []
    monkeypatch.setattr("ratchet.tune.choose.propose", lambda space, known: asks.append(known))
    chooser = Chooser(asked, folder)
    while chooser.next() is not None:
        pass
    return asks[-1]


Ends = tuple[int | None, float | None, dict[str, Any]]
PASSING = {"reason": {"kind": "StorageError", "what": "", "where": "", "fix": ""}}
OTHER = {"metrics": {"align/train/loss": Value(0.4)}}
NULL = {"metrics": {METRIC: Value(None)}}


@pytest.mark.parametrize(
    ("seeds", "ends", "known"),
    [
        ([0, 1], [(0, 0.5, {}), (1, 0.7, {})], ("done", (0.6,))),
        ([0, 1], [(0, 0.5, {}), (1, None, {})], ("done", None)),
        ([0, 1], [(0, 0.5, {}), (1, None, PASSING)], ("running", None)),
        ([0, 1], [(0, 0.5, {})], ("running", None)),
        ([0, 1], [(None, 0.1, {}), (0, 0.5, {}), (1, 0.7, {})], ("done", (0.6,))),
        (None, [(None, None, PASSING)], ("running", None)),
        (None, [(None, None, {})], ("done", None)),
        (None, [(None, 0.5, OTHER)], ("running", None)),
        (None, [(None, 0.5, NULL)], ("running", None)),
    ],
    ids=["all", "one-failed", "of-the-machine", "not-all", "a-seedless-one", "machine", "failed", "lacks-it", "null"],
)
def test_what_tpe_is_told_of_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int] | None, ends: list[Ends], known: tuple[Any, Any]
) -> None:
    for number, (seed, value, fields) in enumerate(ends, 1):
        # An older point: its seeds are not taken up again.
        chosen = Chosen(SeededPoint({"stages.align.beta": 0.5}, seed), number, "tpe")
        choose(tmp_path, chosen)
        end(tmp_path, chosen, value, **fields)
    for seed in seeds or [None]:
        chosen = Chosen(SeededPoint({"stages.align.beta": 0.9}, seed), 9, "tpe")
        choose(tmp_path, chosen)
        end(tmp_path, chosen, 0.1)
    found = told(space(seeds=seeds), tmp_path, monkeypatch)
    assert (found[0].point, found[0].state) == ({"stages.align.beta": 0.5}, known[0])
    assert found[0].values == (None if known[1] is None else pytest.approx(known[1]))
    assert len(found) == 2


def test_every_point_of_tpe_has_all_its_seeds_also_after_a_kill(tmp_path: Path) -> None:
    asked = space(seeds=[0, 1, 2], budget={"trials": 9})
    whole = play(asked, tmp_path / "whole")
    assert play(asked, tmp_path / "cut", 4) + play(asked, tmp_path / "cut") == whole
    points = [name.split("-")[0] for _, name in whole]
    assert [points.count(point) for point in dict.fromkeys(points)] == [3, 3, 3]


@pytest.mark.slow
def test_tpe_comes_nearer_to_what_is_wanted_than_chance(tmp_path: Path) -> None:
    """Bergstra et al. 2011: after the first draws, points gather where earlier ones did well."""
    off = {}
    for by in ("tpe", "random"):
        far: list[float] = []
        for seed in range(4):
            asked = space(search={"by": by, "seed": seed}, budget={"trials": 40})
            play(asked, tmp_path / f"{by}{seed}")
            paths = sorted((tmp_path / f"{by}{seed}").glob("*/point.json"))
            told = [json.loads(path.read_text()) for path in paths]
            far += [abs(one["point"]["stages.align.beta"] - 0.3) for one in told if one["number"] > 20]
        off[by] = sum(far) / len(far)
    assert off["tpe"] < 0.6 * off["random"]


def test_a_minimum_is_looked_for_where_less_is_better() -> None:
    known = [Known({"stages.align.beta": n / 40}, "done", (n / 40,)) for n in range(40)]
    lows = [propose(space(objectives={METRIC: "min"}, search={"by": "tpe", "seed": n}), known) for n in range(20)]
    highs = [propose(space(search={"by": "tpe", "seed": n}), known) for n in range(20)]
    mean = {
        name: sum(one["stages.align.beta"] for one in found if one) / 20 for name, found in (("l", lows), ("h", highs))
    }
    assert mean["l"] < 0.35 < 0.65 < mean["h"]


def test_tpe_ends_where_no_other_point_is_left() -> None:
    asked = space(keys={"stages.align.kind": {"choice": ["dpo", "ipo"]}})
    known = [Known({"stages.align.kind": kind}, "done", (0.5,)) for kind in ("dpo", "ipo")]
    assert propose(asked, known[:1]) == {"stages.align.kind": "ipo"}
    assert propose(asked, known) is None


@pytest.mark.heavy
def test_tpe_comes_to_every_point_of_a_space_that_has_an_end() -> None:
    """The estimator crowds around what did best: without another way out it ended after 11 of the 24."""
    asked = space(
        keys={
            "stages.align.data": {"permutation": ["a", "b", "c"]},
            "stages.align.beta": {"grid": [0.1, 0.3, 1.0, 3.0]},
        }
    )
    known: list[Known] = []
    while (point := propose(asked, known)) is not None:
        best = point["stages.align.data"] == ["b", "a", "c"] and point["stages.align.beta"] == 0.3
        known.append(Known(point, "done", (float(best),)))
    assert len({SeededPoint(one.point).point_id for one in known}) == len(known) == 24


def test_tpe_takes_failed_points_running_ones_orders_and_two_objectives() -> None:
    asked = space(
        keys={
            "stages.align.data": {"permutation": ["a", "b", "c"]},
            "stages.align.beta": {"loguniform": [0.01, 1.0]},
            "stages.align.batch": {"randint": [8, 64]},
        },
        objectives={METRIC: "max", "align/train/loss": "min"},
    )
    known: list[Known] = []
    for n in range(30):
        point = propose(asked, known)
        assert point is not None
        assert sorted(point["stages.align.data"]) == ["a", "b", "c"]
        assert 0.01 <= point["stages.align.beta"] <= 1.0
        assert 8 <= point["stages.align.batch"] <= 64 and isinstance(point["stages.align.batch"], int)
        values = None if n % 3 == 0 else (n / 30, 1 - n / 30)
        known.append(Known(point, "running") if n % 7 == 6 else Known(point, "done", values))
    assert len({SeededPoint(one.point).point_id for one in known}) == 30
