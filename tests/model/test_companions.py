"""What goes along with a published model: what belongs to it as it came, not what says how its start was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.model.companions import companions
from ratchet.model.export import save_model
from ratchet.model.load import load_model
from ratchet.model.merge import merge_models
from ratchet.model.scratch import make_scratch
from ratchet.plan.model import Scratch
from ratchet.store.record import NAME

KEPT = ("LICENSE", "merges.txt", "modeling_x.py", "preprocessor_config.json", "processor_config.json")
OF_RATCHET = (NAME, "MANIFEST.json", "budget.json", "events.jsonl", "identity.json", "metrics.jsonl", "report.html")
OF_TRAINING = (
    *("all_results.json", "events.out.tfevents.1.host", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"),
    *("train.log", "trainer_state.json", "training_args.bin", "zero_to_fp32.py"),
)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    make_scratch(spec, ["What is 12 + 30?"] * 9, tmp_path / "start")
    for name in (*KEPT, *OF_RATCHET, *OF_TRAINING):
        (tmp_path / "start" / name).write_text(name)
    return tmp_path / "start"


def test_records_and_leftovers_are_no_companions(start: Path) -> None:
    before = {"chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(companions(start)[0]) == before | set(KEPT)


@pytest.mark.parametrize("way", ["merged", "trained"])
def test_a_published_model_has_no_record_of_the_model_that_it_began_as(start: Path, tmp_path: Path, way: str) -> None:
    out = tmp_path / "out"
    if way == "trained":
        save_model(load_model(start, "float32"), start, out, "card")
    else:
        merge_models([start, start], [1, 1], out)
    there = {path.name for path in out.iterdir()}
    assert there.isdisjoint({*OF_RATCHET, *OF_TRAINING}) and there > set(KEPT)
