"""Whatever is done to a good plan, the answer is a plan or a PlanError of clean lines."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from plan_example import PLAN, write
from ratchet.errors import PlanError
from ratchet.plan.document import dotted
from ratchet.plan.load import load_plan, plan_of
from ratchet.plan.override import apply
from ratchet.plan.reading import parse

LINE = re.compile(r"(jobs/x\.yaml:\d+:|eval/quick\.yaml:\d+:|--set:|--set .*\S:) \S")
GOOD: dict[str, Any] = parse(PLAN, "x").data
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["base", "warm", "align", "math", "dpop", "cpo", "1e-6", "yes", 10**400, 0, -1, 3]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "path", "name", "scratch", "x"]) | st.text(max_size=4), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def _here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder)
        yield


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [at, *(path for key, inner in value.items() for path in paths(inner, (*at, key)))]
    if isinstance(value, list):
        return [at, *(path for n, inner in enumerate(value) for path in paths(inner, (*at, n)))]
    return [at]


def holder_of(data: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        data = data[part]
    return data


def loads_or_tells(text: str) -> list[str]:
    """Return the lines told, after a look at each; none for a good plan."""
    try:
        plan_of(parse(text, "jobs/x.yaml"))
    except PlanError as error:
        lines = error.what.split("\n")
        for line in lines:
            assert LINE.match(line), line
            assert not re.search(r"function-|tuple\[|dict\[|literal\[|constrained|Input should|pydantic", line), line
            if found := re.match(r"jobs/x\.yaml:(\d+)", line):
                assert 1 <= int(found[1]) <= text.count("\n") + 1
        return lines
    return []


@st.composite
def spoiled(draw: st.DrawFn) -> str:
    data = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([path for path in paths(data) if path]))
        holder = holder_of(data, path)
        match draw(st.sampled_from(["junk", "delete", "rename", "copy"])):
            case "junk":
                holder[path[-1]] = draw(JUNK)
            case "delete":
                del holder[path[-1]]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=5)) + str(path[-1])] = holder.pop(path[-1])
            case _:
                other = draw(st.sampled_from([path for path in paths(data) if path] or [()]))
                if other and path in paths(data):
                    holder_of(data, path)[path[-1]] = copy.deepcopy(holder_of(data, other)[other[-1]])
    return yaml.safe_dump(data, sort_keys=False)


# RATCHET_EXAMPLES=2000 looks longer.
many = settings(
    max_examples=int(os.environ.get("RATCHET_EXAMPLES", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def lines_in(node: yaml.Node, at: tuple[Any, ...] = ()) -> Iterator[tuple[str, int]]:
    """Yield each key of a text, dotted, with the line that PyYAML finds it in."""
    inner: list[tuple[Any, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        inner = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(n, item, item) for n, item in enumerate(node.value)]
    for part, key, value in inner:
        yield dotted((*at, part)), key.start_mark.line + 1
        yield from lines_in(value, (*at, part))


@many
@example(PLAN)
@example(PLAN.replace("  helpful: {path", '  "\\nhelpful": {path'))
@given(spoiled())
def test_spoiled_values(text: str) -> None:
    """What is accepted says what the text says, no more and no less; what is told stands at its key's own line."""
    document, told = parse(text, "jobs/x.yaml"), loads_or_tells(text)
    if not told:
        plan = plan_of(document)
        assert plan.model_dump(mode="json", exclude_unset=True) == document.data
        assert plan_of(dataclasses.replace(document, data=plan.model_dump(mode="json"))) == plan
        return
    assert document.data != GOOD
    places = dict(lines_in(yaml.compose(text, Loader=yaml.SafeLoader)))
    for line in told:
        if found := re.match(r"jobs/x\.yaml:(\d+): (.+)", line):
            # A key that is not there stands at the nearest one around it.
            around = [key for key in places if re.match(rf"{re.escape(key)}[.:\[]", found[2])]
            assert int(found[1]) == (places[max(around, key=len)] if around else 1), line


@many
@given(st.data())
def test_spoiled_text(data: st.DataObject) -> None:
    text = PLAN
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 4)))
        text = text[:start] + data.draw(st.text("[]{}:,-*&!|>'\"#%@`?<~ \n\tab1\u00e9\x00", max_size=4)) + text[end:]
    Path("jobs/x.yaml").write_bytes(text.encode())
    try:
        load_plan(Path("jobs/x.yaml"))
    except PlanError as error:
        assert all(LINE.match(line) for line in error.what.split("\n")), error.what


@many
@given(st.data())
def test_an_unknown_key_is_told_at_its_own_line(data: st.DataObject) -> None:
    plan = copy.deepcopy(GOOD)
    named = {("data",), ("stages",), ("stages", "align", "data")}
    mappings = [path for path in paths(plan) if isinstance(holder_of(plan, (*path, 0)), dict) and path not in named]
    path = data.draw(st.sampled_from(mappings))
    holder = holder_of(plan, (*path, 0))
    items = list(holder.items())
    items.insert(
        data.draw(st.integers(0, len(items))), ("qqqq", data.draw(st.sampled_from([1, None, "x", [1], {"a": 1}])))
    )
    holder.clear()
    holder.update(items)
    text = yaml.safe_dump(plan, sort_keys=False)
    number = next(n for n, line in enumerate(text.split("\n"), 1) if "qqqq" in line)
    lines = loads_or_tells(text)
    assert len(lines) == 1
    assert lines[0].startswith(f"jobs/x.yaml:{number}: {'.'.join((*path, 'qqqq'))}: no such key")


@many
@given(
    st.lists(
        st.sampled_from(["stages", "align", "warm", "lora", "data", "deepspeed", "overrides", "cluster", "x", ""]),
        max_size=4,
    ),
    st.text(max_size=6) | st.sampled_from(["{a: 1}", "[1, 2]", "1e-6", "null", "*a", "&a b", "!!set {a}", "a\n\tb"]),
)
def test_any_override(keys: list[str], value: str) -> None:
    try:
        plan_of(apply(parse(PLAN, "jobs/x.yaml"), [f"{'.'.join(keys)}={value}"]))
    except PlanError as error:
        assert all(LINE.match(line) for line in error.what.split("\n")), error.what


@many
@given(st.text(max_size=200))
def test_any_override_text(assignment: str) -> None:
    try:
        plan_of(apply(parse(PLAN, "jobs/x.yaml"), [assignment]))
    except PlanError as error:
        assert all(LINE.match(line) for line in error.what.split("\n")), error.what
