"""Metrics that a space asks for are such as every trial has, and a scheduler's tells trials apart."""

# ruff: noqa: E501  the tables hold whole lines, as people see them

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.errors import PlanError
from ratchet.plan.load import space_of
from ratchet.plan.reading import parse, read
from ratchet.plan.schema import Plan
from ratchet.tune.check import check_space
from ratchet.tune.metrics import metric_names
from tests.conftest import ROOT

KINDS = "name: x\nkeys: {stages.align.kind: {grid: [dpop, dpo]}}\nunset: [stages.align.penalty]\n"
BETAS = "name: x\nkeys: {stages.align.beta: {grid: [0.1, 0.3]}}\nobjectives: {align/heldout/accuracy: max}\n"
ORDERS = "name: x\nkeys: {stages.align.data: {permutation: [slips, quiz]}}\nset: {stages.align.steps.order: listed}\nobjectives: {align/heldout/accuracy: max}\n"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def said(text: str) -> list[str]:
    """Return what is wrong with a space, by the metrics that the project's own plan reports."""
    written = parse(text, "x.yaml")
    try:
        check_space(read(Path("jobs/quickstart.yaml")), written, space_of(written), metric_names)
    except PlanError as error:
        return error.what.removeprefix("x.yaml:").split("\nx.yaml:")
    return []


def asha(metric: str) -> str:
    return f"scheduler: {{kind: asha, metric: {metric}, mode: min}}\n"


def test_an_objective_that_some_trials_have_not_is_refused() -> None:
    assert said(f"{KINDS}objectives: {{align/train/dpop/active: min}}\n") == [
        '4: objectives."align/train/dpop/active": not every trial reports this: none does at stages.align.kind = dpo'
    ]
    assert said(f"{KINDS}objectives: {{align/train/loss: min}}\n{asha('align/train/dpop/active')}") == [
        "5: scheduler.metric: not every trial reports align/train/dpop/active: none does at stages.align.kind = dpo"
    ]
    assert said(f"{KINDS}objectives: {{align/train/loss: min}}\n{asha('align/train/loss')}") == []
    shares = "name: x\nkeys: {data.quiz.held_out: {grid: [0.2, 0.0]}}\nobjectives: {align/heldout/accuracy/quiz: max}\n"
    assert said(shares) == [
        '3: objectives."align/heldout/accuracy/quiz": not every trial reports this: none does at data.quiz.held_out = 0.0'
    ]


def test_a_metric_that_is_wrong_for_two_reasons_is_told_once() -> None:
    lines = said(BETAS + asha("warm/score/sums"))
    assert len(lines) == 1 and "is known when a trial ends" in lines[0]
    lines = said(BETAS.replace("accuracy", "acuracy") + asha("warm/train/loss"))
    assert [line.split(": ")[1] for line in lines] == ['objectives."align/heldout/acuracy"', "scheduler.metric"]


def test_an_objective_of_one_kind_is_taken_where_all_trials_are_of_it() -> None:
    assert said(BETAS.replace("align/heldout/accuracy", "align/train/dpop/active")) == []


def test_metrics_are_asked_for_once_for_each_kind_of_trial() -> None:
    asked: list[str] = []

    def names(plan: Plan) -> list[str]:
        asked.append(plan.stages["align"].kind)
        return metric_names(plan)

    text = KINDS.replace("dpo]}", "dpo]}, stages.align.batch: {randint: [8, 40]}")
    written = parse(f"{text}objectives: {{align/train/loss: min}}\n", "x.yaml")
    check_space(read(Path("jobs/quickstart.yaml")), written, space_of(written), names)
    assert asked == ["dpop", "dpo"]


@pytest.mark.parametrize(
    ("text", "metric", "line"),
    [
        (BETAS, "warm/train/loss", "4: scheduler.metric: warm/train/loss is the same in all trials, as no key changes warm or what it starts from: take a metric of a stage that a key changes, or leave the scheduler out"),
        (BETAS, "control/train/loss", "4: scheduler.metric: control/train/loss is the same in all trials, as no key changes control or what it starts from: take a metric of a stage that a key changes, or leave the scheduler out"),
        (BETAS, "align/train/loss", None),
        (BETAS.replace("align.beta", "warm.learning_rate"), "align/train/loss", None),
        (BETAS.replace("align.beta", "warm.learning_rate") + "set: {stages.align.reference: base}\n", "align/train/loss", None),
        (BETAS + "set: {stages.control.reference: align}\n", "control/train/loss", None),
        (BETAS.replace("stages.align.beta: {grid: [0.1, 0.3]}", "data.sums.seed: {grid: [1, 2]}"), "warm/train/loss", None),
        (BETAS.replace("stages.align.beta: {grid: [0.1, 0.3]}", "model.scratch.layers: {grid: [1, 2]}"), "warm/train/loss", None),
        (ORDERS, "align/train/heldout/loss", "5: scheduler.metric: align/train/heldout/loss is of other sources in other trials at the same step, as stages.align.data orders them: take a metric of a stage after it, or leave the scheduler out"),
        (ORDERS.replace("set:", "set: {stages.control.after: align}\n#").replace("{stages.control.after: align}", "{stages.control.after: align, stages.align.steps.order: listed}"), "control/train/loss", None),
        (BETAS.replace("align.beta: {grid: [0.1, 0.3]}", "align.steps.order: {grid: [listed, random]}"), "align/train/loss", "4: scheduler.metric: align/train/loss is of other sources in other trials at the same step, as stages.align.steps.order orders them: take a metric of a stage after it, or leave the scheduler out"),
    ],
)  # fmt: skip
def test_a_scheduler_watches_what_tells_trials_apart(text: str, metric: str, line: str | None) -> None:
    assert said(text + asha(metric)) == ([] if line is None else [line])
