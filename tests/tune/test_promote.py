"""The winner of a sweep as a plan: the same plan with the winner's values, with where it comes from at its head."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plan_example
from raised import raises
from ratchet.documents.sweep import Objective, ObjectiveResult, Point, SweepOutcome
from ratchet.errors import PlanError
from ratchet.plan import override
from ratchet.plan.base import NAME_PATTERN
from ratchet.plan.document import Document
from ratchet.plan.load import load_plan, plan_of
from ratchet.plan.reading import parse, read
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.store.layout import Layout
from ratchet.tune.gather import SweepRequest, gather
from ratchet.tune.promote import Origin, point_to_promote, promote, promoted_name
from ratchet.tune.yaml_text import in_yaml_block, one_line

ACCURACY = "align/heldout/accuracy"
VALUES = {"stages.align.beta": 0.31622776601683794, "stages.align.learning_rate": 5e-07}
KEYS = {"stages.align.beta": {"loguniform": [0.1, 1.0]}, "stages.align.learning_rate": {"grid": [5e-07, 1e-6]}}


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Document:
    """The example's plan with the winner's values, read in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = plan_example.write(tmp_path)
    return override.apply(read(path), [f"{key}={value}" for key, value in VALUES.items()])


def result(value: float | None, metric: str = ACCURACY, **more: Any) -> ObjectiveResult:
    return ObjectiveResult(metric, value, None if value is None else 0.0123, 3, of_seeds=True, **more)


def sweep_of(*points: Point, objectives: tuple[str, ...] = (ACCURACY,), name: str = "beta") -> SweepOutcome:
    plan = load_plan(Path("jobs/x.yaml"))
    space = Space.model_validate({"name": name, "keys": KEYS, "objectives": dict.fromkeys(objectives, "max")})
    made = gather(Layout(Path.cwd()), SweepRequest(plan, space))
    assert made.objectives == tuple(Objective(metric, "max") for metric in objectives)
    return dataclasses.replace(made, points=points, created="2026-11-21T09:00:00Z")


def origin() -> Origin:
    plan = load_plan(Path("jobs/x.yaml"))
    return Origin(plan, Path("sweeps/careful-beta").resolve(), "ratchet sweep jobs/x.yaml beta.yaml --promote")


BEST = Point("p1", VALUES, (result(0.75),), 1, front=False)
SECOND = Point("p2", VALUES | {"stages.align.beta": 0.5}, (result(0.7),), 2, front=False)
FAILED = Point("p3", VALUES | {"stages.align.beta": 0.9}, (result(None),), None, front=False)


def test_the_promoted_plan_is_the_trial_s_in_all_but_its_name(document: Document) -> None:
    path = promote(document, sweep_of(FAILED, SECOND, BEST), BEST, origin(), Path("jobs"))
    assert path == Path("jobs/careful-beta.yaml")
    made, trial = load_plan(path), plan_of(document)
    assert made.name == "careful-beta"
    assert made.model_copy(update={"name": trial.name}) == trial
    assert made.stages["align"].beta == VALUES["stages.align.beta"]  # type: ignore[union-attr]
    assert list(made.stages) == list(trial.stages) and list(made.data) == list(trial.data)
    assert "learning_rate: 5e-7" in path.read_text()


def test_the_head_says_how_the_plan_was_found(document: Document) -> None:
    sweep = sweep_of(FAILED, SECOND, BEST)
    path = promote(document, sweep, BEST, origin(), Path("jobs"))
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert head[0] == "# Promoted from the sweep careful-beta"
    for said in (
        "ratchet run jobs/careful-beta.yaml",
        "promoted by: ratchet sweep jobs/x.yaml beta.yaml --promote",
        "from here: ../sweeps/careful-beta",
        "rank 1 of 2 points with a result",
        "stages.align.beta: 0.31622776601683794",
        "stages.align.learning_rate: 5e-7",
        f"{ACCURACY} (max): 0.75 ± 0.012 (standard error over seeds), 3 runs",
        "runner-up: p2",
        "stages.align.beta=0.5",
        "date: 2026-11-21T09:00:00Z",
        f"commit {sweep.commit}",
        "seeds: the plan's own",
    ):
        assert said in text, said


