"""A space as a wandb sweep's configuration: what wandb's own package makes of it, and the way back from its words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.errors import PlanError
from ratchet.plan.schema import Wandb
from ratchet.plan.space import Space
from ratchet.tune.wandb_config import values_of_arguments, wandb_config, wandb_yaml

PLAN, SPACE = Path("jobs/quickstart.yaml"), Path("tune_spaces/all.yaml")
ORDERS = [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "c", "b"], ["c", "b", "a"], ["b", "a", "c"]]
"""All orders, as a grid of `ratchet sweep` goes through them."""
DISCRETE: dict[str, Any] = {
    "stages.align.beta": {"grid": [0.1, 0.3, 1.0]},
    "stages.align.lora": {"choice": [None, {"rank": 8, "quantise": "nf4"}]},
    "stages.align.kind": {"choice": ["dpo", "0.1", "null", True]},
    "stages.align.betas": {"grid": [[0.9, 0.999], [0.9, 0.95]]},
    "stages.align.epochs": {"randint": [1, 3]},
    "stages.align.data": {"permutation": ["a", "b", "c"]},
}
CONTINUOUS = {
    "stages.align.penalty": {"uniform": [5, 500]},
    "stages.align.learning_rate": {"loguniform": [1e-7, 1e-3]},
}
METHODS = {"grid": "grid", "random": "random", "tpe": "bayes"}


def space_of(keys: dict[str, Any], by: str = "grid", **more: Any) -> Space:
    values = {"name": "all", "keys": keys, "objectives": {"align/heldout/accuracy": "max"}, "search": {"by": by}}
    return Space.model_validate({**values, **more})


def config_of(space: Space, *overrides: str) -> dict[str, Any]:
    """The configuration as `wandb sweep` reads it: through YAML."""
    found = yaml.safe_load(wandb_yaml(PLAN, SPACE, space, overrides))
    assert found == wandb_config(PLAN, SPACE, space, overrides)
    return dict(found)


def words_of(config: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """The command line for a point, by wandb's own functions, put together as its agent does."""
    import wandb_sweeps as theirs

    macros = theirs.create_sweep_command_args({"args": json.loads(json.dumps(point))})
    macros["env"] = ["/usr/bin/env"]
    made: list[str] = []
    for chunk in theirs.create_sweep_command(list(config["command"])):
        made += macros.get(chunk[2:-1], []) if chunk.startswith("${") and chunk.endswith("}") else [chunk]
    return made


@pytest.mark.heavy
@pytest.mark.parametrize("by", ["grid", "random", "tpe"])
@pytest.mark.parametrize("key", [*DISCRETE, *CONTINUOUS])
def test_wandbs_schema_takes_every_distribution(by: str, key: str) -> None:
    if by == "grid" and key in CONTINUOUS:
        pytest.skip("a grid has no ranges")
    import wandb_sweeps as theirs

    config = config_of(space_of({key: {**DISCRETE, **CONTINUOUS}[key]}, by))
    assert theirs.violations(config) == []
    assert theirs.fill(config) == config  # what `wandb sweep` itself looks at: all is said
    filled = theirs.SweepConfig(config)
    assert filled["method"] == METHODS[by]
    assert theirs.next_run(config, [], validate=True) is not None


def test_distributions_are_those_of_the_space() -> None:
    parameters = config_of(space_of({**DISCRETE, **CONTINUOUS}, "random", seeds=[3, 5]))["parameters"]
    assert parameters == {
        "stages.align.beta": {"values": [0.1, 0.3, 1.0]},
        "stages.align.lora": {"values": ["null", '{"rank": 8, "quantise": "nf4"}']},
        "stages.align.kind": {"values": ["dpo", "0.1", "null", True]},
        "stages.align.betas": {"values": ["[0.9, 0.999]", "[0.9, 0.95]"]},
        "stages.align.epochs": {"distribution": "int_uniform", "min": 1, "max": 3},
        "stages.align.data": {"values": [json.dumps(order) for order in ORDERS]},
        "stages.align.penalty": {"distribution": "uniform", "min": 5.0, "max": 500.0},
        "stages.align.learning_rate": {"distribution": "log_uniform_values", "min": 1e-7, "max": 1e-3},
        "seed": {"values": [3, 5]},
    }


