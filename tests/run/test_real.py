"""`jobs/stories.yaml`, cut small, on published preference files and a published checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.plan.load import load_plan
from ratchet.plan.stages import Merge
from tests.conftest import ROOT
from whole_run import metrics, ratchet, record, steps

pytestmark = pytest.mark.slow
PLAN = ROOT / "jobs/stories.yaml"
ROWS, STEPS = 40, 3
STARTING_AT_LN_2 = ("align.1", "align.2", "align.3", "align.4", "control")
MODELS = ("warm", *STARTING_AT_LN_2, "flat", "plain", "blend")


def settings(files: Path, model: Path) -> Iterator[str]:
    """Yield what makes the plan find the files here, and what makes it small; the plan is named as the helpers do."""
    plan = load_plan(PLAN)
    yield from ("name=tiny", "cluster.storage=out", f"model.path={model}")
    for name, source in plan.data.items():
        yield f"data.{name}.path={files / str(source.path).removeprefix('data/')}"
        yield f"data.{name}.max_rows={ROWS}"
    for name, stage in plan.stages.items():
        if not isinstance(stage, Merge):
            yield f"stages.{name}.max_steps={STEPS}"


@pytest.fixture(scope="module")
def done(shared: Path, stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the plan has run to its end."""
    folder = tmp_path_factory.mktemp("real")
    changes = [part for change in settings(shared / "preference", stories) for part in ("--set", change)]
    found = ratchet(folder, "run", str(PLAN), *changes)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == f"report: {folder}/out/runs/tiny/report.html"
    return folder


def test_every_stage_makes_its_model(done: Path) -> None:
    assert sorted(path.parent.name for path in steps(done).glob("*/record.json")) == sorted(MODELS)
    for step in MODELS:
        assert list((steps(done) / step / "model").glob("*.safetensors")), step
        if step != "blend":
            losses = [line["loss"] for line in metrics(done, step)]
            assert 1 <= len(losses) <= STEPS, step
            assert all(map(math.isfinite, losses)), step


def test_the_first_loss_on_real_pairs_is_ln_2(done: Path) -> None:
    for step in STARTING_AT_LN_2:
        first = record(done, step)["facts"]["training"]["first"]
        assert first["loss_tolerance"] < 0.01, step
        assert first["loss"] == pytest.approx(math.log(2), abs=first["loss_tolerance"], rel=0), step


def test_every_row_is_kept_or_skipped(done: Path) -> None:
    sources = json.loads((done / "out/runs/tiny/report.json").read_text())["sources"]
    assert {source["name"] for source in sources} == set(load_plan(PLAN).data)
    for source in sources:
        for counts in (source, *source["tokens"]):
            assert counts["read"] == counts["kept"] + sum(counts["skipped"].values()), counts
        assert 0 < source["kept"] <= ROWS, source["name"]


def test_adapters_lie_beside_the_merged_model(done: Path) -> None:
    folder = steps(done) / "flat"
    assert json.loads((folder / "adapter/adapter_config.json").read_text())["r"] == 4
    assert (folder / "adapter/adapter_model.safetensors").stat().st_size > 0
    assert not (steps(done) / "control/adapter").exists()


def test_the_report_page_names_every_model(done: Path) -> None:
    page = (done / "out/runs/tiny/report.html").read_text()
    assert all(step in page for step in MODELS)