def test_it_is_replaced_by_its_own_sweep_and_by_no_other(document: Document) -> None:
    first = promote(document, sweep_of(BEST), BEST, origin(), Path("jobs"))
    better = override.apply(document, ["stages.align.beta=0.9"])
    assert promote(better, sweep_of(BEST), BEST, origin(), Path("jobs")) == first
    assert load_plan(first).stages["align"].beta == 0.9  # type: ignore[union-attr]
    other = dataclasses.replace(sweep_of(BEST), name="other-sweep")
    with raises("run.not-promoted"):
        promote(document, other, BEST, origin(), Path("jobs"))
    edited = first.read_text().replace("beta: 0.9", "beta: 0.8")
    first.write_text(edited)
    with raises("run.edited"):
        promote(document, sweep_of(BEST), BEST, origin(), Path("jobs"))
    assert first.read_text() == edited
    first.write_text("name: mine\n")
    with raises("run.not-promoted"):
        promote(document, sweep_of(BEST), BEST, origin(), Path("jobs"))


def test_comments_may_be_written_into_a_promoted_plan(document: Document) -> None:
    path = promote(document, sweep_of(BEST), BEST, origin(), Path("jobs"))
    path.write_text(path.read_text() + "# a note\n")
    promote(document, sweep_of(BEST), BEST, origin(), Path("jobs"))
    assert "a note" not in path.read_text()


def test_a_document_that_is_no_plan_is_not_written(document: Document) -> None:
    with raises("plan"):
        promote(override.apply(document, ["stages.align.beta=-1"]), sweep_of(BEST), BEST, origin(), Path("jobs"))
    assert not Path("jobs/careful-beta.yaml").exists()


def test_the_best_point_is_taken_unless_another_is_named(document: Document) -> None:
    sweep = sweep_of(FAILED, SECOND, BEST)
    assert point_to_promote(sweep) == BEST and point_to_promote(sweep, "p2") == SECOND
    with raises("plan.no-point") as caught:
        point_to_promote(sweep, "p9")
    assert re.search(r"name one of these, best first:\n  p1 .*0.75.*\n  p2 ", str(caught.value))
    with raises("plan.nothing-finished"):
        point_to_promote(sweep, "p3")
    with raises("plan.nothing-finished"):
        point_to_promote(sweep_of(FAILED))
    second = promote(document, sweep, SECOND, origin(), Path("jobs")).read_text()
    assert "# point: p2, rank 2 of 2" in second and "# best: p1" in second


def test_of_several_objectives_the_front_is_listed(document: Document) -> None:
    both = (ACCURACY, "align/heldout/margin")
    front = Point("p1", VALUES, (result(0.75), result(2.0, both[1])), None, front=True)
    behind = dataclasses.replace(front, id="p2", front=False)
    sweep = sweep_of(front, behind, objectives=both)
    with pytest.raises(PlanError) as caught:
        point_to_promote(sweep)
    assert "2 objectives" in str(caught.value) and "p1" in caught.value.fix and "p2" not in caught.value.fix
    text = promote(document, sweep, point_to_promote(sweep, "p1"), origin(), Path("jobs")).read_text()
    assert "# point: p1, one of 1 on the front, of 2 points with a result" in text


@pytest.mark.parametrize(("plan", "space"), [("p" * 47, "s"), ("a" * 46, "b"), ("quickstart", "beta-lambda")])
def test_names_are_cut_by_the_rule_of_names(plan: str, space: str) -> None:

    name = promoted_name(plan, space)
    assert re.fullmatch(NAME_PATTERN, name) and name.startswith(plan[:46])


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
AWKWARD = st.sampled_from(["1e-6", "null", "~", "yes", "0x1f", "a: b", "#", "- x", "\\d'", "\U0001f600", "\x85", ""])
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | AWKWARD
KEYS_OF = TEXT | AWKWARD
VALUE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS_OF, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS_OF, VALUE, min_size=1))
def test_what_is_written_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    for width in (100, 20):
        found = parse(in_yaml_block(value, width=width), "x")
        assert (found.data, found.problems) == (value, ())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5e-07, "5e-7"),
        (0.0002, "2e-4"),
        (0.3, "0.3"),
        (50.0, "50"),
        (1e-8, "1e-8"),
        (0.005, "0.005"),
        (1.5e20, "1.5e20"),
    ],
)
def test_numbers_are_written_as_people_write_them(number: float, text: str) -> None:
    assert in_yaml_block(number) == f"{text}\n"


def test_every_job_of_the_project_is_written_as_people_write_it() -> None:
    for path in sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml")):
        document = read(path)
        text = in_yaml_block(document.data)
        assert plan_data(parse(text, "x").data) == plan_data(document.data)
        assert max(map(len, text.splitlines())) <= 120
        assert "  learning_rate: 2e-4\n" in text or path.stem != "quickstart"


def plan_data(data: Any) -> Plan:
    return Plan.model_validate(data)


def test_a_comment_s_text_stays_on_its_line() -> None:
    assert one_line("a\nb\u2028c\x07 d") == "a b c d"
