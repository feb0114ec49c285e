"""From the folders of trials to sweep.json: means, errors, ranks, the front, stages and work."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from raised import raises
from ratchet.documents.sweep import Objective, ObjectiveResult, SweepOutcome
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.store.files import write_sealed
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.tune.gather import SweepRequest, gather, write_sweep
from ratchet.tune.promote import point_to_promote
from ratchet.tune.rank import best_of, pareto

PLAN = Plan.model_validate(
    {
        "name": "plan",
        "model": {"path": "m"},
        "data": {"a": {"path": "a.jsonl"}},
        "stages": {"align": {"kind": "dpo", "data": ["a"]}},
    }
)
ACCURACY, MARGIN = "align/heldout/accuracy", "align/heldout/margin"


def asked(objectives: dict[str, str] | None = None, **more: Any) -> SweepRequest:
    keys = {"stages.align.beta": {"grid": [0.1, 0.3]}, "stages.align.seed": {"randint": [0, 9]}}
    space = {"name": "beta", "keys": keys, "objectives": objectives or {ACCURACY: "max"}} | more
    return SweepRequest(PLAN, Space.model_validate(space), "the plan", "the space", 9)


def step(fp: str, start: str | None = None, **more: Any) -> dict[str, Any]:
    costs = {"pairs": 100, "seconds": 2.5, "reference_pairs": 10, "reference_seconds": 0.5}
    named = {"id": fp, "name": "align.1", "kind": "dpo", "chunk": "a", "start": start, "made_by": "plan-beta/t0"}
    named["started"] = "2026-11-21T10:00:00Z"
    return named | costs | {"references": [f"gone-{fp}"]} | more


class Trials:
    """Writes the folders of a sweep's trials."""

    def __init__(self, root: Path) -> None:
        self.layout, self.count = Layout(root), 0

    def add(
        self, name: str, values: Any = None, error: float | None = 0.05, *, seed: int | None = None, **more: Any
    ) -> str:
        """Add a trial of the point `name`, finished with an accuracy (and a margin) of `values`, or only begun."""
        self.count += 1
        trial = f"t{name}" + ("" if seed is None else f"-s{seed}")
        known = {"trial": trial, "number": self.count, "point": {"stages.align.beta": 0.1, "at": name}}
        known |= {"point_id": f"p{name}", "seed": seed, "by": "grid", "at": "2026-11-21T09:00:00Z"}
        known["point"] = more.get("point", known["point"])
        folder = self.layout.trials("plan-beta").run(trial)
        folder.mkdir(parents=True)
        write_sealed(folder / "point.json", known)
        if values is not None or more:
            metrics = {
                metric: {"value": value, "standard_error": error}
                for metric, value in zip((ACCURACY, MARGIN), np.atleast_1d(values).tolist(), strict=False)
            }
            ended = {"format": 1, "status": "finished", "reason": None, "metrics": metrics, "steps": [], "seconds": 3.5}
            write_sealed(folder / "trial.json", known | ended | {"wandb": None} | more)
        return trial


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def test_the_document_has_the_shape_that_the_page_reads(trials: Trials) -> None:
    trials.add("a", 0.7, steps=[step("f1"), step("f2", "f1")], wandb="project/run")
    trials.add("b")
    found = gather(trials.layout, asked(), seconds=12.34, marks={"pa": ["easy to hard"]}, warnings=["careful"])
    path = write_sweep(trials.layout.sweep("plan-beta"), found)
    assert path.name == "sweep.json"
    assert TypeAdapter(SweepOutcome).validate_json(path.read_text()) == TypeAdapter(SweepOutcome).validate_python(found)
    assert (found.name, found.plan, found.planned, found.seconds) == ("plan-beta", "plan", 9, 12.3)
    assert [(key.key, key.kind, key.values) for key in found.keys] == [
        ("stages.align.beta", "grid", (0.1, 0.3)),
        ("stages.align.seed", "randint", (0, 9)),
    ]
    assert found.points[0].marks == ("easy to hard",) and found.points[1].marks == ()
    assert [trial.status for trial in found.trials] == ["finished", "unfinished"]
    assert found.trials[0].run == "sweeps/plan-beta/trials/ta" and found.trials[0].wandb == "project/run"
    assert gather(Layout(trials.layout.root / "empty"), asked()).trials == ()