def test_the_rest_of_the_configuration() -> None:
    import wandb_sweeps as theirs

    space = space_of(DISCRETE, budget={"trials": 12}, objectives={"align/train/loss": "min", "b": "max"})
    config = config_of(space, "cluster.workers=2")
    assert config["metric"] == {"name": "align/train/loss", "goal": "minimize"}
    assert config["command"] == [
        *("${env}", "ratchet", "sweep", "jobs/quickstart.yaml", "tune_spaces/all.yaml"),
        *("--set", "cluster.workers=2", "--trial", "${args_no_hyphens}"),
    ]
    # The published package knows no run_cap yet; its source and the service do.
    assert theirs.violations(config) == ["Additional properties are not allowed ('run_cap' was unexpected)"]
    assert config.pop("run_cap") == 12
    assert theirs.violations(config) == []
    owned = wandb_config(PLAN, SPACE, space, (), Wandb(project="p", entity="ada"))
    assert (owned["project"], owned["entity"]) == ("p", "ada")


def test_the_head_says_what_wandb_does_otherwise() -> None:
    asha = {"kind": "asha", "metric": "align/train/loss", "mode": "min"}
    more = {"objectives": {"x": "max", "y": "min"}, "budget": {"hours": 2}, "scheduler": asha, "seeds": [1, 2]}
    text = wandb_yaml(PLAN, SPACE, space_of({**DISCRETE, **CONTINUOUS}, "tpe", at_once=3, **more), ())
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for said in ("best x alone; each run has y", "in place of the space's `tpe`", "no limit of hours", "3 at once"):
        assert said in head
    assert "No early_terminate" in head and "asha goes by align/train/loss" in head
    assert "draws stages.align.beta, stages.align.betas, seed with the rest" in head
    assert "early_terminate" not in yaml.safe_load(text)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("by", ["grid", "random", "tpe"])
def test_what_wandb_suggests_comes_back_as_values_of_the_space(by: str) -> None:
    import wandb_sweeps as theirs

    space = space_of(DISCRETE if by == "grid" else {**DISCRETE, **CONTINUOUS}, by, seeds=[3, 5])
    config = config_of(space)
    runs: list[Any] = []
    seen = set()
    for number in range(12 if by == "tpe" else 40):
        run = theirs.next_run(config, runs)
        run.state, run.summary_metrics = theirs.RunState.finished, {"align/heldout/accuracy": math.sin(number)}
        runs.append(run)
        command = words_of(config, run.config)
        assert command[:6] == ["/usr/bin/env", "ratchet", "sweep", str(PLAN), str(SPACE), "--trial"]
        values, seed = values_of_arguments(command[6:], space)
        assert list(values) == list(space.keys) and seed in {3, 5}
        for key, one in DISCRETE.items():
            ((kind, options),) = one.items()
            options = {"randint": [1, 2, 3], "permutation": ORDERS}.get(kind, options)
            assert any(values[key] == option and type(values[key]) is type(option) for option in options), key
        if by != "grid":
            assert 5 <= values["stages.align.penalty"] <= 500 and 1e-7 <= values["stages.align.learning_rate"] <= 1e-3
        seen.add(json.dumps([values, seed]))
    assert len(seen) == len(runs) or by != "grid"


BOTH = space_of({**DISCRETE, **CONTINUOUS}, "random", seeds=[3, 5])


@given(data=st.data())
def test_any_point_survives_the_way_through_the_agents_command(data: st.DataObject) -> None:
    point: dict[str, Any] = {"seed": data.draw(st.sampled_from([3, 5]))}
    for key, one in DISCRETE.items():
        ((kind, options),) = one.items()
        point[key] = data.draw(st.sampled_from({"randint": [1, 2, 3], "permutation": ORDERS}.get(kind, options)))
    for key, one in CONTINUOUS.items():
        point[key] = data.draw(st.floats(*map(float, *one.values())))
    sent = {k: {"value": v if isinstance(v, bool | int | float | str) else json.dumps(v)} for k, v in point.items()}
    values, seed = values_of_arguments(words_of(config_of(BOTH), sent)[6:], BOTH)
    assert {**values, "seed": seed} == point


