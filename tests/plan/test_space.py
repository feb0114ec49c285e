"""A sweep space is read with everything that is wrong with it at once; documents are changed by dotted keys."""

# ruff: noqa: E501  the tables hold whole lines, as people see them

from __future__ import annotations

from pathlib import Path

import pytest

from plan_example import write
from raised import raises
from ratchet.errors import PlanError
from ratchet.plan.distributions import DISTRIBUTIONS
from ratchet.plan.document import Place
from ratchet.plan.load import file_kind, load_file, load_plan, load_space, plan_of, read_space, space_of
from ratchet.plan.outline import either
from ratchet.plan.override import leave_out, put
from ratchet.plan.reading import read
from ratchet.plan.stage_kinds import STAGE_KINDS

KINDS = ", ".join(DISTRIBUTIONS)
SPACE = """\
name: sweep
keys:
  stages.align.beta: {grid: [0.1, 0.3]}
  stages.align.batch: {randint: [8, 64]}
objectives: {align/heldout/accuracy: max}
search: {by: random, seed: 3}
budget: {trials: 4}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SPACE)


def said(text: str) -> list[str]:
    Path("s.yaml").write_text(text)
    with pytest.raises(PlanError) as caught:
        load_space(Path("s.yaml"))
    return caught.value.what.splitlines()


def test_a_space_is_read() -> None:
    space = load_space(Path("s.yaml"), ["budget.trials=9"])
    assert list(space.keys) == ["stages.align.beta", "stages.align.batch"]
    assert [one.kind for one in space.keys.values()] == ["grid", "randint"]
    assert space.keys["stages.align.batch"].randint == (8, 64)
    assert (space.search.by, space.search.seed, space.budget.trials) == ("random", 3, 9)
    assert space_of(read_space(Path("s.yaml"))) == load_space(Path("s.yaml"))


@pytest.mark.parametrize(("count", "words"), [(1, "a sweep space of 1 key"), (2, "a sweep space of 2 keys")])
def test_check_says_what_it_is(count: int, words: str) -> None:
    lines = SPACE.splitlines(keepends=True)
    Path("s.yaml").write_text("".join(lines if count == 2 else lines[:3] + lines[4:]))
    assert file_kind(load_file(Path("s.yaml"))) == words


def test_a_plan_is_no_space_and_a_space_no_plan(tmp_path: Path) -> None:
    plan = write(tmp_path)
    with raises("plan.other-file") as caught:
        load_space(plan)
    assert str(caught.value).startswith("jobs/x.yaml:2: this is a plan")
    with raises("plan.other-file") as caught:
        load_plan(Path("s.yaml"))
    assert str(caught.value).startswith("s.yaml:1: this is a sweep space")


BAD: list[tuple[str, str, str]] = [
    # text of the good space, what it becomes, the only line told
    ("grid: [0.1, 0.3]", "gird: [0.1, 0.3]", "3: keys.stages.align.beta.gird: no such key; did you mean grid?"),
    ("{grid: [0.1, 0.3]}", "0.1", "3: keys.stages.align.beta: must be a mapping with keys such as grid, choice, uniform, not 0.1"),
    ("{grid: [0.1, 0.3]}", "{}", f"3: keys.stages.align.beta: give exactly one of {KINDS}; got none"),
    ("{grid: [0.1, 0.3]}", "{grid: [1], choice: [2]}", f"3: keys.stages.align.beta.choice: give exactly one of {KINDS}; got grid, choice"),
    ("[0.1, 0.3]", "[]", "3: keys.stages.align.beta.grid: must be a list of at least 1 value or null, not an empty list"),
    ("[0.1, 0.3]", "0.1", "3: keys.stages.align.beta.grid: must be a list of at least 1 value or null, not 0.1; did you mean [0.1]?"),
    ("[0.1, 0.3]", "[0.1, 0.3, 0.10]", "3: keys.stages.align.beta.grid: holds 0.1 twice"),
    ("grid: [0.1, 0.3]", "uniform: [0.3, 0.1]", "3: keys.stages.align.beta.uniform: goes from 0.3 to 0.1: the first must be the smaller one"),
    ("grid: [0.1, 0.3]", "uniform: [0.1]", "3: keys.stages.align.beta.uniform: must be a list of 2 numbers or null, not a list of 1"),
    ("grid: [0.1, 0.3]", "uniform: [0.1, '1']", '3: keys.stages.align.beta.uniform[1]: must be a number, not "1"; did you mean 1?'),
    ("grid: [0.1, 0.3]", "uniform: [0.1, .inf]", "3: keys.stages.align.beta.uniform[1]: must be a number, not .inf"),
    ("grid: [0.1, 0.3]", "loguniform: [0, 1]", "3: keys.stages.align.beta.loguniform: starts at 0 or below, where there is no logarithm"),
    ("[8, 64]", "[8, 64.5]", "4: keys.stages.align.batch.randint[1]: must be a whole number, not 64.5"),
    ("[8, 64]", "[64, 64]", "4: keys.stages.align.batch.randint: goes from 64 to 64: the first must be the smaller one"),
    ("randint: [8, 64]", "permutation: [a, b, a]", '4: keys.stages.align.batch.permutation: holds "a" twice'),
    ("randint: [8, 64]", "permutation: [a]", "4: keys.stages.align.batch.permutation: must be a list of at least 2 names or null, not a list of 1"),
    ("max}", "maximum}", '5: objectives."align/heldout/accuracy": must be max or min, not "maximum"; did you mean max?'),
    ("objectives: {align/heldout/accuracy: max}\n", "", "1: objectives: is missing; it must be a mapping from name to max or min"),
    ("by: random", "by: randm", '6: search.by: must be grid, random or tpe, not "randm"; did you mean random?'),
    ("{trials: 4}", "{trials: 0}", "7: budget.trials: must be a whole number of at least 1 or null, not 0"),
    ("{trials: 4}", "{trails: 4}", "7: budget.trails: no such key; did you mean trials?"),
    ("budget: {trials: 4}", "unset: stages.align.lora", '7: unset: must be a list of texts, not "stages.align.lora"; did you mean [stages.align.lora]?'),
    ("{trials: 4}", "{}", "7: budget: a search by random has no end of its own: give budget.trials or budget.hours"),
    ("search: {by: random, seed: 3}\nbudget: {trials: 4}", "search: {by: tpe}", "6: search.by: a search by tpe has no end of its own: give budget.trials or budget.hours"),
    ("grid: [0.1, 0.3]}\n  stages.align.batch: {randint: [8, 64]", "loguniform: [1, 2]}\nsearch: {by: grid}\nset: {stages.align.batch: 3", "3: keys.stages.align.beta.loguniform: has no end of values, and search.by is grid: give `grid` values, or search by random or tpe"),
    ("random, seed: 3}", "tpe}\nset: {stages.align.beta: 1}", "7: set.stages.align.beta: stages.align.beta is under `keys` too: a key is varied, set or left out, once"),
    ("random, seed: 3}", "tpe}\nunset: [stages.align.beta]", "7: unset[0]: stages.align.beta is under `keys` too: a key is varied, set or left out, once"),
    ("random, seed: 3}", "tpe}\nset: {stages.align.beta.x: 1}", "7: set.stages.align.beta.x: stages.align.beta.x is a part of stages.align.beta: give one of the two"),
    ("random, seed: 3}", "tpe}\nseeds: [1, 2, 1]", "7: seeds[2]: 1 is listed twice"),
    ("random, seed: 3}", "tpe}\nseeds: [1, 2]\nset: {stages.align.seed: 1}", "8: set.stages.align.seed: is what `seeds` sets: give one of the two"),
    ("randint: [8, 64]}", "permutation: [a, b, c, d, e]}\nsearch: {by: tpe}\n#", "4: keys.stages.align.batch.permutation: orders 5 names, and tpe takes 4 at most, as orders are unrelated values to it: search by random or grid"),
    ("budget:", "scheduler: {kind: median, metric: a/train/b, mode: max, reduction: 4}\nbudget:", "7: scheduler.reduction: goes with kind asha, and the kind is median: leave it out"),
    ("budget:", "scheduler: {kind: hyperband, metric: a/train/b, mode: max}\nbudget:", '7: scheduler.kind: must be asha or median, not "hyperband"'),
    ("budget:", "scheduler: {kind: asha, metric: a/train/b, mode: max}\nseeds: [1, 2]\nbudget:", "7: scheduler: ends trials of some seeds of a point, whose mean over the others would flatter it, and there are `seeds`: give one of the two"),
    ("budget:", "at_once: 0\nbudget:", "7: at_once: must be a whole number of at least 1 or null, not 0"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "line"), BAD, ids=lambda text: str(text)[:40])
def test_a_bad_space_is_told(good: str, bad: str, line: str) -> None:
    assert good in SPACE
    text = SPACE.replace(good, bad, 1)
    if "search: {by: tpe}\n#" in bad or "search: {by: grid}" in bad:
        text = text.replace("search: {by: random, seed: 3}\n", "")
    assert said(text) == [f"s.yaml:{line}"]


def test_all_is_told_at_once() -> None:
    text = SPACE.replace("[0.1, 0.3]", "[]").replace("[8, 64]", "[9, 8]").replace("name: sweep", "name: My Sweep")
    assert [line.split(": ")[0] for line in said(text)] == ["s.yaml:1", "s.yaml:3", "s.yaml:4"]


def test_seeds_of_other_stages_may_be_set() -> None:
    Path("s.yaml").write_text(f"{SPACE}seeds: [1, 2]\nset: {{stages.warm.seed: 4}}\n")
    assert load_space(Path("s.yaml")).seeds == (1, 2)


def test_a_value_is_put_with_a_place_of_its_own(tmp_path: Path) -> None:
    document = read(write(tmp_path))
    beta, rank = Place("s.yaml", 3, "-1", "keys"), Place("s.yaml", 9, under="set")
    changed = put(document, {"stages.align.beta": (-1, beta), "stages.other.lora.rank": (0, rank)})
    assert document == read(Path("jobs/x.yaml"))
    with pytest.raises(PlanError) as caught:
        plan_of(changed)
    assert caught.value.what.splitlines() == [
        "s.yaml:3: keys.stages.align.beta: must be a number above 0, not -1",
        "s.yaml:9: set.stages.other.lora.rank: must be a whole number of at least 1, not 0",
    ]


def test_a_key_that_is_put_or_left_out_is_one_of_the_plans(tmp_path: Path) -> None:
    document = read(write(tmp_path))
    changed = put(document, {"stages.algin.beta": (1, Place("s.yaml", 3, under="keys"))})
    changed = leave_out(changed, {"stages.warm.betta": Place("s.yaml", 4, under="unset")})
    with pytest.raises(PlanError) as caught:
        plan_of(changed)
    assert caught.value.what.splitlines() == [
        "s.yaml:3: keys.stages.algin.beta: no such key; did you mean stages.align.beta?",
        "s.yaml:4: unset.stages.warm.betta: no such key; did you mean stages.warm.beta?",
    ]


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    document, place = read(write(tmp_path)), Place("s.yaml", 4, under="unset")
    keys = ("stages.align.lora", "stages.warm.lora.rank", "stages.other")
    changed = leave_out(document, dict.fromkeys(keys, place))
    plan = plan_of(changed)
    assert plan.stages["align"].lora is None  # type: ignore[union-attr]
    assert list(plan.stages) == ["warm", "align", "blend"]
    assert document == read(Path("jobs/x.yaml"))


def test_a_key_that_is_missed_is_told_where_it_was_left_out(tmp_path: Path) -> None:
    place = Place("s.yaml", 4, under="unset")
    changed = leave_out(read(write(tmp_path)), {"stages.align.kind": place, "data.math": place})
    with pytest.raises(PlanError) as caught:
        plan_of(changed)
    lines = caught.value.what.splitlines()
    assert f"s.yaml:4: unset.stages.align.kind: is missing; it must be {either(list(STAGE_KINDS))}" in lines
    assert any(line.endswith("stages.other.data[0]: no source is named math; there are helpful") for line in lines)