def test_means_are_over_the_seeds_that_finished_and_errors_over_seeds_or_items(trials: Trials) -> None:
    for seed, value in enumerate((0.6, 0.7, 0.9)):
        trials.add("a", value, seed=seed)
    trials.add("a", 0.99, seed=3, status="stopped")
    trials.add("b", 0.8, 0.04, seed=0)
    trials.add("b", [None], seed=1)
    trials.add("c", seed=0)
    results = {point.id: point.results[0] for point in gather(trials.layout, asked()).points}
    values = np.array([0.6, 0.7, 0.9])
    assert results["pa"].value == pytest.approx(values.mean())
    assert results["pa"].standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(3))
    assert (results["pa"].seeds, results["pa"].of_seeds) == (3, True)
    assert results["pb"] == ObjectiveResult(ACCURACY, 0.8, 0.04, 1, of_seeds=False)
    assert results["pc"] == ObjectiveResult(ACCURACY, None, None, 0, of_seeds=False)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_ranks_go_by_value_then_error_then_number(trials: Trials, mode: str) -> None:
    given = {"a": (0.5, 0.1), "b": (0.5, None), "c": (0.9, 0.1), "d": (0.5, 0.02), "e": (0.5, 0.1), "f": None}
    for point, values in given.items():
        trials.add(point, *(values or ()))
    found = gather(trials.layout, asked({ACCURACY: mode}))
    ranked = "".join(point.id[1] for point in best_of(found.points))
    assert ranked == ("cdaeb" if mode == "max" else "daebc")
    tie = () if mode == "max" else ("pd", "pa", "pe", "pb")
    assert (found.best, found.tied) == (None if tie else "pc", tie)
    assert found.points[-1].rank is None
    assert not any(point.front for point in found.points)


ENDS: dict[str, dict[str, Any]] = {
    "failed": {"status": "failed"},
    "stopped": {"status": "stopped", "values": 0.99},
    "unfinished": {},
    "without a value": {"values": [None]},
}


@pytest.mark.parametrize("how", [*ENDS, "not chosen yet"])
def test_a_point_that_some_seeds_are_missing_of_comes_after_those_that_are_whole(trials: Trials, how: str) -> None:
    trials.add("a", 0.99, seed=0)
    for seed in (1, 2):
        if how in ENDS:
            trials.add("a", seed=seed, **ENDS[how])
    for seed in range(3):
        trials.add("b", 0.6 + 0.01 * seed, seed=seed)
        trials.add("c", 0.5, seed=seed)
    found = gather(trials.layout, asked(seeds=[0, 1, 2]))
    assert [point.id for point in best_of(found.points)] == ["pb", "pc", "pa"]
    assert found.best == "pb" == point_to_promote(found).id
    assert found.points[0].results[0].value == 0.99
    two = gather(trials.layout, asked({ACCURACY: "max", "align/train/loss": "min"}, seeds=[0, 1, 2]))
    assert not any(point.front for point in two.points), "none has the other metric"


def test_where_no_point_is_whole_the_best_of_them_is_the_best(trials: Trials) -> None:
    trials.add("a", 0.6, seed=0)
    trials.add("b", 0.7, seed=0)
    assert gather(trials.layout, asked(seeds=[0, 1])).best == "pb"


def test_a_point_with_a_seed_missing_is_on_no_front_beside_whole_ones(trials: Trials) -> None:
    trials.add("a", [0.99, 9], seed=0)
    trials.add("a", seed=1, status="failed")
    for seed in (0, 1):
        trials.add("b", [0.6, 5], seed=seed)
    found = gather(trials.layout, asked({ACCURACY: "max", MARGIN: "max"}, seeds=[0, 1]))
    assert [point.id for point in found.points if point.front] == ["pb"]


