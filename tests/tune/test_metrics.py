"""Which metrics a trial has, by the keys that training and scoring really write, and what is read of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import scores_example
from raised import raises
from ratchet.documents.heldout import HeldOutRow, ModelScores
from ratchet.evaluate.preference import RewardScores, reward_scores
from ratchet.pipeline.background_evaluation import final_models
from ratchet.pipeline.graph import final_model
from ratchet.plan.load import load_plan
from ratchet.plan.schema import Plan
from ratchet.reference.store import Logps
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.tune import metrics
from ratchet.tune.metrics import NOTHING, metric_names, pooled_over_sources, read_metrics_of, training_keys
from train_bench import Data, Pairs, lines_of, reference_of, spec_of, tiny_model, train

A, B, C = ({"generate": {"kind": "arithmetic", "seed": n}, "held_out": held} for n, held in enumerate((0.1, 0.2, 0)))
STEPWISE = {"kind": "dpop", "after": "warm", "data": ["a", "b"], "steps": {"by": "source"}}
STAGES = {
    "warm": {"kind": "sft", "data": ["c"]},
    "align": STEPWISE,
    "blend": {"kind": "merge", "of": ["align", "warm"]},
}
BOARD = {
    "tasks": {
        name: {"kind": "harness", "task": name, "metric": "acc"} for name in ("mmlu", *list(scores_example.SHARES))
    },
    "averages": {"H4": list(scores_example.H4), "H6": list(scores_example.H6)},
}
TALK = {"tasks": {"stories": {"kind": "perplexity", "rows": {"path": "x.txt"}}}}
TALK["tasks"] |= {"eq-bench": {"kind": "eq_bench", "questions": {"path": "q.json"}}}


@pytest.fixture
def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("eval").mkdir()

    def make(stages: dict[str, Any] | None = None, suites: dict[str, Any] | None = None, **more: Any) -> Plan:
        for name, suite in (suites or {}).items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(yaml.safe_dump(suite))
        plan = {"name": "p", "model": {"path": "m"}, "data": {"a": A, "b": B, "c": C}, "stages": stages or STAGES}
        Path("plan.yaml").write_text(yaml.safe_dump(plan | {"evaluate": list(suites or {})} | more, sort_keys=False))
        return load_plan(Path("plan.yaml"))

    return make


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sft", {}),
        ("dpo", {"beta": 0.5}),
        ("dpop", {"beta": 0.5, "penalty": 5.0, "penalty_position": "inside"}),
        ("ipo", {"beta": 0.5, "length_normalised": True}),
        ("cpo", {"beta": 0.5, "nll_weight": 1.0}),
    ],
)
@pytest.mark.parametrize("source", ["a", "c"])
def test_the_training_keys_are_those_of_the_last_line_of_a_real_training(
    tmp_path: Path, plan_of: Any, kind: str, options: dict[str, Any], source: str
) -> None:
    stage = plan_of({"s": {"kind": kind, "data": [source]}}).stages["s"]
    table, held = Pairs(12), Pairs(5, seed=5)
    references = [None if kind in {"sft", "cpo"} else reference_of(tiny_model(), one) for one in (table, held)]
    data, heldout = (Data(one, reference) for one, reference in zip((table, held), references, strict=True))
    spec = spec_of(tmp_path / "t", kind=kind, options=options, max_steps=3, starts_at_reference=kind not in "sft cpo")
    (tmp_path / "t").mkdir()
    train(spec, data, heldout=heldout if source == "a" else None)
    plan = plan_of({"s": {"kind": kind, "data": [source]}})
    assert lines_of(tmp_path / "t")[-1].keys() - {"step"} == set(training_keys(plan, stage))


def test_held_out_names_are_the_figures_that_scoring_makes() -> None:
    assert tuple(field.name for field in dataclasses.fields(RewardScores)) == metrics.HELD_OUT


def test_every_stage_is_named_with_what_it_reports(plan_of: Any) -> None:
    names = metric_names(plan_of(suites={"eval/talk.yaml": TALK}))
    assert len(names) == len(set(names))
    by_stage = {stage: {name.split("/", 1)[1] for name in names if name.startswith(f"{stage}/")} for stage in STAGES}
    wholes = set(metrics.HELD_OUT) | {f"{key}/{source}" for key in metrics.HELD_OUT for source in "ab"}
    tasks = {"score/stories", "score/eq-bench"}
    assert set(by_stage["blend"]) == {f"heldout/{name}" for name in wholes} | tasks
    assert by_stage["align"] >= by_stage["blend"] | {"train/dpop/active", "train/heldout/accuracy"}
    assert {name for name in by_stage["warm"] if not name.startswith("train/")} == tasks
    assert "train/heldout/loss" not in by_stage["warm"], "its source holds nothing out"


def test_without_held_out_pairs_or_preference_stages_there_is_no_accuracy(plan_of: Any) -> None:
    alone = plan_of({"s": {"kind": "sft", "data": ["a"]}, "m": {"kind": "merge", "of": ["s", "base"]}})
    nothing = plan_of({"s": {"kind": "dpo", "data": ["c"]}})
    assert not [name for plan in (alone, nothing) for name in metric_names(plan) if "/heldout/a" in name]


def test_suites_for_final_models_are_not_asked_of_stages_that_others_start_from(plan_of: Any) -> None:
    stages = STAGES | {"other": {"kind": "dpo", "data": ["a"], "start": "align"}}
    plan = plan_of(stages, {"eval/talk.yaml": TALK}, evaluate=[{"suite": "eval/talk.yaml", "models": "final"}])
    asked = {name.split("/")[0] for name in metric_names(plan) if "/score/" in name}
    assert (
        asked == {name for name in plan.stages if final_model(plan, name) in final_models(plan)} == {"blend", "other"}
    )


def test_tasks_of_one_name_are_told_apart_by_their_suites(plan_of: Any) -> None:
    both = {"eval/talk.yaml": TALK, "eval/more.yaml": {"tasks": {"stories": TALK["tasks"]["stories"]}}}
    names = [name for name in metric_names(plan_of(suites=both)) if name.startswith("warm/score/")]
    assert sorted(names) == ["warm/score/eq-bench", "warm/score/more.stories", "warm/score/talk.stories"]
    twins = {"eval/talk.yaml": TALK, "other/talk.yaml": TALK}
    assert "warm/score/other/talk.yaml.stories" in metric_names(plan_of(suites=twins))


def scored(folder: Path, model: str, against: list[str], sizes: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Write scores/<model>.json as the pipeline does; return the margins of every pair against the last opponent."""
    random, rows, margins = np.random.default_rng(seed), [], {}
    for source, count in sizes.items():
        lengths = np.ones((2, count), dtype=np.int64)
        mine, theirs = (Logps(*-random.gamma(2.0, 10.0, (2, count)), *lengths) for _ in range(2))
        for other in against:
            theirs = dataclasses.replace(theirs, chosen=theirs.chosen + 1.0)
            found = reward_scores(mine, theirs)
            rows.append(HeldOutRow(source=source, against=other, record="x", **vars(found)))
        margins[source] = mine.chosen - theirs.chosen - mine.rejected + theirs.rejected
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    found = ModelScores(model=model, weights="w", heldout=tuple(rows), gamma=(), exact_match=(), written="")
    write_json(folder / f"scores/{model}.json", to_values(found))
    return margins


