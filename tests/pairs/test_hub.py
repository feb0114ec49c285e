"""Names on the hub: a commit before anything is read, written down, hashed, and the same until somebody asks again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import datasets
import pytest
from pydantic import ValidationError

from harness_example import SPEC
from hub_cache import COMMIT, cached, use_cache
from hub_server import Hub as Server
from hub_server import serving
from raised import raises
from ratchet.errors import CorruptError
from ratchet.evaluate.task_files import folder_of
from ratchet.model.folder import model_folder
from ratchet.model.scratch import make_scratch
from ratchet.pairs.flow import pairs_identity
from ratchet.pairs.hub import commit_of, hub_rows
from ratchet.pairs.source import read_source
from ratchet.pipeline.answered import plan_question
from ratchet.pipeline.context import Run
from ratchet.pipeline.pins import pin, pinned_before, pins_of
from ratchet.pipeline.sizes import Sizes
from ratchet.plan.data import Hub, Source
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.plan.task_parts import Files
from ratchet.prove.plan import _open as open_proof
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from token_pairs import TEXTS

A, B = "a" * 40, "b" * 40
ROWS = "datasets/owner/rows"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    use_cache(monkeypatch, tmp_path / "cache")
    with serving(monkeypatch) as server:
        server.commits |= {ROWS: A, f"{ROWS}@v1": B, "models/owner/model": COMMIT, "models/owner/other": A}
        yield server


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """What `datasets` was asked for; it has one pair, of the commit that it was asked for."""
    asked: list[tuple[str, str | None]] = []

    def load(name: str, config: str | None, *, split: str, revision: str | None, streaming: bool) -> Any:
        asked.append((name, revision))
        return iter([{"prompt": f"of {revision}?", "chosen": "yes", "rejected": "no"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def another_process() -> None:
    commit_of.cache_clear()


def known(source: Source) -> str:
    return fingerprint(pairs_identity(source, None))


def test_a_name_is_hashed_and_read_as_the_commit_that_it_means(hub: Server, read: list[Any]) -> None:
    source = Source(hub=Hub(name="owner/rows"))
    before = known(source)
    assert before == known(Source(hub=Hub(name="owner/rows", revision=A)))
    hub.commits[ROWS] = B
    assert len(list(read_source(source))) == 1, "it moved, and this process has the hub's word"
    assert set(read) == {("owner/rows", A)}
    another_process()
    assert known(source) != before and list(hub_rows(Hub(name="owner/rows"))) and read[-1] == ("owner/rows", B)


def test_a_tag_is_its_commit_and_a_commit_is_asked_of_nobody(hub: Server) -> None:
    assert known(Source(hub=Hub(name="owner/rows", revision="v1"))) == known(
        Source(hub=Hub(name="owner/rows", revision=B))
    )
    assert hub.asked == [f"{ROWS}@v1"]


def test_a_name_that_the_hub_has_not_is_told(hub: Server) -> None:
    for name, revision in (("owner/none", None), ("owner/rows", "v9")):
        with raises("data.hub") as caught:
            known(Source(hub=Hub(name=name, revision=revision)))
        assert caught.value.where == f"hub:{name}/train"


@pytest.mark.parametrize("name", ["./rows", "../rows", "/data/rows", "~/rows", "a/b/c", "rows/"])
def test_a_path_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(ValidationError, match=r"no name on the hub.*`path:`"):
        Hub(name=name)
    with pytest.raises(ValidationError, match=r"no name on the hub.*`path:`"):
        ModelSpec(name=name)
    with pytest.raises(ValidationError, match=r"no name on the hub.*`path:`"):
        Files(hub=name)


def test_a_folder_that_bears_a_name_of_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Server, read: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/rows").mkdir(parents=True)
    source = Source(hub=Hub(name="owner/rows", revision=A))
    for look in (lambda: known(source), lambda: list(read_source(source))):
        with raises("data.hub-or-folder"):
            look()
    assert not read


def test_without_the_hub_the_cache_s_word_counts_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_scratch(SPEC, TEXTS, tmp_path / "made")
    use_cache(monkeypatch, tmp_path / "cache")
    folder = cached(tmp_path / "cache", "owner/model", tmp_path / "made", branch="main")
    with caplog.at_level(logging.WARNING):
        assert model_folder(ModelSpec(name="owner/model")) == folder
    assert COMMIT in caplog.text and "owner/model" in caplog.text
    for other in ("owner/none", "owner/model@v1"):
        name, _, revision = other.partition("@")
        with raises("model.hub"):
            model_folder(ModelSpec(name=name, revision=revision or None))
    with raises("data.hub"):
        known(Source(hub=Hub(name="owner/rows")))


def test_models_and_questions_are_fetched_by_commit(hub: Server, tmp_path: Path) -> None:
    """The stand-in serves no files: what the cache has of the commit is found, and of no other."""
    make_scratch(SPEC, TEXTS, tmp_path / "made")
    folder = cached(tmp_path / "cache", "owner/model", tmp_path / "made", commit=COMMIT)
    hub.commits[f"models/owner/model@{COMMIT}"] = COMMIT
    assert model_folder(ModelSpec(name="owner/model")) == folder
    hub.commits |= {"models/owner/model": B, f"models/owner/model@{B}": B}
    another_process()
    with raises("model.hub"):
        model_folder(ModelSpec(name="owner/model"))
    assert any(one.startswith(f"models/owner/model@{B}") or B in one for one in hub.asked)
    with raises("data.hub"):
        folder_of(Files(hub="owner/questions"), ["*.json"])
    assert "datasets/owner/questions" in hub.asked


STAGES = {
    "align": {
        "kind": "dpo",
        "data": ["rows", "more"],
        "reference": {"name": "owner/other"},
        "steps": {"by": "source", "base": {"name": "owner/other"}},
    }
}


def run_of(root: Path, name: str = "p", **more: Any) -> Run:
    hub = {"hub": {"name": "owner/rows"}}
    document = {
        "name": name,
        "model": {"name": "owner/model"},
        "data": {"rows": hub, "more": {"hub": {"name": "owner/rows", "revision": "v1"}}},
        "stages": STAGES,
    }
    another_process()
    return Run(Plan.model_validate(document), Layout(root), Console(), more.pop("fresh", False), None, **more)


def commits(plan: Plan) -> list[str | None]:
    stage: Any = plan.stages["align"]
    sources = [source.hub.revision for source in plan.data.values() if source.hub]
    return [plan.model.revision, *sources, stage.reference.revision, stage.steps.base.revision]


def test_a_run_keeps_the_commits_that_it_found_first(hub: Server, tmp_path: Path) -> None:
    first = run_of(tmp_path)
    pin(first)
    assert commits(first.plan) == [COMMIT, A, B, A, A]
    assert len(first.warnings) == 5 and all("revision" in line and "--fresh" in line for line in first.warnings)
    written = [json.loads(path.read_text()) for path in pins_of(Layout(tmp_path), "p").glob("*.json")]
    assert {(one["kind"], one["name"], one["asked"], one["commit"]) for one in written} == {
        ("model", "owner/model", None, COMMIT),
        ("model", "owner/other", None, A),
        ("dataset", "owner/rows", None, A),
        ("dataset", "owner/rows", "v1", B),
    }
    hub.commits |= {ROWS: B, "models/owner/model": B}
    hub.asked.clear()
    again, shown = run_of(tmp_path), pinned_before(run_of(tmp_path).plan, Layout(tmp_path))
    pin(again)
    assert commits(again.plan) == commits(shown) == [COMMIT, A, B, A, A] and not hub.asked
    other, fresh = run_of(tmp_path, "q"), run_of(tmp_path, fresh=True)
    for run in (other, fresh):
        pin(run)
        assert commits(run.plan) == [B, B, B, A, A]
    assert commits(pinned_before(run_of(tmp_path).plan, Layout(tmp_path))) == [B, B, B, A, A]


def test_a_damaged_commit_is_no_question_and_fresh_mends_it(hub: Server, tmp_path: Path) -> None:
    """A command asks first whether all is done; what is wrong the work says, or mends."""
    first = run_of(tmp_path)
    pin(first)
    for path in pins_of(Layout(tmp_path), "p").glob("*.json"):
        path.write_text("{")
    plan = run_of(tmp_path).plan
    plan = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"storage": str(tmp_path)})})
    assert plan_question("run", plan, "", here=True) is None
    with pytest.raises(CorruptError):
        pin(run_of(tmp_path))
    fresh = run_of(tmp_path, fresh=True)
    pin(fresh)
    assert commits(fresh.plan) == commits(pinned_before(plan, Layout(tmp_path))) == commits(first.plan)


def test_trials_share_the_commits_of_their_sweep(hub: Server, tmp_path: Path) -> None:
    trial = cast(Any, SimpleNamespace(sweep="s"))
    found = []
    for name in ("t1", "t2"):
        run = run_of(tmp_path, name, trial=trial)
        run.layout = Layout(tmp_path).trials("s")
        pin(run)
        found.append(commits(run.plan))
        hub.commits[ROWS] = B
    assert found[0] == found[1]
    assert (tmp_path / "sweeps/s/hub").is_dir()


def test_what_nobody_has_asked_is_known_by_its_name(hub: Server, tmp_path: Path) -> None:
    """A sweep's forecast, and `show`, ask nobody."""
    plan = run_of(tmp_path).plan
    assert Sizes().identity(plan, "rows") != Sizes().identity(plan, "more")
    assert commits(pinned_before(plan, Layout(tmp_path))) == [None, None, "v1", None, None]
    assert not hub.asked


def test_a_proof_is_of_the_commits_that_the_run_reads(hub: Server, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    pin(run)
    hub.commits[ROWS] = B
    plan = run_of(tmp_path).plan
    plan = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"storage": str(tmp_path)})})
    assert commits(open_proof(plan).plan) == [COMMIT, A, B, A, A]