def test_what_people_write_is_read_as_yaml() -> None:
    keys = {key: DISCRETE[key] for key in ("stages.align.beta", "stages.align.lora", "stages.align.data")}
    words = ["stages.align.beta=1", "stages.align.data=[c, a, b]", "stages.align.lora={quantise: nf4, rank: 8}"]
    values, seed = values_of_arguments(words, space_of(keys))
    assert seed is None and values["stages.align.data"] == ["c", "a", "b"]
    assert (values["stages.align.beta"], type(values["stages.align.beta"])) == (1.0, float)
    assert values["stages.align.lora"] == {"rank": 8, "quantise": "nf4"}


def test_an_agents_own_argument_is_left_out() -> None:
    space = space_of({"stages.align.beta": {"grid": [0.1, 0.3]}})
    words = ["_wandb={'code_path': 'code/x.py', 'cli_version': '0.31.0'}", "stages.align.beta=0.3"]
    assert values_of_arguments(words, space) == ({"stages.align.beta": 0.3}, None)


def test_a_number_that_rounding_put_outside_its_range_lies_at_its_end() -> None:
    space = space_of({"a": {"loguniform": [0.1, 500]}}, "random")
    assert values_of_arguments(["a=500.00000000000006"], space) == ({"a": 500.0}, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stages.align.bta=0.1"], "stages.align.bta: the space has no such key; did you mean stages.align.beta?"),
        (["stages.align.beta=0.2"], "stages.align.beta: 0.2 is not one of its values 0.1, 0.3 or 1.0"),
        (["stages.align.beta=true"], "stages.align.beta: true is not one of its values"),
        (["stages.align.beta=0.1", "stages.align.beta=0.3"], "stages.align.beta: given twice"),
        (["stages.align.beta"], "stages.align.beta: write it as key=value"),
        (["stages.align.beta="], "stages.align.beta: "),
        (["stages.align.data=[a, b]"], "stages.align.data: [a, b] is no order of a, b, c"),
        (["stages.align.epochs=1.5"], "stages.align.epochs: 1.5 is no whole number from 1 to 3"),
        (["stages.align.epochs=4"], "stages.align.epochs: 4 is no whole number from 1 to 3"),
        (["stages.align.penalty=many"], "stages.align.penalty: many is no number"),
        (["stages.align.penalty=501"], "stages.align.penalty: 501 does not lie from 5 to 500"),
        (["stages.align.penalty=.nan"], "stages.align.penalty: nan does not lie"),
        (["seed=4"], "seed: 4 is not one of its values 3 or 5"),
        ([], "seed: not given"),
    ],
)
def test_words_that_are_wrong_are_told(words: list[str], says: str) -> None:
    with pytest.raises(PlanError) as error:
        values_of_arguments(words, BOTH)
    assert f"--trial {says}" in error.value.what
    others = len(BOTH.keys) + ("bta" in says)  # each is a line of its own: not given
    assert error.value.what.count("\n") == others


def test_a_seed_is_unknown_where_the_space_has_none() -> None:
    with raises("plan"):
        values_of_arguments(["stages.align.beta=0.1", "seed=3"], space_of({"stages.align.beta": {"grid": [0.1]}}))


@pytest.mark.parametrize(
    ("keys", "overrides", "says"),
    [
        ({"a.b": {"uniform": [0, 1]}}, (), "a.b: wandb cannot express this: a grid has no uniform keys"),
        ({"a.b": {"choice": ["1", 1]}}, (), "a.b: wandb cannot express this: two of its values are both written 1"),
        ({"a.b": {"permutation": list("abcdefgh")}}, (), "8 names have 40,320"),
        ({"a.b": {"grid": [1]}}, ("a=${envvar:HOME}",), "takes for a macro"),
    ],
)
def test_what_wandb_cannot_express_is_one_error(keys: dict[str, Any], overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(PlanError) as error:
        wandb_config(PLAN, SPACE, space_of(keys), overrides)
    assert says in str(error.value)
