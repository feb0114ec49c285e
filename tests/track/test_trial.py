"""A trial's wandb run: what it holds, that it goes on under its id, and that no trial waits for it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from nightly import nightly
from ratchet.documents.scores import read_scores
from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialPoint
from ratchet.plan.schema import Wandb
from ratchet.track.jsonl import metrics_line, read_metrics
from ratchet.track.trial import StageLink, TrialRun, tell_end, trial_run, trial_run_id
from ratchet.tune.process import send_scores
from ratchet.tune.watch import Watch
from scores_example import scores
from track_example import wandb_records, wandb_run
from trial_example import CHOSEN, PLAN, SWEEP, drive, write_step
from wandb_service import Service, service
from whole_run import until

pytestmark = pytest.mark.heavy

POINT = TrialPoint(**CHOSEN)
WANDB = Wandb(project="ratchet-tests", mode="offline", tags=("a",))
LINKS = (
    StageLink("align.1", "dpop", "f1", None, "t00000001", "ratchet-tests/t00000001-0a", True),
    StageLink("align.2", "dpop", "f2", "f1", CHOSEN["trial"], None, False),
)


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)


def wanted(folder: Path) -> dict[int, dict[str, Any]]:
    """What wandb's history must be: the lines of both steps, one count over both, keys with the step's name."""
    found, offset = {}, 0
    for step in ("align.1", "align.2"):
        lines = read_metrics(folder / "steps" / step / "metrics.jsonl")
        for line in lines:
            found[offset + line["step"]] = {f"{step}/{key}": value for key, value in line.items()}
        offset += len(lines)
    return found


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary that the last offline file below a folder ends with."""
    path = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))[-1]
    updates = [item for one in wandb_records(path) if one.HasField("summary") for item in one.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def plain(history: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """History without the tables that stand beside the metrics of a step."""
    return {step: {k: v for k, v in line.items() if k.startswith("align.")} for step, line in history.items()}


def live(folder: Path, lengths: dict[str, int], *, to_end: bool) -> TrialRun:
    """One life of a trial's driver: its steps grow to so many lines and are followed as they do."""
    trial = TrialRun(trial_run(WANDB, SWEEP, POINT, PLAN, folder))
    watch = Watch([trial.line])
    for link in LINKS:
        if link.step in lengths:
            with watch(link.step, folder / "steps" / link.step):
                write_step(folder, link.step, lengths[link.step])
            trial.stage(link)
    if to_end:
        trial.finish("finished", {"align/heldout/accuracy": Value(0.75, 0.05), "b": Value(None)})
    trial.close()
    return trial


def test_offline_files_hold_every_line_of_two_steps_with_an_end_in_between(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = live(tmp_path, {"align.1": 12, "align.2": 5}, to_end=False)
    assert plain(wandb_run(tmp_path)[1]) == wanted(tmp_path)
    second = live(tmp_path, {"align.1": 12, "align.2": 9}, to_end=True)
    ids, history, run = wandb_run(tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    assert ids == {first.path.partition("/")[2]} == {second.path.partition("/")[2]}
    assert plain(history) == wanted(tmp_path)
    assert len(history) == 21 and history[17] == {
        "align.2/step": 5,
        "align.2/loss": 0.2,
        "align.2/heldout/accuracy": 0.5,
    }
    assert history[2]["align.1/heldout/accuracy"] is None
    earlier, _ = sorted(tmp_path.glob("wandb/offline-run-*"))
    earlier.rename(tmp_path / "lost")
    assert plain(wandb_run(tmp_path)[1]) == wanted(tmp_path)  # the last file alone holds all
    assert (run.run_group, run.job_type, run.display_name, list(run.tags)) == (SWEEP, "trial", CHOSEN["trial"], ["a"])
    assert capfd.readouterr() == ("", "")


def test_a_long_step_that_was_there_already_arrives_whole(tmp_path: Path) -> None:
    trial = TrialRun(trial_run(WANDB, SWEEP, POINT, PLAN, tmp_path))
    (tmp_path / "steps" / "align.1").mkdir(parents=True)
    lines = "".join(metrics_line(step, {"loss": 1 / step}) for step in range(1, 12_001))
    (tmp_path / "steps" / "align.1" / "metrics.jsonl").write_text(lines)
    with Watch([trial.line])("align.1", tmp_path / "steps" / "align.1"):
        pass
    trial.close()
    assert plain(wandb_run(tmp_path)[1]) == wanted(tmp_path)


def test_panels_find_flat_keys_one_value_for_each_objective_and_the_stages(tmp_path: Path) -> None:
    live(tmp_path, {"align.1": 3, "align.2": 2}, to_end=True)
    _, history, run = wandb_run(tmp_path)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["stages.align.beta"] == config["sweep/point/stages.align.beta"] == 0.3
    assert config["sweep/point/stages.align.data"] == '["maths", "chat"]'
    found = {key: config[f"sweep/{key}"] for key in ("name", "trial", "number", "point_id", "seed")}
    assert found == {"name": SWEEP, **{key: CHOSEN[key] for key in ("trial", "number", "point_id", "seed")}}
    assert not [key for key, value in config.items() if isinstance(value, dict | list) and key != "_wandb"]
    told = summary_of(tmp_path)
    assert (told["align/heldout/accuracy"], told["align/heldout/accuracy_error"], told["status"]) == (
        0.75,
        0.05,
        "finished",
    )
    assert "b" not in told
    named = {key: told[f"stages/align.1/{key}"] for key in ("fingerprint", "made_by", "run", "reused")}
    assert named == {"fingerprint": "f1", "made_by": "t00000001", "run": "ratchet-tests/t00000001-0a", "reused": True}
    assert told["stages/align.2/parent"] == "f1"
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/stages_*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["step", "kind", "fingerprint", "parent", "made_by", "run", "reused"]
    assert table["data"][1] == ["align.2", "dpop", "f2", "f1", CHOSEN["trial"], None, False]
    assert any("stages/nrows" in line for line in history.values())


def test_scores_reach_the_run_under_their_models_names(tmp_path: Path) -> None:
    trial = TrialRun(trial_run(WANDB, SWEEP, POINT, PLAN, tmp_path))
    write_step(tmp_path, "align.1", 3)
    for line in read_metrics(tmp_path / "steps" / "align.1" / "metrics.jsonl"):
        trial.line("align.1", line)
    document = scores()
    send_scores(trial, read_scores(document))
    trial.line("align.2", {"step": 1, "loss": 0.5})  # not passed over, whatever tables came before it
    trial.close()
    told = summary_of(tmp_path)
    for one in document["averages"]:
        if one["value"] is not None and one["name"] == "H6":
            assert told[f"{one['model']}/eval/open_llm_leaderboard/H6"] == pytest.approx(one["value"])
    tables = {path.parent.relative_to(tmp_path).parts[-2] for path in tmp_path.rglob("eval/scores_*.table.json")}
    assert tables == {one["name"] for one in document["models"]}
    assert wandb_run(tmp_path)[1][4]["align.2/loss"] == 0.5


def test_a_run_id_stays_with_its_trial_and_is_another_where_the_sweep_begins_again() -> None:
    found = trial_run_id(SWEEP, POINT)
    assert found.startswith("t01234567-s3-") and found == trial_run_id(SWEEP, dataclasses.replace(POINT, by="tpe"))
    others = {trial_run_id(SWEEP, dataclasses.replace(POINT, at="later")), trial_run_id("other", POINT)}
    assert len({found, *others}) == 3


def test_without_wandb_nothing_is_sent(tmp_path: Path) -> None:
    trial = TrialRun(trial_run(None, SWEEP, POINT, PLAN, tmp_path))
    assert trial.path is None
    trial.line("align.1", {"step": 1})
    trial.stage(LINKS[0])
    trial.finish("failed", {}, "no number")
    trial.close()
    assert not list(tmp_path.iterdir())


def test_an_agents_environment_decides_which_run_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"SWEEP_ID": "s1", "RUN_ID": "r1", "PROJECT": "theirs", "ENTITY": "ada"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for wandb in (WANDB, None):
        run = trial_run(wandb, SWEEP, POINT, PLAN, tmp_path)
        assert run is not None and (run.run_id, run.project, run.entity) == ("r1", "theirs", "ada")
        assert (run.mode, run.group) == ("online", SWEEP)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = trial_run(Wandb(project="p"), SWEEP, POINT, PLAN, tmp_path)
    assert run is not None and run.mode == "offline"


def told_online(wandb: Service) -> dict[int, dict[str, Any]]:
    (lines,) = wandb.history.values()
    steps = [line["_step"] for line in lines.values()]
    assert steps == sorted(set(steps)), "a line came twice"
    return plain({line["_step"]: line for line in lines.values()})


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_trial_goes_on_in_its_run_at_the_service_and_no_line_is_there_twice(tmp_path: Path, killed: bool) -> None:
    write_step(tmp_path, "align.1", 12)
    write_step(tmp_path, "align.2", 5)
    with service() as wandb:
        first = drive(tmp_path, wandb.environment(tmp_path), **{"die" if killed else "end": "align.1"})
        if killed:
            # the twelfth line waits for what else may come to its step
            until(lambda: len(next(iter(wandb.history.values()), {})) >= 11, first, 60)
            first.send_signal(signal.SIGKILL)
        first.communicate()
        second = drive(tmp_path, wandb.environment(tmp_path))
        out, err = second.communicate()
    assert (second.returncode, err) == (0, "")
    assert list(wandb.runs) == [json.loads(out)["path"].partition("/")[2]]
    assert told_online(wandb) == wanted(tmp_path)
    (told,) = wandb.summary.values()
    assert (told["align/heldout/accuracy"], told["status"]) == (0.75, "finished")


def test_offline_files_of_both_lives_synced_later_are_one_run_with_each_line_once(tmp_path: Path) -> None:
    live(tmp_path, {"align.1": 12}, to_end=False)
    live(tmp_path, {"align.1": 12, "align.2": 5}, to_end=True)
    files = sorted(map(str, tmp_path.glob("wandb/offline-run-*")))
    assert len(files) == 2
    with service() as wandb:
        command = [sys.executable, "-m", "wandb", "sync", *files]
        environment = {**os.environ, **wandb.environment(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert told_online(wandb) == wanted(tmp_path)
    (told,) = wandb.summary.values()
    assert (told["align/heldout/accuracy"], told["status"]) == (0.75, "finished")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_trial_ended_from_outside_keeps_what_it_had_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["offline", "online"]
) -> None:
    write_step(tmp_path, "align.1", 12)
    with service() as wandb:
        for name, value in wandb.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        first = drive(tmp_path, {}, die="align.1", mode=mode)
        until((tmp_path / "ready").exists, first, 60)
        time.sleep(20 if mode == "online" else 5)  # for wandb to write or send what it has
        first.send_signal(signal.SIGKILL)
        first.communicate()
        run = trial_run(Wandb(project="ratchet-tests", mode=mode), SWEEP, POINT, PLAN, tmp_path)
        assert run is not None
        tell_end(run, "stopped", "worse than others")
        if mode == "offline":
            files = sorted(map(str, tmp_path.glob("wandb/offline-run-*")))
            command = [sys.executable, "-m", "wandb", "sync", *files]
            subprocess.run(command, capture_output=True, check=True)
    assert len(wandb.runs) == 1
    assert set(told_online(wandb)) >= set(range(1, 12))
    (told,) = wandb.summary.values()
    assert (told["status"], told["reason"]) == ("stopped", "worse than others")
    assert told["align.1/step"] in {11, 12} and told["stages/align.1/kind"] == "dpop"


FAULTS = nightly(["refuses", 401, 500, 429, "hang"], lambda fault: fault == 401)
"""401 is what a key that is wrong gets."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_fails_neither_stops_nor_slows_a_trial(tmp_path: Path, fault: str | int) -> None:
    write_step(tmp_path, "align.1", 40)
    write_step(tmp_path, "align.2", 40)
    with service() as wandb, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environment = wandb.environment(tmp_path)
        if fault == "refuses":
            environment["WANDB_BASE_URL"] = f"http://127.0.0.1:{taken.getsockname()[1]}"
        else:
            wandb.fault = fault
        run = drive(tmp_path, environment, init_timeout=1.0, pause=0.01)
        out, err = run.communicate()
    found = json.loads(out)
    assert run.returncode == 0 and found["touched"] == [], "training waits for wandb"
    assert err.count("\n") == 1, err


@pytest.mark.slow
@pytest.mark.parametrize("fault", [500, 429, "hang"])
def test_a_service_that_fails_midway_neither_stops_nor_slows_a_trial(tmp_path: Path, fault: str | int) -> None:
    write_step(tmp_path, "align.1", 40)
    write_step(tmp_path, "align.2", 40)
    with service() as wandb:
        run = drive(tmp_path, wandb.environment(tmp_path), wait="align.1", pause=0.01)
        until(lambda: bool(wandb.history), run, 60)
        wandb.fault = fault
        (tmp_path / "go").touch()
        out, err = run.communicate()
    found = json.loads(out)
    assert run.returncode == 0 and found["touched"] == [], "training waits for wandb"
    assert err.count("\n") == 1 and "metrics.jsonl" in err, err
