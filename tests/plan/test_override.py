"""`--set` reaches every key of the schema, and says where it was wrong."""

# ruff: noqa: E501  the tables hold whole lines, as people see them

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plan_example import write
from raised import raises
from ratchet.errors import PlanError
from ratchet.plan.load import load_plan, load_suite, plan_of
from ratchet.plan.override import apply
from ratchet.plan.reading import read


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)


def said(*assignments: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load_plan(Path("jobs/x.yaml"), assignments)
    return caught.value.what.splitlines()


def value_at(assignments: Sequence[str], *keys: str) -> Any:
    found: Any = load_plan(Path("jobs/x.yaml"), assignments).model_dump()
    for key in keys:
        found = found[key]
    return found


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("stages.align.beta=0.5", 0.5),
        ("stages.align.beta=1e-3", 1e-3),
        ("stages.align.max_steps=7", 7),
        ("stages.align.clip=null", None),
        ("stages.align.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("stages.align.lora.alpha=4", 4.0),
        ("stages.other.lora.rank=4", 4),
        ("stages.other.checkpoint.publish=best", "best"),
        ("stages.warm.data={math: 0.5}", {"math": 0.5}),
        ("track.wandb.project=a=b", "a=b"),
        ("cluster.ray.num_cpus=4", 4),
        ("cluster.deepspeed.overrides.aio.block_size=1048576", 1048576),
        ("data.helpful.min_margin=2", 2.0),
        ("data.math.path=data/c.jsonl", "data/c.jsonl"),
        ("name=other", "other"),
    ],
)
def test_sets_any_key(assignment: str, value: object) -> None:
    assignments = [assignment, "track.wandb.project=p"] if assignment.startswith("track.wandb.e") else [assignment]
    assert value_at(assignments, *assignment.partition("=")[0].split(".")) == value


def test_the_last_wins_and_a_kind_may_come_after_its_keys() -> None:
    assignments = ["stages.other.penalty=5", "stages.other.kind=dpop", "stages.other.penalty=6"]
    assert value_at(assignments, "stages", "other", "penalty") == 6.0


def test_the_document_stays_as_it_is() -> None:
    document = read(Path("jobs/x.yaml"))
    before = read(Path("jobs/x.yaml"))
    plans = [plan_of(apply(document, [f"stages.align.beta={beta}", "stages.align.lora.rank=2"])) for beta in (0.1, 0.2)]
    assert [plan.stages["align"].beta for plan in plans] == [0.1, 0.2]  # type: ignore[union-attr]
    assert document == before


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("stages.algin.beta=1", "--set stages.algin.beta: no such key; did you mean stages.align.beta?"),
        ("stages.algin.betta=1", "--set stages.algin.betta: no such key; did you mean stages.align.beta?"),
        ("stage.align.beta=1", "--set stage.align.beta: no such key; did you mean stages.align.beta?"),
        ("stages.align.lora.rnk=1", "--set stages.align.lora.rnk: no such key; did you mean stages.align.lora.rank?"),
        ("stages.new.beta=1", "--set stages.new.beta: no such key; there are warm, align, other or blend"),
        ("stages.warm.data.math=1", "--set stages.warm.data.math: no such key: stages.warm.data is no mapping here, so set all of it"),
        ("stages.align.betas.0=0.8", "--set stages.align.betas.0: no such key: stages.align.betas is a list, which is set as a whole"),
        ("stages.warm.beta.x=1", "--set stages.warm.beta.x: no such key: stages.warm.beta is one value: set that"),
        ("zzz=1", "--set zzz: no such key; there are name, model, data, stages, reference, evaluate, cluster or track"),
        ("stages.align.beta=x", '--set stages.align.beta: must be a number above 0, not "x"'),
        ("stages.align.beta='1'", '--set stages.align.beta: must be a number above 0, not "1"; did you mean 1?'),
        ("stages.align.beta=-1e-3", "--set stages.align.beta: must be a number above 0, not -1e-3"),
        ("stages.align.beta=", "--set stages.align.beta: no value after `=`; write null for none"),
        ("stages.align.beta", "--set stages.align.beta: write it as dotted.key=value"),
        ("=1", "--set: no such key; there are name, model, data, stages, reference, evaluate, cluster or track"),
        ("stages.align.betas=[0.1, 2]", "--set stages.align.betas[1]: must be a number of at least 0 and below 1, not 2"),
        ("stages.align.betas=[0.1", "--set stages.align.betas: a list or mapping in brackets is not closed with ]"),
        ("stages.align.lora={rank: 1, rank: 2}", "--set stages.align.lora.rank: written twice"),
        ("stages.align.lora={rnk: 1}", "--set stages.align.lora.rnk: no such key; did you mean rank?"),
        ("stages.align.after=wram", "--set stages.align.after: no stage is named wram; did you mean warm?"),
        ("stages.warm.after=align", "--set stages.warm.after: goes in a circle: warm → align → warm"),
        ("evaluate=[eval/quik.yaml]", "--set evaluate[0]: eval/quik.yaml: no such file; did you mean eval/quick.yaml?"),
        ("track.wandb.entity=me", "--set track.wandb.project: is missing; it must be text"),
        ("stages.warm.penalty=3", "--set stages.warm.penalty: no such key for kind sft; it belongs to kind dpop"),
    ],
)  # fmt: skip
def test_points_at_the_override(assignment: str, line: str) -> None:
    assert said(assignment) == [line]


def test_problems_of_file_and_overrides_come_together() -> None:
    plan = Path("jobs/x.yaml")
    plan.write_text(plan.read_text().replace("kind: dpo\n", "kind: dpo\n    bacth: 8\n"))
    assert said("stages.warm.betta=1") == [
        "jobs/x.yaml:23: stages.other.bacth: no such key; did you mean batch?",
        "--set stages.warm.betta: no such key; did you mean stages.warm.beta?",
    ]


def test_a_suite_takes_them_too() -> None:
    assert load_suite(Path("eval/quick.yaml"), ["tasks.sums.rows=5"]).tasks["sums"].rows == 5
    with raises("plan") as caught:
        load_suite(Path("eval/quick.yaml"), ["tasks.sum.rows=5"])
    assert str(caught.value) == "--set tasks.sum.rows: no such key; did you mean tasks.sums.rows?"
