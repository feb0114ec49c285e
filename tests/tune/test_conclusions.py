"""What a sweep concludes: ties, points compared over the pairs that they share, and sweeps that nothing came of."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from raised import raises
from ratchet.commands import sweep as command
from ratchet.documents.heldout import HeldOutRow, ModelScores
from ratchet.documents.sweep import Objective, SweepOutcome, Value, read_sweep
from ratchet.documents.trial import TrialEnd
from ratchet.errors import TrainingError
from ratchet.evaluate.preference import by_pair, reward_scores
from ratchet.reference.store import Logps, finished_files, write_block
from ratchet.report.sweep.diagnoses import common_reason, failed
from ratchet.report.sweep.page import write_sweep_page
from ratchet.report.sweep.values import objective_axis
from ratchet.store.codec import to_values
from ratchet.store.files import write_json, write_sealed
from ratchet.store.record import Record, write_record
from ratchet.tune.compare import compare, heldout_values, newcombe
from ratchet.tune.gather import gather, write_sweep
from ratchet.tune.metrics import ends_of, read_metrics_of
from ratchet.tune.promote import Origin, _record, point_to_promote
from ratchet.tune.sweep import refuse_nothing
from ratchet.tune.trial import describe_outcome
from report_page import Page, sweep_markdown_of, sweep_page_of
from tests.tune.test_gather import ACCURACY, MARGIN, PLAN, Trials, asked

COUNT = 40


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def logps(random: np.random.Generator, shift: float = 0.0) -> Logps:
    tokens = random.integers(5, 30, (2, COUNT)).astype(np.int32)
    chosen, rejected = -random.gamma(9.0, 4.0, (2, COUNT)) - 40
    return Logps(chosen + shift, rejected, *tokens)


def stored(folder: Path, ids: list[str], scores: Logps) -> Path:
    """Write scores into the store as a pass does."""
    folder.mkdir(parents=True)
    write_block(folder, 0, ids, scores)
    record = Record("logps", folder.name, {}, {"pairs": len(ids)}, "2026-11-21T10:00:00Z", 1.0)
    write_record(folder, record, finished_files(folder))
    return folder


def scored(trials: Trials, name: str, model: Logps, base: Logps, ids: list[str]) -> None:
    """Add a finished trial with its held-out figures, and what they were computed from."""
    root = trials.layout.root
    mine, theirs = (
        stored(root / "store/logps" / f"{name}-{who}", ids, one) for who, one in (("m", model), ("b", base))
    )
    found = vars(reward_scores(model, base))
    row = HeldOutRow(source="a", against="base", record=str(mine), against_record=str(theirs), **found)
    trials.add(name)
    folder = trials.layout.trials("plan-beta").run(f"t{name}")
    (folder / "scores").mkdir()
    kept = ModelScores(model="align", weights="w", heldout=(row,), gamma=(), exact_match=(), written="")
    write_json(folder / "scores/align.json", to_values(kept))
    read = read_metrics_of(folder, PLAN, [ACCURACY, MARGIN])
    ends = ends_of(folder, PLAN, [ACCURACY, MARGIN])
    metrics = {
        metric: {"value": value, "standard_error": error}
        | (dict(zip(("low", "high"), ends[metric], strict=True)) if metric in ends else {})
        for metric, (value, error) in read.items()
    }
    ended = json.loads((folder / "point.json").read_text()) | {"format": 1, "status": "finished", "reason": None}
    write_sealed(folder / "trial.json", ended | {"metrics": metrics, "steps": [], "seconds": 1.0})


def test_points_that_share_held_out_pairs_are_compared_pair_by_pair(trials: Trials) -> None:
    random = np.random.default_rng(4)
    base, ids = logps(random), [f"{n:032x}" for n in range(COUNT)]
    one = dataclasses.replace(base, chosen=base.chosen + random.normal(3, 9, COUNT))
    two = dataclasses.replace(one, chosen=one.chosen - 1 + random.normal(0, 0.5, COUNT))
    scored(trials, "a", one, base, ids)
    back = list(reversed(range(COUNT)))  # the rows of another trial may stand in another order
    scored(trials, "b", two.at(np.array(back)), base.at(np.array(back)), [ids[n] for n in back])
    found = gather(trials.layout, asked({MARGIN: "max"}))
    (told,) = found.comparisons
    margins = [by_pair(side, base)["margin"] for side in (one, two)]
    usual = scipy.stats.ttest_rel(*margins)
    interval = usual.confidence_interval(0.95)
    assert (told.point, told.other, told.basis, told.count) == ("pa", "pb", "pairs", COUNT)
    assert told.difference == pytest.approx(np.mean(margins[0] - margins[1]))
    assert (told.low, told.high) == pytest.approx((interval.low, interval.high))
    independent = np.hypot(*(point.results[0].standard_error or 0 for point in found.points))
    assert told.low is not None and told.low > 0 > told.difference - 2 * independent, "pairs tell what is hidden else"
    assert found.best == "pa" and not found.diagnoses
    assert f"over {COUNT} pairs of both" in Page(sweep_page_of(read_sweep(dataclasses.asdict(found)))).text


def test_without_the_scores_or_with_other_pairs_two_points_are_independent(trials: Trials) -> None:
    random = np.random.default_rng(5)
    base, ids = logps(random), [f"{n:032x}" for n in range(COUNT)]
    scored(trials, "a", dataclasses.replace(base, chosen=base.chosen + 9), base, ids)
    scored(trials, "b", dataclasses.replace(base, chosen=base.chosen + 1), base, [*ids[1:], "f" * 32])
    (other,) = gather(trials.layout, asked({MARGIN: "max"})).comparisons
    assert (other.basis, other.count) == ("independent", 0)
    folder = trials.layout.trials("plan-beta").run("ta")
    assert len(heldout_values(folder, PLAN, f"{MARGIN}/a") or {}) == COUNT
    (trials.layout.root / "store/logps/a-b/block-000000.parquet").write_bytes(b"not what was written")
    assert heldout_values(folder, PLAN, MARGIN) is None
    assert heldout_values(folder, PLAN, "align/train/loss") is None


def test_points_of_several_seeds_are_compared_seed_by_seed(trials: Trials) -> None:
    values = {"a": [0.9, 0.7, 0.8], "b": [0.88, 0.67, 0.79]}
    for point, some in values.items():
        for seed, value in enumerate(some):
            trials.add(point, value, seed=seed)
    (told,) = gather(trials.layout, asked(seeds=[0, 1, 2])).comparisons
    interval = scipy.stats.ttest_rel(values["a"], values["b"]).confidence_interval(0.95)
    usual = scipy.stats.ttest_rel(values["a"], values["b"]).pvalue
    assert (told.basis, told.count, told.p) == ("seeds", 3, pytest.approx(usual))
    assert (told.low, told.high) == pytest.approx((interval.low, interval.high))


def test_independent_shares_have_newcombes_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10: 56/70 against 48/80 with Wilson's ends.
    one = (56 / 70, *scipy.stats.binomtest(56, 70).proportion_ci(method="wilson"))
    two = (48 / 80, *scipy.stats.binomtest(48, 80).proportion_ci(method="wilson"))
    assert newcombe(one, two) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def three_equal(trials: Trials) -> SweepOutcome:
    """Three points of 11 right of 11."""
    random = np.random.default_rng(6)
    base, ids = logps(random), [f"{n:032x}" for n in range(COUNT)]
    some = np.arange(11)
    base = base.at(some)
    for name in "abc":
        right = dataclasses.replace(base, chosen=base.chosen + random.gamma(4.0, 1.0, 11))
        scored(trials, name, right, base, ids[:11])
    return gather(trials.layout, asked())


def test_a_tie_is_no_best_on_the_page_on_the_terminal_or_in_a_promotion(trials: Trials, tmp_path: Path) -> None:
    found = three_equal(trials)
    assert (found.best, found.tied) == (None, ("pa", "pb", "pc"))
    assert [one.name for one in found.diagnoses] == ["tie"]
    with raises("plan.no-best") as caught:
        point_to_promote(found)
    assert re.search(r"(?s)--promote POINT.*pa .*pb .*pc ", str(caught.value))
    assert point_to_promote(found, "pb").id == "pb"
    one_key = dataclasses.replace(found, keys=found.keys[:1])
    head = "\n".join(
        _record(one_key, point_to_promote(found, "pb"), Origin(PLAN, tmp_path, "ratchet sweep"), tmp_path / "p.yaml")
    )
    assert "point: pb, one of 3 points that came to the same" in head and "as good: pa" in head
    assert f"{ACCURACY} (max): 1 (0.72 to 1, 95 %) (exact interval over items), 1 run" in head and "±" not in head
    task = SimpleNamespace(name="ta", objectives=(ACCURACY,))
    end = TrialEnd(1, "ta", 1, {}, "pa", None, "finished", metrics=found.trials[0].metrics, seconds=1.0)
    assert describe_outcome(task, end) == f"{'ta':<20} finished in 1.0 s: {ACCURACY} 1 (0.72 to 1)"  # type: ignore[arg-type]
    write_sweep(trials.layout.sweep("plan-beta"), found)
    page, _ = write_sweep_page(trials.layout.sweep("plan-beta"), found)
    text = Page(page.read_text()).text
    for shown in (text, sweep_markdown_of(read_sweep(dataclasses.asdict(found))).replace("\\", "")):
        assert "A tie: 3 points came to the same" in shown and "None of them is best" in shown
        assert "Best:" not in shown and "best:" not in shown and "± 0.0" not in shown
        assert "1.00 (0.72 to 1.00)" in shown


def test_eleven_of_eleven_are_not_sure_and_no_axis_goes_above_1(trials: Trials) -> None:
    found = three_equal(trials)
    exact = scipy.stats.binomtest(11, 11).proportion_ci(method="exact")
    for trial in found.trials:
        assert trial.metrics[ACCURACY] == Value(1.0, None, pytest.approx(exact.low), 1.0)
    assert all(one.low == pytest.approx(-one.high) and one.low < -0.2 for one in found.comparisons if one.high)
    assert [one.basis for one in found.comparisons] == ["pairs", "pairs"]
    read = read_sweep(dataclasses.asdict(found))
    for errors in (False, True):
        axis = objective_axis(read, 0, errors=errors)
        assert axis.high == 1.0 and axis.low < 1.0
    assert "1.05" not in sweep_page_of(read)


def test_seeds_that_all_came_to_1_are_not_sure_either(trials: Trials) -> None:
    for seed in (0, 1):
        ends = {"metrics": {ACCURACY: {"value": 1.0, "standard_error": None, "low": 0.7 + seed / 10, "high": 1.0}}}
        trials.add("a", seed=seed, **ends)
    (point,) = gather(trials.layout, asked(seeds=[0, 1])).points
    (result,) = point.results
    assert (result.value, result.standard_error, result.low, result.high, result.of_seeds) == (1, None, 0.7, 1, True)


def test_a_task_without_one_right_answer_is_not_sure(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"evaluate": ()})
    folder = tmp_path / "runs/p"
    (folder / "scores").mkdir(parents=True)
    assert ends_of(folder, plan, [ACCURACY, "align/score/sums", "align/train/loss"]) == {}


REASON = (
    "TrainingError: step align: at step {} the loss of {} pairs is not finite; pairs prefs.jsonl:{}\nlower the rate"
)


def broken(trials: Trials, count: int, **more: Any) -> SweepOutcome:
    for number in range(count):
        what, _, fix = REASON.format(number + 2, 10 + number, 17 * number).partition("\n")
        reason = {"kind": "TrainingError", "where": "step align", "what": what.split(": ", 2)[2], "fix": fix}
        trials.add(f"x{number}", status="failed", reason=reason, metrics={}, steps=[])
    return gather(trials.layout, asked(**more))


def test_a_sweep_of_which_nothing_came_is_an_error_that_names_the_common_reason_once(trials: Trials) -> None:
    found = broken(trials, 3)
    with pytest.raises(TrainingError) as caught:
        refuse_nothing(found)
    assert caught.value.exit_code == 5
    said = str(caught.value)
    assert (
        "3 of 3 trials failed, 3 of them because of this: TrainingError: step align: at step 2 the loss of 10" in said
    )
    assert said.count("is not finite") == 1 and "lower the rate; --fresh tries these points again" in said
    with raises("plan.nothing-finished") as caught:
        point_to_promote(found)
    assert "--fresh" in str(caught.value)
    assert "no trial finished" in Page(sweep_page_of(read_sweep(dataclasses.asdict(found)))).text
    trials.add("y", 0.5)
    some = gather(trials.layout, asked())
    refuse_nothing(some)
    assert [one.name for one in some.diagnoses] == ["some trials failed"]
    assert common_reason(failed(some))[1] == 3


def test_a_sweep_that_is_not_at_its_end_is_no_failure_yet(trials: Trials) -> None:
    broken(trials, 2)
    trials.add("begun")
    found = gather(trials.layout, asked())
    refuse_nothing(found)
    with raises("plan.nothing-finished") as caught:
        point_to_promote(found)
    assert "--fresh" not in str(caught.value)  # it is not at its end


def test_the_command_refuses_before_it_promotes() -> None:
    text = Path(command.__file__).read_text()
    assert text.index("refuse_nothing(outcome)") < text.index("promote_point(sweep")


def test_a_comparison_is_of_the_first_and_every_other(trials: Trials) -> None:
    assert compare(trials.layout, PLAN, (), (), Objective(ACCURACY, "max")) == ()
    for name, value in (("a", 0.9), ("b", 0.7), ("c", 0.8)):
        trials.add(name, value, 0.01)
    found = gather(trials.layout, asked())
    assert [(one.point, one.other) for one in found.comparisons] == [("pa", "pc"), ("pa", "pb")]
    assert found.comparisons[0].low == pytest.approx(0.1 - 1.959964 * 0.01 * 2**0.5)
