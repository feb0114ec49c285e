"""Scoring on Ray: one pass, resumed by block, with errors that keep their cause."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ratchet.errors import ModelError
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.plan.data import Generated, Source
from ratchet.plan.model import Scratch
from ratchet.reference.models import Passes, ScoreJob, Scores, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.reference.store import block_path, read_logps
from ratchet.store.layout import Layout
from whole_run import titles_below

pytestmark = pytest.mark.ray
SPEC = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1,
               intermediate_size=32, max_positions=96)  # fmt: skip


@pytest.fixture(scope="module")
def made(session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, ScoringModel, ScoreJob]:
    layout = Layout(tmp_path_factory.mktemp("store"))
    source = Source(generate=Generated(kind="arithmetic", rows=700, largest=30), build="arithmetic_corruption")
    pairs_fp, pairs = prepare_pairs("a", source, layout, None)
    folder = layout.root / "model"
    folder.mkdir()
    make_scratch(SPEC, ["What is 1 + 2 - 3?", "1 + 2 = 3. The answer is 3."], folder)
    tokens_fp, tokens = prepare_tokens(
        pairs, pairs_fp, folder, layout, max_length=96, overlong="drop", chat_template=None
    )
    return layout, ScoringModel(folder, digest_model(folder), "float32"), ScoreJob(tokens_fp, tokens, "train")


def score(layout: Layout, model: ScoringModel, *jobs: ScoreJob) -> list[Scores]:
    return score_jobs([(model, job) for job in jobs], layout, Pool(1, 0, Passes()))


def test_a_pass_cut_short_goes_on_with_the_blocks_that_are_missing(made: tuple[Layout, ScoringModel, ScoreJob]) -> None:
    layout, model, job = made
    whole, sample = score(layout, model, job, ScoreJob(job.tokens_fp, job.tokens_folder, "train", (3, 5, 8)))
    table = open_table([job.file], [1.0], 0)
    assert (whole.pairs, whole.reused, sample.reused, sample.folder) == (len(table), False, True, whole.folder)
    before = read_logps([whole.folder], table.pair_ids())
    assert read_logps([sample.folder], [table.pair_id(5)]).chosen == before.chosen[5]
    kept = block_path(whole.folder, 0).stat().st_mtime_ns
    (whole.folder / "record.json").unlink()  # as a kill leaves it: one block missing, one cut, no record
    block_path(whole.folder, 1).unlink()
    block_path(whole.folder, 2).write_bytes(b"PAR1")
    (again,) = score(layout, model, job)
    after = read_logps([again.folder], table.pair_ids())
    assert again.folder == whole.folder
    assert block_path(whole.folder, 0).stat().st_mtime_ns == kept
    assert np.array_equal(before.chosen, after.chosen)
    assert np.array_equal(before.rejected, after.rejected)
    rows = sum(pq.read_metadata(path).num_rows for path in whole.folder.glob("block-*.parquet"))
    assert rows == len(table)
    assert score(layout, model, job)[0].reused


def test_two_at_once_make_one_pass_of_their_own_weights_and_leave_no_process(
    made: tuple[Layout, ScoringModel, ScoreJob],
) -> None:
    """They ask in different orders. Scores of other weights that are there are not taken for theirs."""
    layout, model, job = made
    (of_others,) = score(layout, model, job)
    small = ScoreJob(job.tokens_fp, job.tokens_folder, "heldout")
    model = ScoringModel(model.folder, "weights that two ask for", "float32")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(score, layout, model, *jobs) for jobs in ((job, small), (small, job))]
        first, second = (future.result(300) for future in asked)
    assert [one.folder for one in first] == [one.folder for one in reversed(second)]
    assert sorted([[one.reused for one in first], [one.reused for one in second]]) == [[False] * 2, [True] * 2]
    assert first[0].folder != of_others.folder
    below = titles_below(os.getpid())
    assert any("/sockets/warm-" in title for title in below)  # looked where warm workers are
    assert [title for title in below if "BlockScorer" in title] == []


def test_an_error_in_a_scoring_process_comes_back_as_itself(
    made: tuple[Layout, ScoringModel, ScoreJob], tmp_path: Path
) -> None:
    from ratchet.pipeline.session import plain_error

    layout, model, job = made
    broken = tmp_path / "broken"
    shutil.copytree(model.folder, broken)
    next(broken.glob("*.safetensors")).write_bytes(b"junk")
    with pytest.raises(Exception) as caught:
        score(layout, ScoringModel(broken, "broken", "float32"), job)
    error = plain_error(caught.value)
    assert str(broken) in str(error), error
    assert type(error) is ModelError or error.exit_code == 74