def test_held_out_figures_are_against_the_start_of_the_stage_alone_or_over_all_sources(
    plan_of: Any, tmp_path: Path
) -> None:
    plan, folder = plan_of(), tmp_path / "runs/p"
    margins = scored(folder, "align.2", ["align.1", "warm"], {"a": 40, "b": 10})
    names = ["align/heldout/accuracy", "align/heldout/margin/b", "align/heldout/margin", "blend/heldout/margin"]
    found = read_metrics_of(folder, plan, names)
    every = np.concatenate(list(margins.values()))
    assert found["align/heldout/accuracy"][0] == pytest.approx((every > 0).mean())
    assert found["align/heldout/margin"][0] == pytest.approx(every.mean())
    error = margins["b"].std(ddof=1) / np.sqrt(10)
    assert found["align/heldout/margin/b"] == pytest.approx((margins["b"].mean(), error))
    assert found["blend/heldout/margin"] == NOTHING, "there is no such file"
    scored(folder, "blend", ["align.2"], {"a": 5})
    assert read_metrics_of(folder, plan, ["blend/heldout/margin"])["blend/heldout/margin"][0] is not None


def test_the_pooled_error_is_how_far_pooled_means_lie_apart() -> None:
    random, sizes, shifts, spreads = np.random.default_rng(1), (30, 120, 7), (0.0, 5.0, -3.0), (1.0, 2.0, 0.5)
    means, errors = [], []
    for _ in range(4000):
        drawn = [random.normal(m, s, n) for n, m, s in zip(sizes, shifts, spreads, strict=True)]
        mean, error = pooled_over_sources([(x.mean(), x.std(ddof=1) / len(x) ** 0.5, len(x)) for x in drawn])
        assert mean == pytest.approx(np.concatenate(drawn).mean())
        means.append(mean)
        errors.append(error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.05)
    assert pooled_over_sources([(1.0, None, 1), (2.0, 0.1, 9)]) == (1.9, None)
    assert pooled_over_sources([]) == NOTHING


