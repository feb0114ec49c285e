"""Kills while the reference is scored: each pair's score is there once, the same, and no finished block is redone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import whole_run
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, Ray
from ratchet.plan.data import Generated, Source
from ratchet.plan.model import Scratch
from ratchet.reference.models import Passes, ScoreJob, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.processes import still_there
from ratchet.reference.score import score_jobs
from ratchet.reference.store import BLOCK, read_logps
from ratchet.store.layout import Layout

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ACTORS, ROWS = 2, 6000
SPEC = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=64, layers=4, heads=2, key_value_heads=1,
               intermediate_size=128, max_positions=96)  # fmt: skip

DRIVER = """
import json, sys
from pathlib import Path
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, Ray
from ratchet.reference.models import Passes, ScoreJob, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.store.layout import Layout
if __name__ == "__main__":
    root, model, weights, fp, tokens, actors = json.loads(sys.argv[1])
    work = (ScoringModel(Path(model), weights, "float32"), ScoreJob(fp, Path(tokens), "train"))
    with ray_session(Cluster(score_actors=actors, ray=Ray(num_cpus=actors + 1))):
        score_jobs([work], Layout(Path(root)), Pool(actors, 0, Passes(token_budget=512)))
"""


def drive(arguments: list[Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, json.dumps(arguments)]
    return subprocess.Popen(
        command, env=whole_run.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def blocks_below(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("store/logps/*/block-*.parquet")}


def cut_short(arguments: list[Any], root: Path, draw: random.Random, driver_too: bool) -> dict[Path, int]:
    """Kill a process that scores, once there is a new block, and after one more the driver; return what was there."""
    before = blocks_below(root)
    with drive(arguments) as run:
        whole_run.until(lambda: len(blocks_below(root)) > len(before), run)
        scorers = [pid for pid, title in whole_run.processes_below(run.pid) if "BlockScorer" in title]
        os.kill(draw.choice(scorers), signal.SIGKILL)
        if not driver_too:
            _, said = run.communicate(timeout=300)
            assert run.returncode == 0, said
            return before
        whole_run.until(lambda: len(blocks_below(root)) > len(before) + 1, run)
        left = [pid for pid, _ in whole_run.processes_below(run.pid)]
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL
    assert not still_there(left, 120)
    return before


def test_five_kills_leave_each_score_once_and_redo_no_finished_block(tmp_path: Path) -> None:
    """A scoring process in each of three drivers, and two of the drivers themselves."""
    layout, draw = Layout(tmp_path / "cut"), random.Random(5)
    source = Source(generate=Generated(kind="arithmetic", rows=ROWS, largest=90), build="arithmetic_corruption")
    folder = tmp_path / "model"
    folder.mkdir()
    make_scratch(SPEC, ["What is 1 + 2 - 3?", "1 + 2 = 3. The answer is 3."], folder)
    with ray_session(Cluster(score_actors=ACTORS, ray=Ray(num_cpus=3))):
        pairs_fp, pairs = prepare_pairs("a", source, layout, None)
        policy: dict[str, Any] = {"max_length": 96, "overlong": "drop", "chat_template": None}
        fp, tokens = prepare_tokens(pairs, pairs_fp, folder, layout, **policy)
        model, job = ScoringModel(folder, digest_model(folder), "float32"), ScoreJob(fp, tokens, "train")
        (whole,) = score_jobs([(model, job)], Layout(tmp_path / "whole"), Pool(ACTORS, 0, Passes(token_budget=512)))
    ids = open_table([job.file], [1.0], 0).pair_ids()
    total = -(-len(ids) // BLOCK)
    arguments = [str(layout.root), str(folder), model.weights, fp, str(tokens), ACTORS]
    for driver_too in (True, True, False):
        before = cut_short(arguments, tmp_path / "cut", draw, driver_too)
        now = blocks_below(tmp_path / "cut")
        assert {path: now[path] for path in before} == before, "a finished block was made again"
        assert (len(now) == total) is not driver_too
    (logps,) = {path.parent for path in now}
    found = [pair_id for path in sorted(now) for pair_id in pq.read_table(path)["pair_id"].to_pylist()]
    assert len(found) == len({*found}) == len(ids) and {*found} == {*ids.to_pylist()}
    ours, theirs = read_logps([logps], ids), read_logps([whole.folder], ids)
    assert np.array_equal(ours.chosen, theirs.chosen) and np.array_equal(ours.rejected, theirs.rejected)
