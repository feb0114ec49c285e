"""A finished step that is not as it was written is put aside and made again; what only pages read is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bits import flip
from raised import raises
from ratchet.pipeline.step_folder import clear_step, step_faults, unchanged, write_step_record
from ratchet.store.files import write_sealed
from ratchet.store.fingerprint import digest_file
from ratchet.store.record import Record, read_record
from ratchet.track.jsonl import metrics_line
from ratchet.train.data import open_rows
from train_bench import spec_of, write_inputs

FILES = {"model/model.safetensors": b"w" * 500, "model/tokenizer.json": b"{}", "adapter/adapter_config.json": b"{}"}


def finished_step(folder: Path) -> Path:
    write_sealed(folder / "identity.json", {"kind": "dpo"})
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "model/README.md").write_text("a card")
    (folder / "metrics.jsonl").write_text(metrics_line(1, {"loss": 0.5}))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/large").write_bytes(b"x")
    write_step_record(folder, Record("step", "f" * 20, {"kind": "dpo"}, {}, "2026-01-01T00:00:00Z", 1.5))
    return folder


@pytest.mark.parametrize("file", ["identity.json", "record.json", *FILES])
def test_a_changed_bit_of_a_step_puts_it_aside(tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = finished_step(tmp_path / "steps" / "align.1")
    (folder / "checkpoints/large").unlink()  # nobody needs them once the model is there
    (folder / "model/README.md").write_text("a card, edited")
    clear_step(folder, tmp_path / "damaged")
    assert folder.exists() and not step_faults(folder)
    flip(folder / file, (folder / file).stat().st_size // 2)
    assert len(step_faults(folder)) == 1
    clear_step(folder, tmp_path / "damaged")
    assert not folder.exists() and (tmp_path / "damaged/steps-align.1.1/model/model.safetensors").exists()
    assert len(caplog.records) == 1 and file in caplog.text and "the step is made again" in caplog.text


def test_a_linked_step_stays_where_it_is_and_an_unfinished_one_too(tmp_path: Path) -> None:
    home, link = finished_step(tmp_path / "store" / "f1"), tmp_path / "align"
    link.symlink_to(home)
    (home / "model/tokenizer.json").unlink()
    clear_step(link, tmp_path / "damaged")
    assert not link.is_symlink() and home.exists()
    (home / "record.json").unlink()
    clear_step(home, tmp_path / "damaged")
    assert home.exists() and not step_faults(home) and not (tmp_path / "damaged").exists()


def test_changed_masters_put_their_step_aside_and_absent_ones_do_not(tmp_path: Path, caplog: Any) -> None:
    """They are no files of the record: they go once no step needs them any more."""
    folder = finished_step(tmp_path / "steps" / "align.1")
    file = folder / "masters/masters.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"m" * 300)
    left = {"training": {"published": {"masters": {"sha256": digest_file(file), "bytes": 300}}}}
    write_step_record(folder, Record("step", "f" * 20, {"kind": "dpo"}, {}, "2026-01-01T00:00:00Z", 1.5, facts=left))
    assert not step_faults(folder)
    flip(file, 100)
    assert step_faults(folder) == ["masters/masters.safetensors does not have the bytes that were written"]
    file.write_bytes(b"m" * 299)
    assert step_faults(folder) == ["masters/masters.safetensors has 299 bytes of 300"]
    file.unlink()
    assert not step_faults(folder)
    file.write_bytes(b"n" * 300)
    clear_step(folder, tmp_path / "damaged")
    assert not folder.exists() and "the step is made again" in caplog.text


def test_changed_metrics_cost_no_training_and_are_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = finished_step(tmp_path / "align.1")
    assert unchanged(folder / "metrics.jsonl") and not caplog.records
    (folder / "metrics.jsonl").write_text(metrics_line(1, {"loss": 0.4}))
    assert not step_faults(folder) and read_record(folder) is not None
    assert not unchanged(folder / "metrics.jsonl") and "what it holds is left out" in caplog.text
    (folder / "record.json").unlink()  # it is being trained
    assert unchanged(folder / "metrics.jsonl")


def test_a_worker_trains_on_the_rows_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(4))
    spec = spec_of(tmp_path, **write_inputs(tmp_path), rows=str(path), rows_sha256=digest_file(path))
    assert len(open_rows(spec)) == 4
    flip(path, path.stat().st_size - 8)
    with raises("corrupt.rows", str(path)):
        open_rows(spec)