def test_scores_are_the_headlines_and_averages_in_their_own_units(plan_of: Any, tmp_path: Path) -> None:
    suites = {scores_example.BOARD: BOARD, scores_example.TALK: TALK}
    plan, folder = plan_of(suites=suites), tmp_path / "runs/p"
    folder.mkdir(parents=True)
    made = scores_example.scores(("base", "warm", "align.2", "blend"))
    document = json.loads(json.dumps(made).replace("eq_bench", "eq-bench"))
    (folder / "scores.json").write_text(json.dumps(document))
    names = [name for name in metric_names(plan) if "/score/" in name]
    found = read_metrics_of(folder, plan, names)
    assert set(found) == set(names)
    missing = [name for name, value in found.items() if value[0] is None]
    assert missing == ["warm/score/eq-bench"], "whose value is null"
    head = scores_example.of(document, "align.2", "eq-bench")["scores"][0]
    assert found["align/score/eq-bench"] == (head["value"], head["standard_error"])
    assert found["align/score/eq-bench"][0] > 1, "points stay points"
    mean = np.mean([scores_example.of(document, "blend", task)["scores"][0]["value"] for task in scores_example.H6])
    assert found["blend/score/H6"][0] == pytest.approx(mean)


def test_training_keys_are_read_from_the_last_line_of_the_last_step(plan_of: Any, tmp_path: Path) -> None:
    plan, folder = plan_of(), tmp_path / "runs/p"
    for step, loss in (("align.1", 0.9), ("align.2", 0.4)):
        path = folder / "steps" / step / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(f'{{"step": 1, "loss": 0.6}}\n{{"step": 2, "loss": {loss}, "grad_norm": null}}\n{{"step": 3, ')
    names = ["align/train/loss", "align/train/grad_norm", "align/train/no_such", "warm/train/loss", "who/train/loss"]
    assert list(read_metrics_of(folder, plan, names).values()) == [(0.4, None), *[NOTHING] * 4]


def test_scores_without_what_was_not_measured_then_are_read(plan_of: Any, tmp_path: Path) -> None:
    """`chosen_per_token` is younger than the other figures: a sweep that has such trials is still compared."""
    plan, folder = plan_of(), tmp_path / "runs/p"
    (folder / "scores").mkdir(parents=True)
    figure = {"mean": 0.5, "standard_error": 0.1, "count": 25}
    row = {"source": "a", "against": "warm"} | dict.fromkeys(
        ("accuracy", "margin", "chosen_delta", "rejected_delta"), figure
    )
    document = {"model": "align.2", "weights": "w", "heldout": [row], "gamma": [], "exact_match": [], "written": ""}
    (folder / "scores/align.2.json").write_text(json.dumps(document))
    names = ["align/heldout/accuracy", "align/heldout/chosen_per_token"]
    assert list(read_metrics_of(folder, plan, names).values()) == [(0.5, 0.1), NOTHING]


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_an_empty_document_is_an_error_and_no_traceback(text: str, plan_of: Any, tmp_path: Path) -> None:
    (tmp_path / "runs/p/scores").mkdir(parents=True)
    (tmp_path / "runs/p/scores/align.2.json").write_text(text)
    with raises("corrupt") as caught:
        read_metrics_of(tmp_path / "runs/p", plan_of(), ["align/heldout/margin"])
    assert caught.value.where.endswith("align.2.json")


def test_a_file_that_is_not_scores_is_named(plan_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs/p"
    (folder / "scores").mkdir(parents=True)
    (folder / "scores/align.2.json").write_text('{"heldout": [{"source": "a"}]}')
    with raises("corrupt") as caught:
        read_metrics_of(folder, plan_of(), ["align/heldout/margin"])
    assert caught.value.where.endswith("align.2.json") and caught.value.what.startswith("model:")


@pytest.mark.heavy
def test_naming_metrics_takes_neither_torch_nor_ray() -> None:
    code = "import sys, ratchet.tune.metrics; sys.exit(str({'torch', 'ray', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
