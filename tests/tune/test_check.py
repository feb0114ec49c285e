"""A space is held against a plan before anything runs: the exact lines that a person sees."""

# ruff: noqa: E501  the tables hold whole lines, as people see them

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.errors import PlanError
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.graph import options
from ratchet.plan.data import Source
from ratchet.plan.load import load_space, plan_of, read_space, space_of
from ratchet.plan.outline import either
from ratchet.plan.reading import parse, read
from ratchet.plan.space import Space
from ratchet.plan.stage_kinds import STAGE_KINDS
from ratchet.plan.stages import Dpop
from ratchet.tune import trial_validation
from ratchet.tune.check import check_space
from ratchet.tune.points import drawn, trials_in_turn
from ratchet.tune.trial_plan import trial_document
from tests.conftest import ROOT

METRICS = [
    *(
        f"{stage}/heldout/{name}{source}"
        for stage in ("align", "control")
        for name in ("accuracy", "margin", "chosen_delta")
        for source in ("", "/slips", "/quiz")
    ),
    *(f"{stage}/score/sums" for stage in ("warm", "align", "control")),
    *(f"{stage}/train/{key}" for stage in ("warm", "align", "control") for key in ("loss", "heldout/loss")),
]
SPACES = sorted((ROOT / "tune_spaces").glob("*.yaml"))
HEAD = "name: x\nobjectives: {align/heldout/accuracy: max}\n"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def check(text: str, metrics: Sequence[str] = METRICS) -> Space:
    written = parse(text, "x.yaml")
    space = space_of(written)
    check_space(read(Path("jobs/quickstart.yaml")), written, space, lambda _: metrics)
    return space


