"""A URL is no file or folder, but for sources: an error names its line wherever a plan, suite or command takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raised import raises
from ratchet.cli import main
from ratchet.errors import PlanError
from ratchet.plan.load import load_plan, load_suite
from ratchet.store.layout import Layout, layout_at
from ratchet.submit.job import check_plan

URL = "s3://bucket/x"
PLAN: dict[str, Any] = {
    "name": "u",
    "model": {"path": "base"},
    "data": {"a": {"path": "a.jsonl"}},
    "stages": {"align": {"kind": "dpo", "data": ["a"]}},
}
REPLAY = {"kind": "replay", "file": "f", "judge": "j"}
SUITE: dict[str, Any] = {"tasks": {"t": {"kind": "text_overlap", "rows": {"path": "a.jsonl"}}}}


def at(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of a mapping with a dotted key set."""
    first, _, rest = key.partition(".")
    return {**tree, first: at(tree.get(first, {}), rest, value) if rest else value}


def told(folder: Path, data: dict[str, Any], load: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(PlanError) as caught:
        load(path, [])
    return caught.value.what


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cluster.storage", URL),
        ("cluster.storage", "GS://bucket/store"),
        ("model.path", "https://host/model"),
        ("model", {"name": URL}),
        ("model.chat_template", "file:///t.jinja"),
        ("stages.align.reference", {"path": "abfss://c@a/x"}),
        ("evaluate", [{"suite": URL}]),
        ("evaluate", [URL]),
    ],
)
def test_a_plan_has_no_urls(tmp_path: Path, key: str, value: Any) -> None:
    said = told(tmp_path, at(PLAN, key, value), load_plan)
    assert "mine.yaml:" in said and key.rsplit(".", maxsplit=1)[-1] in said
    assert "not supported: give a file or folder" in said or "without file://" in said or "no such file" in said


def test_a_source_takes_urls(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for value in (URL, ["a.jsonl", "https://host/a.csv?x=1"]):
        path.write_text(yaml.safe_dump(at(PLAN, "data.a.path", value)))
        assert load_plan(path, []).data["a"].paths == ((URL,) if value == URL else tuple(value))


def test_what_to_do_follows_from_the_scheme(tmp_path: Path) -> None:
    assert "(`name:` for a model)" in told(tmp_path, at(PLAN, "model.path", "hf://o/n"), load_plan)
    assert "give the path itself" in told(tmp_path, at(PLAN, "model.path", "file:///models/base"), load_plan)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_root", URL),
        ("tasks.t.rows.path", URL),
        ("tasks.t", {"kind": "harness", "task": "x", "metric": "acc", "include": URL}),
        ("tasks.t", {"kind": "mt_bench", "questions": {"path": "q"}, "judge": {**REPLAY, "file": URL}}),
        ("tasks.t", {"kind": "mt_bench", "questions": {"path": URL}, "judge": REPLAY}),
    ],
)
def test_a_suite_has_no_urls(tmp_path: Path, key: str, value: Any) -> None:
    assert f"{URL}: object storage and URLs are not supported" in told(tmp_path, at(SUITE, key, value), load_suite)


@pytest.mark.parametrize("words", [["base=s3://b/m"], ["base=.", "--storage", URL], ["base=.", "--chat-template", URL]])
def test_the_command_line_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    suite = tmp_path / "suite.yaml"
    (tmp_path / "a.jsonl").write_text("{}\n")
    suite.write_text(yaml.safe_dump(SUITE))
    assert main(["evaluate", words[0], str(suite), *words[1:]]) == 2
    assert "object storage and URLs are not supported" in capsys.readouterr().err


def test_names_with_colons_are_no_urls(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for name in ("a:b.jsonl", "C:/rows.jsonl", "2026-11-30T10:00/rows.jsonl"):
        path.write_text(yaml.safe_dump(at(PLAN, "data.a.path", name)))
        assert load_plan(path, []).data["a"].path == name


def test_a_relative_storage_is_refused_in_a_ray_job_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert layout_at("outputs", environment={}) == Layout(tmp_path / "outputs")
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    assert layout_at(str(tmp_path), environment=job) == Layout(tmp_path)
    copies = tmp_path / "_ray_pkg_12ab" / "outputs"
    for storage, environment in (("outputs", job), (str(copies), {}), (str(copies), job)):
        with raises("plan") as caught:
            layout_at(storage, environment=environment)
        assert caught.value.where == "cluster.storage" and "--set cluster.storage=/mnt/store" in caught.value.fix
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    with pytest.raises(PlanError) as same:
        check_plan(load_plan(path, []))
    assert same.value.fix == caught.value.fix