def test_the_plan_s_own_seed_does_not_count_beside_seeds_that_came_later(trials: Trials) -> None:
    trials.add("a", 0.9)
    trials.add("b", 0.8)
    for seed, value in enumerate((0.9, 0.5)):
        trials.add("a", value, seed=seed)
    found = gather(trials.layout, asked(seeds=[0, 1]))
    assert len(found.trials) == 4
    assert found.points[0].results[0].value == pytest.approx(0.7) and found.points[0].results[0].seeds == 2
    assert found.points[1].results[0].value == 0.8 and found.best == "pa"


def test_two_objectives_have_a_front_and_no_best(trials: Trials) -> None:
    for point, values in {"a": (0.9, 5), "b": (0.8, 9), "c": (0.8, 5), "d": (0.9, 5), "e": (0.99, None)}.items():
        trials.add(point, list(values))
    found = gather(trials.layout, asked({ACCURACY: "max", MARGIN: "max"}))
    assert [point.id for point in found.points if point.front] == ["pa", "pb", "pd"]
    assert found.best is None and all(point.rank is None for point in found.points)


@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12),
    st.tuples(*[st.sampled_from(["max", "min"])] * 3),
)
def test_the_front_is_what_comparing_all_with_all_leaves(points: list[tuple[int, ...]], modes: tuple[str, ...]) -> None:
    objectives = [Objective(str(n), mode) for n, mode in enumerate(modes)]  # type: ignore[arg-type]
    results = {
        str(n): [ObjectiveResult(str(k), float(value), None, 1, of_seeds=False) for k, value in enumerate(point)]
        for n, point in enumerate(points)
    }
    table = np.array(points).reshape(-1, 3) * np.array([1 if mode == "max" else -1 for mode in modes])
    beaten = {
        str(mine)
        for mine, other in itertools.permutations(range(len(table)), 2)
        if (table[other] >= table[mine]).all() and (table[other] > table[mine]).any()
    }
    assert pareto(results, objectives) == results.keys() - beaten


def test_stages_are_told_once_with_all_trials_that_have_them(trials: Trials) -> None:
    steps = {fp: step(fp, "f1" if fp != "f1" else None, seconds=float(n)) for n, fp in enumerate(("f1", "f2", "f3"), 1)}
    trials.add("a", 0.7, steps=[steps["f1"], steps["f2"]])
    trials.add("b", 0.8, steps=[steps["f1"], steps["f3"]])
    trials.add("c", status="failed", steps=[steps["f1"]], reason=None)
    found = gather(trials.layout, asked())
    told = {stage.id: (stage.start, stage.trials) for stage in found.stages}
    assert told == {"f1": (None, ("ta", "tb", "tc")), "f2": ("f1", ("ta",)), "f3": ("f1", ("tb",))}
    work = found.work
    assert (work.stages, work.stages_unshared) == (3, 5)
    assert (work.pairs, work.pairs_unshared) == (300, 500)
    assert (work.seconds, work.seconds_unshared) == (1 + 2 + 3, 3 * 1 + 2 + 3)
    assert (work.reference_pairs, work.reference_pairs_unshared) == (30, 50), "each stage's own, as far as is known"


