"""Whatever a space says, the answer is that it suits the plan, or a PlanError of clean lines in its own file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ratchet.errors import PlanError
from ratchet.plan.load import space_of
from ratchet.plan.reading import parse, read
from ratchet.tune.check import check_space
from tests.conftest import ROOT

LINE = re.compile(r"x\.yaml:\d+: \S")
VALUES = st.sampled_from(
    [
        0,
        1,
        2,
        3,
        -1,
        0.1,
        0.5,
        True,
        None,
        "slips",
        "quiz",
        "sums",
        "warm",
        "align",
        "dpo",
        "sft",
        "merge",
        "count",
        "source",
        "listed",
        "random",
        "best",
        "",
        "x y",
        [],
        {},
        ["slips", "quiz"],
        {"slips": 0.5, "quiz": 1},
        [1, 2],
        {"kind": "dpo", "data": ["slips"]},
        {"by": "count", "count": 2},
        {"name": "m"},
        10**400,
        1e300,
    ]
)
KEYS = st.sampled_from(
    [
        "stages",
        "stages.align",
        "stages.align.data",
        "stages.align.kind",
        "stages.align.steps",
        "stages.align.steps.by",
        "stages.align.steps.order",
        "stages.align.steps.count",
        "stages.align.penalty",
        "stages.align.after",
        "stages.x",
        "stages.warm.kind",
        "stages.warm.data",
        "stages.control.lora.rank",
        "stages.align.lora",
        "data",
        "data.quiz",
        "data.quiz.held_out",
        "model",
        "model.scratch",
        "model.scratch.heads",
        "model.name",
        "evaluate",
        "name",
        "",
        ".",
        "stages.align.betas",
        "stages.align.reference",
        "stages.align.reference.name",
        "cluster.deepspeed.overrides.a",
        "stages.align.checkpoint.every",
        "stages.align.seed",
        "stages.warm.epochs",
        "data.quiz.seed",
        "reference.engine",
        "stages..beta",
        "stages.align.data.quiz",
    ]
)
DISTRIBUTIONS = st.one_of(
    st.builds(
        lambda kind, values: {kind: values},
        st.sampled_from(["grid", "choice"]),
        st.lists(VALUES, min_size=1, max_size=3, unique_by=json.dumps),
    ),
    st.builds(
        lambda kind, ends: {kind: ends},
        st.sampled_from(["uniform", "loguniform", "randint"]),
        st.sampled_from([[0, 1], [1, 2], [1, 8], [2, 10**6], [-1, 1], [0.5, 0.7], [0, 10**400], [1], ["1", 2]]),
    ),
    st.builds(
        lambda names: {"permutation": names},
        st.lists(st.sampled_from(["slips", "quiz", "sums", "y"]), min_size=2, max_size=3, unique=True),
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


# RATCHET_EXAMPLES=2000 looks longer.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(KEYS, DISTRIBUTIONS, min_size=1, max_size=3),
    st.dictionaries(KEYS, VALUES, max_size=2),
    st.lists(KEYS, max_size=2),
    st.sampled_from(["random", "tpe", "grid"]),
    st.sampled_from([None, None, [1, 2]]),
)
def test_any_space(
    keys: dict[str, Any], put: dict[str, Any], unset: list[str], by: str, seeds: list[int] | None
) -> None:
    # Most spaces are right by themselves, so that it is the plan that they are held against.
    apart = [key for key in [*put, *unset] if not any(f"{key}.".startswith(f"{one}.") or one in key for one in keys)]
    put, unset = {key: put[key] for key in apart if key in put}, [key for key in apart if key not in put]
    space: dict[str, Any] = {"name": "x", "keys": keys, "set": put, "unset": unset, "search": {"by": by}}
    space |= {"objectives": {"align/train/loss": "min"}, "budget": {"trials": 3}, "seeds": seeds}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in space.items())
    try:
        written = parse(text, "x.yaml")
        found = space_of(written)
        event("is a space")
        check_space(read(Path("jobs/quickstart.yaml")), written, found, lambda _: ["align/train/loss"])
    except PlanError as error:
        event("refused")
        lines = error.what.split("\n")
        assert all(LINE.match(line) for line in lines), error.what
        assert len(set(lines)) == len(lines), error.what
        assert not re.search(r"function-|tuple\[|dict\[|literal\[|constrained|Input should|pydantic", error.what)
    else:
        event("suits")