def said(text: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        check(text)
    return caught.value.what.splitlines()


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_suits_the_quickstart(path: Path) -> None:
    written = read_space(path)
    space = space_of(written)
    check_space(read(Path("jobs/quickstart.yaml")), written, space, lambda _: METRICS)
    command = f"ratchet sweep jobs/quickstart.yaml tune_spaces/{path.name}"
    assert command in path.read_text()
    assert space.name == path.stem.replace("_", "-")


def test_the_spaces_that_there_must_be() -> None:
    assert {path.stem for path in SPACES} >= {
        "beta",
        "beta_lambda",
        "partition_order",
        "target_init",
        "loss_kinds",
        "learning_rate",
    }
    betas = [trial.values for trial in trials_in_turn(load_space(ROOT / "tune_spaces/beta.yaml"))]
    assert betas == [{"stages.align.beta": beta} for beta in (0.1, 0.3, 1.0)]
    penalty = load_space(ROOT / "tune_spaces/beta_lambda.yaml").keys["stages.align.penalty"]
    assert penalty.loguniform == (5, 500)


BAD: list[tuple[str, list[str]]] = [
    ("keys: {stages.algin.betta: {grid: [1]}}", ["3: keys.stages.algin.betta: no such key; did you mean stages.align.beta?"]),
    ("keys: {stages.align.beta: {grid: [1]}}\nset: {stages.warm.bacth: 8}\nunset: [stages.align.penalti]", ["4: set.stages.warm.bacth: no such key; did you mean stages.warm.batch?", "5: unset.stages.align.penalti: no such key; did you mean stages.align.penalty?"]),
    ("keys:\n  name: {grid: [a, b]}\n  cluster.workers: {grid: [1, 2]}\n  evaluate: {grid: [[], [eval/sums.yaml]]}", [
        "4: keys.name: names the run, and every trial has a name of its own: leave it out",
        "5: keys.cluster.workers: says where a plan runs, so every trial would make the same models: leave it out here, or put it under `set`",
        "6: keys.evaluate: says what models are asked, so every trial would make the same models: leave it out here, or put it under `set`",
    ]),
    ("keys: {track.wandb.project: {grid: [a]}}", ["3: keys.track.wandb.project: says who watches a plan, so every trial would make the same models: leave it out here, or put it under `set`"]),
    ("keys: {reference.sample: {randint: [16, 99]}}", ["3: keys.reference.sample: says when an engine's scores are trusted, so every trial would make the same models: leave it out here, or put it under `set`"]),
    ("keys: {stages.align.checkpoint.every: {grid: [5, 9]}}", ["3: keys.stages.align.checkpoint.every: changes no model, as stages.align.checkpoint.publish is not best"]),
    ("keys: {stages.align.beta: {grid: [1]}}\nset: {name: other}", ["4: set.name: names the run, and every trial has a name of its own: leave it out"]),
    ("keys: {stages.align.batch: {uniform: [8, 32]}}\nsearch: {by: random}\nbudget: {trials: 2}", ["3: keys.stages.align.batch.uniform: draws numbers with a fraction, and the key takes a whole number of at least 1; did you mean randint?"]),
    ("keys: {model.scratch.tie_embeddings: {randint: [0, 1]}}", ["3: keys.model.scratch.tie_embeddings.randint: draws whole numbers, and the key takes true or false"]),
    ("keys: {stages.align.schedule: {loguniform: [1, 2]}}\nsearch: {by: random}\nbudget: {trials: 2}", ["3: keys.stages.align.schedule.loguniform: draws numbers with a fraction, and the key takes cosine, linear or constant; did you mean choice?"]),
    ("keys:\n  stages.align.beta:\n    grid:\n    - 0.1\n    - high\n    - -3e-1", ['7: keys.stages.align.beta: must be a number above 0, not "high"', "8: keys.stages.align.beta: must be a number above 0, not -3e-1"]),
    ("keys: {stages.align.schedule: {choice: [cosine, linaer]}}", ['3: keys.stages.align.schedule: must be cosine, linear or constant, not "linaer"; did you mean linear?']),
    ("keys: {stages.align.warmup: {uniform: [0.0, 1.0]}}\nsearch: {by: tpe}\nbudget: {hours: 1}", ["3: keys.stages.align.warmup: must be a number of at least 0 and below 1, not 1.0"]),
    ("keys:\n  stages.align.beta: {uniform: [-1, 3]}\n  stages.align.epochs: {randint: [0, 900]}\nsearch: {by: random}\nbudget: {hours: 1}", ["4: keys.stages.align.beta: must be a number above 0, not -1", "5: keys.stages.align.epochs: must be a whole number of at least 1, not 0"]),
    ("keys:\n  stages.align.kind: {grid: [dpo, ipo, dpop]}\n  stages.align.beta: {grid: [0.1, 0.3]}", [
        f"4: keys.stages.align.kind: at {kind}: stages.align.penalty: no such key for kind {kind}; it belongs to kind dpop; put stages.align.penalty under `unset` where no trial needs it" for kind in ("dpo", "ipo")]),
    ("keys:\n  stages.align.kind: {grid: [dpo, dpop]}\n  stages.align.penalty: {grid: [5, 50]}", [
        f"5: keys.stages.align.penalty: at {value}, with stages.align.kind = dpo: no such key for kind dpo; it belongs to kind dpop" for value in (5, 50)]),
    ("keys:\n  stages.align.steps.by: {grid: [source, count]}\n  stages.align.steps.count: {grid: [2, null]}", [
        "5: keys.stages.align.steps.count: at 2, with stages.align.steps.by = source: goes with `by: count`, and only with it",
        "5: keys.stages.align.steps.count: at null, with stages.align.steps.by = count: goes with `by: count`, and only with it",
    ]),
    ("keys: {model.scratch.heads: {randint: [2, 6]}}", ["3: keys.model.scratch.heads: 3 does not divide by key_value_heads = 2", "3: keys.model.scratch.heads: at 5: model.scratch.hidden_size: 96 does not divide by heads = 5"]),
    ("keys: {stages.align.beta: {grid: [1, 2]}}\nset: {stages.align.kind: dpo}", ["4: set.stages.align.kind: stages.align.penalty: no such key for kind dpo; it belongs to kind dpop; put stages.align.penalty under `unset` where no trial needs it"]),
    ("keys: {stages.align.beta: {grid: [1, 2]}}\nunset: [stages.align.kind]", [f"4: unset.stages.align.kind: is missing; it must be {either(list(STAGE_KINDS))}"]),
    ("keys: {data.sums.held_out: {grid: [0.1, 0.0]}}", ["3: keys.data.sums.held_out: at 0.0: evaluate[0]: task sums of eval/sums.yaml has nothing to answer: data.sums.held_out is 0; set it above 0"]),
    ("keys: {stages.align.data: {permutation: [slips, quiz]}}", ["3: keys.stages.align.data: has no say, as stages.align.steps.order is easy_to_hard: put stages.align.steps.order: listed under `set`"]),
    ("keys: {stages.align.data: {permutation: [quiz, slops]}}\nset: {stages.align.steps.order: listed}", ["3: keys.stages.align.data: names slops, which stages.align.data has not; did you mean slips?", "3: keys.stages.align.data: leaves out slips, which stages.align.data has"]),
    ("keys: {stages.warm.data: {permutation: [sums, quiz]}}", ["3: keys.stages.warm.data: orders sources that stages.warm trains on together: it has no `steps`"]),
    ("keys: {stages.align.data: {permutation: [slips, quiz]}}\nset: {stages.align.steps: {by: count, count: 2}}", ["3: keys.stages.align.data: orders sources that stages.align trains on together: stages.align.steps.by is count"]),
    ("keys: {stages.align.betas.0: {uniform: [0.8, 0.95]}}\nsearch: {by: random}\nbudget: {hours: 1}", ["3: keys.stages.align.betas.0: no such key: stages.align.betas is a list, which is set as a whole"]),
    ("keys: {stages.align.betas: {permutation: [a, b]}}", ["3: keys.stages.align.betas.permutation: orders the sources of a stepwise stage: it goes with stages.<name>.data, and with no other key"]),
    ("keys:\n  stages.align.data: {permutation: [slips, quiz]}\n  stages.align.steps.order: {grid: [listed, random]}", ["5: keys.stages.align.steps.order: at random: stages.align.data: has no say, as stages.align.steps.order is random: put stages.align.steps.order: listed under `set`"]),
    # What is wrong with one key does not hide what is wrong with another.
    ("keys:\n  stages.algin.beta: {grid: [1]}\n  stages.align.beta: {grid: [0]}\n  cluster.workers: {grid: [1]}", [
        "4: keys.stages.algin.beta: no such key; did you mean stages.align.beta?",
        "5: keys.stages.align.beta: must be a number above 0, not 0",
        "6: keys.cluster.workers: says where a plan runs, so every trial would make the same models: leave it out here, or put it under `set`",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), BAD, ids=lambda text: str(text)[:60])
def test_a_space_that_does_not_suit(text: str, lines: list[str]) -> None:
    assert said(HEAD + text) == [f"x.yaml:{line}" for line in lines]


def test_metrics_are_those_that_steps_report() -> None:
    keys = "name: x\nkeys: {stages.align.beta: {grid: [1]}}\n"
    assert said(
        f"{keys}objectives: {{align/heldout/acuracy: max}}\nscheduler: {{kind: asha, metric: align/train/los, mode: min}}\n"
    ) == [
        'x.yaml:3: objectives."align/heldout/acuracy": no step reports this; did you mean align/heldout/accuracy?',
        "x.yaml:4: scheduler.metric: no step reports align/train/los; did you mean align/train/loss?",
    ]
    assert said(
        f"{keys}objectives: {{align/train/loss: min}}\nscheduler: {{kind: asha, metric: align/score/sums, mode: max}}\n"
    ) == [
        "x.yaml:4: scheduler.metric: align/score/sums is known when a trial ends, and a scheduler needs one of its steps; did you mean align/train/loss?"
    ]
    check(
        f"{keys}objectives: {{align/train/loss: min, align/score/sums: max}}\nscheduler: {{kind: median, metric: align/train/loss, mode: min}}\n"
    )


def test_a_plan_that_is_wrong_itself_is_told_first() -> None:
    written, plan = parse(f"{HEAD}keys: {{zzz: {{grid: [1]}}}}", "x.yaml"), parse("stages: {}", "p.yaml")
    with pytest.raises(PlanError, match=r"^p\.yaml:1: name: is missing"):
        check_space(plan, written, space_of(written), lambda _: METRICS)


@pytest.mark.parametrize(("many", "most"), [(4, 150), pytest.param(12, 1500, marks=pytest.mark.slow)])
def test_checking_looks_at_few_points_and_finds_what_two_keys_bring(
    many: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 200 combinations pairs are tried, which must still meet the only bad pair of values."""
    fine = [
        f"stages.{stage}.{key}: {{grid: [1, 2, 3, 4]}}"
        for stage in ("align", "control", "warm")
        for key in ("batch", "epochs", "learning_rate", "seed")
    ]
    bad = ["stages.align.kind: {choice: [dpop, dpo]}", "stages.align.penalty_position: {choice: [inside, outside]}"]
    looks: list[object] = []
    made = trial_validation.trial_document
    monkeypatch.setattr(trial_validation, "trial_document", lambda *given: (looks.append(given), made(*given))[1])
    lines = said(f"{HEAD}keys: {{{', '.join(fine[: many - 2] + bad)}}}\nunset: [stages.align.penalty]")
    assert 0 < len(looks) <= most, "of 4 ** 12 points and more"
    assert lines == [
        f"x.yaml:3: keys.stages.align.penalty_position: at {value}, with stages.align.kind = dpo: no such key for kind dpo; it belongs to kind dpop"
        for value in ("inside", "outside")
    ]


@pytest.mark.heavy
def test_checking_brings_no_heavy_library() -> None:
    code = "import sys, ratchet.tune.check; sys.exit(str({'torch', 'ray', 'optuna', 'wandb', 'transformers'} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stderr.strip() == "set()"


def test_keys_that_are_refused_are_in_no_fingerprint() -> None:
    """Every field of a source, and every number of a stage, is refused exactly where it changes no identity."""
    source = Source.model_validate({"generate": {"kind": "arithmetic"}})
    other: dict[str, Any] = {
        "path": None,
        "hub": None,
        "generate": None,
        "split": None,
        "config": None,
        "layout": None,
        "columns": None,
        "ignore": ("tags",),
        "train_on": "last",
        "build": "multiple_choice",
        "few_shot": 2,
        "where": ["a > 1"],
        "min_margin": 1.0,
        "system": "s",
        "max_rows": 3,
        "max_characters": 9,
        "max_bad_share": 0.5,
        "max_overlong_share": 0.5,
        "held_out": 0.5,
        "seed": 4,
    }
    assert other.keys() == Source.model_fields.keys()
    for key, value in other.items():
        if value is not None:
            same = pairs_identity(source, None) == pairs_identity(source.model_copy(update={key: value}), None)
            assert same == refused(f"data.sums.{key}", value), key
    stage = Dpop(kind="dpop", data=("slips",))
    numbers: dict[str, Any] = {
        "epochs": 3,
        "max_steps": 3,
        "batch": 3,
        "learning_rate": 3.0,
        "warmup": 0.3,
        "weight_decay": 0.3,
        "beta": 3.0,
        "penalty": 3.0,
        "seed": 3,
        "shuffle": "prompts",
        "clip": 3.0,
        "epsilon": 0.3,
    }
    for key, value in numbers.items():
        assert options(stage) != options(stage.model_copy(update={key: value}))
        assert not refused(f"stages.align.{key}", value)
    kept = stage.model_copy(update={"checkpoint": stage.checkpoint.model_copy(update={"keep": 9})})
    assert options(stage) == options(kept)
    assert refused("stages.align.checkpoint.keep", 9)


def refused(key: str, value: Any) -> bool:
    written = parse(f"{HEAD}keys: {{{key}: {{grid: [1]}}}}", "x.yaml")
    space = space_of(written)
    space = space.model_copy(update={"keys": {key: space.keys[key].model_copy(update={"grid": (value,)})}})
    try:
        check_space(read(Path("jobs/quickstart.yaml")), written, space, lambda _: METRICS)
    except PlanError as error:
        return "every trial would make the same models" in error.what
    return False


@pytest.mark.heavy
@settings(max_examples=examples(10))
@given(st.data())
def test_every_point_of_a_checked_space_is_a_plan(data: st.DataObject) -> None:
    """Spaces made of keys that may or may not go together: what passes the check must hold at every point."""
    pool = {
        "stages.align.kind": "{choice: [dpo, ipo, dpop]}",
        "stages.align.penalty": "{loguniform: [5, 500]}",
        "stages.align.steps.by": "{choice: [source, count]}",
        "stages.align.steps.count": "{choice: [2, null]}",
        "stages.align.data": "{permutation: [slips, quiz]}",
        "stages.align.betas": "{choice: [[0.9, 0.99], [0.8, 0.9]]}",
        "stages.align.warmup": "{uniform: [0, 0.5]}",
        "model.scratch.heads": "{randint: [1, 2]}",
        "model.scratch.key_value_heads": "{choice: [1, 2]}",
    }
    keys = data.draw(st.lists(st.sampled_from(sorted(pool)), min_size=1, max_size=4, unique=True))
    unset = [] if "stages.align.penalty" in keys else data.draw(st.sampled_from([[], ["stages.align.penalty"]]))
    text = f"{HEAD}keys: {{{', '.join(f'{key}: {pool[key]}' for key in keys)}}}\nunset: {unset}\nset: {{stages.align.steps.order: listed}}\nsearch: {{by: random}}\nbudget: {{hours: 1}}\n"
    text = text.replace("'", "")
    plan, space = read(Path("jobs/quickstart.yaml")), space_of(parse(text, "x.yaml"))
    try:
        check(text)
    except PlanError as error:
        assert "x.yaml" in error.what
        with pytest.raises(PlanError):  # it is not refused for nothing: some point is no plan, or an order has no say
            for number in range(60):
                made = plan_of(trial_document(plan, space, drawn(space, number), None))
                steps = made.stages["align"].steps  # type: ignore[union-attr]
                if "stages.align.data" in keys and steps is not None and steps.by == "count":
                    raise error
    else:
        for number in range(20):
            plan_of(trial_document(plan, space, drawn(space, number), 3))