def test_reference_passes_that_stages_share_are_added_up_once(trials: Trials) -> None:
    layout = trials.layout
    for fp, model, pairs in (("l1", "m", 40), ("l2", "m", 3), ("l3", "n", 5)):
        identity = {"weights": model, "tokens": "t", "split": fp}
        write_record(layout.logps(fp), Record("logps", fp, identity, {"pairs": pairs}, "", 0.0))
    own: dict[str, list[str]] = {"f0": [], "f1": ["l1", "l2"], "f2": ["l1", "l2"], "f3": ["l3"]}
    for point, fps in {"a": ("f0", "f1", "f3"), "b": ("f0", "f2")}.items():
        trials.add(point, 0.5, steps=[step(fp, references=own[fp]) for fp in fps])
    work = gather(layout, asked()).work
    assert (work.reference_pairs, work.reference_pairs_unshared) == (48, 91)
    assert (work.reference_passes, work.reference_passes_unshared) == (2, 3)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"made_by": "quickstart"},
        {"made_by": "plan-beta-wide/t0"},
        {"made_by": "plan-beta/t0", "started": "2026-11-21T08:59:59Z"},
    ],
    ids=["a plain run", "another sweep", "this one before --fresh"],
)
def test_what_was_made_elsewhere_is_found_and_not_counted_as_work(trials: Trials, elsewhere: dict[str, Any]) -> None:
    for fp, pairs in (("l1", 40), ("l2", 3)):
        identity = {"weights": fp, "tokens": "t"}
        write_record(trials.layout.logps(fp), Record("logps", fp, identity, {"pairs": pairs}, "", 0.0))
    first = step("f1", references=["l1"], **elsewhere)
    trials.add("a", 0.5, steps=[first, step("f2", "f1", references=["l2"])])
    trials.add("b", 0.5, steps=[first, step("f3", "f1", references=["l2"], made_by="plan-beta/tb")])
    found = gather(trials.layout, asked())
    assert [one.made_by for one in found.stages] == [elsewhere["made_by"], "t0", "tb"]
    work = found.work
    assert (work.stages, work.stages_found, work.stages_unshared) == (2, 1, 4)
    assert (work.pairs, work.pairs_unshared) == (200, 400)
    assert (work.seconds, work.seconds_unshared) == (5.0, 10.0)
    assert (work.reference_passes, work.reference_passes_unshared) == (1, 4)
    assert (work.reference_pairs, work.reference_pairs_unshared) == (3, 86)


def test_reasons_are_told_in_words_and_the_order_is_that_of_numbers(trials: Trials) -> None:
    for point in "zyx":
        trials.add(point, 0.5)
    reason = {"kind": "TrainingError", "what": "the loss is not finite", "where": "step align.1", "fix": "lower it"}
    trials.add("a", status="failed", reason=reason)
    found = gather(trials.layout, asked())
    assert [trial.id for trial in found.trials] == ["tz", "ty", "tx", "ta"]
    assert found.trials[-1].reason == "TrainingError: step align.1: the loss is not finite\nlower it"
    assert [point.id for point in found.points] == ["pz", "py", "px", "pa"]


def test_importance_is_there_with_enough_points(trials: Trials) -> None:
    for n, (beta, seed) in enumerate(itertools.product((0.1, 0.3), (1, 8))):
        values = {"stages.align.beta": beta, "stages.align.seed": seed}
        trials.add("abcd"[n], beta, point=values)
    shares = {one.key: one.share for one in gather(trials.layout, asked()).importance}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["stages.align.beta"] > shares["stages.align.seed"]


def test_folders_that_are_no_trials_are_left_out_and_broken_ones_named(
    trials: Trials, caplog: pytest.LogCaptureFixture
) -> None:
    trials.add("a", 0.5)
    trials.layout.trials("plan-beta").run("empty").mkdir()
    assert len(gather(trials.layout, asked()).trials) == 1
    path = trials.layout.trials("plan-beta").run("ta") / "trial.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    (damaged,) = gather(trials.layout, asked()).trials
    assert damaged.status == "unfinished" and not damaged.metrics and "counts as unfinished" in caplog.text
    write_sealed(path, {"metrics": {"m": 3}})
    with raises("corrupt", "trials/ta"):
        gather(trials.layout, asked())


def test_the_values_of_an_order_are_its_orders(trials: Trials) -> None:
    trials.add("a", 0.5)
    keys = {"stages.align.data": {"permutation": ["a", "b", "c"]}, "stages.align.beta": {"uniform": [0.1, 0.3]}}
    found = gather(trials.layout, asked(keys=keys))
    assert sorted(found.keys[0].values) == [list(order) for order in itertools.permutations("abc")]
    assert found.keys[1].values == (0.1, 0.3)
    many = {"stages.align.data": {"permutation": list("abcde")}}
    assert gather(trials.layout, asked(keys=many)).keys[0].values == ()
