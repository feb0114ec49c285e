"""What `show` says of sources that are not read yet: rows counted, or estimated from the first ones."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.cli import main
from ratchet.pairs import estimate, read
from ratchet.pairs.estimate import estimate_pairs, estimate_rows, known_reading
from ratchet.pairs.read import plan_spans
from ratchet.pipeline.state import plan_state
from ratchet.plan.data import Generated, Hub, Source
from ratchet.plan.load import plan_of
from ratchet.plan.reading import parse


def rows(count: int, length: int = 20) -> list[dict[str, Any]]:
    return [{"prompt": f"{n}?", "chosen": "yes " * length, "rejected": f"no {n}"} for n in range(count)]


def write(path: Path, values: list[dict[str, Any]]) -> Source:
    text = "".join(json.dumps(value) + "\n" for value in values)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), path)
    elif path.suffixes[-1:] == [".json"]:
        path.write_text(json.dumps(values))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress((text if ".jsonl" in path.suffixes else json.dumps(values)).encode()))
    else:
        path.write_text(text.rstrip("\n"))
    return Source(path=str(path))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.parquet", "x.jsonl.gz", "x.json.gz"])
def test_two_hundred_rows_are_two_hundred(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, rows(200))
    assert (estimate_rows(source), estimate_pairs(source)) == (200, 200)
    assert estimate_pairs(source.model_copy(update={"max_rows": 30})) == 30


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["x.json", "x.jsonl.gz", "x.json.gz"])
def test_of_a_long_file_the_first_bytes_tell(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_LOOK_BYTES", 1 << (20 if name == "x.json" else 17))
    source = write(tmp_path / name, [{**row, "rejected": str(hash(n))} for n, row in enumerate(rows(60_000))])
    assert estimate_rows(source) == pytest.approx(60_000, rel=0.1)
    assert estimate_rows(source) != 60_000


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.parquet"])
def test_a_file_that_was_cut_off_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, rows(2000))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    with raises("data.damaged") as caught:
        estimate_pairs(source)
    assert caught.value.where == str(tmp_path / name)


def test_rows_that_give_no_pair_or_several_are_counted_so(tmp_path: Path) -> None:
    half = [row if n % 2 else {**row, "chosen": ""} for n, row in enumerate(rows(100))]
    assert estimate_pairs(write(tmp_path / "x.jsonl", half)) == 50
    quiz = Source(generate=Generated(kind="arithmetic_quiz", rows=40), build="multiple_choice")
    assert estimate_pairs(quiz) == 120
    assert estimate_pairs(Source(hub=Hub(name="a/b"))) == 0


PLAN = """\
name: mine
model: {path: start}
data: {prefs: {path: prefs.jsonl, held_out: 0.1}}
stages:
  align: {kind: dpo, data: [prefs], batch: 5, max_length: 40}
cluster: {storage: out}
"""


def test_show_counts_and_measures_with_the_models_own_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second pair is longer than max_length; the tokens are those of the pairs that stay, as tokenised."""
    from harness_example import SPEC
    from ratchet.model.scratch import make_scratch
    from ratchet.pairs.tokenizer import load_tokenizer
    from token_pairs import TEXTS

    monkeypatch.chdir(tmp_path)
    make_scratch(SPEC, TEXTS, Path("start"))
    write(Path("prefs.jsonl"), [row for pair in zip(rows(100, 2), rows(100, 90), strict=True) for row in pair])
    sources, (state,) = plan_state(plan_of(parse(PLAN, "plan.yaml")))
    assert [(one.pairs, one.estimated) for one in sources] == [(180, True)]
    assert state.size is not None
    assert (state.size.pairs, state.size.steps) == (90, 18)
    tokenizer = load_tokenizer(Path("start"), None)
    turn = [{"role": "user", "content": "7?"}]
    one = sum(
        len(tokenizer.apply_chat_template([*turn, {"role": "assistant", "content": text}], return_dict=False))
        for text in ("yes yes ", "no 7")
    )
    prompt = len(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))
    assert state.size.tokens == pytest.approx(90 * (one - prompt), rel=0.15)


@pytest.mark.heavy
def test_a_long_file_is_read_from_end_to_end_once_for_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "x.jsonl").open("w") as file:
        for at in range(16):
            part = [{**row, "prompt": f"{at} {row['prompt']}"} for row in rows(1000, 2000)]
            file.write("".join(json.dumps(row) + "\n" for row in part))
    size = (tmp_path / "x.jsonl").stat().st_size
    sources = {"a": {"path": "x.jsonl"}}
    model = {"scratch": {"tokenizer_from": ["a"], "max_positions": 2048}}
    stages = {"align": {"kind": "dpo", "data": ["a"]}}
    plan = {"name": "x", "model": model, "data": sources, "stages": stages}
    (tmp_path / "x.yaml").write_text(json.dumps(plan))
    time.sleep(2.1)  # what changed a moment ago may change again, and is read each time
    assert main(["check", "x.yaml"]) in (0, 3)  # what is imported is not counted below
    before = read_bytes()
    read._known_spans.cache_clear()
    estimate._reading_of.cache_clear()
    assert main(["check", "x.yaml"]) in (0, 3)
    assert size > 120_000_000
    # The last span of 32 MB is read twice more, as its lines are counted, and 33 places in blocks of about a megabyte.
    assert size < read_bytes() - before < 2 * size
    assert "x.jsonl" not in capsys.readouterr().err


def read_bytes() -> int:
    """Return how many bytes this process has read, from the disk or not."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar:"))
    return int(line.split()[1])


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", rows(200))
    assert estimate_rows(source) == 200
    known = known_reading(source, None)
    changed = write(tmp_path / "x.jsonl", [{"question": row["prompt"], "answer": "a"} for row in rows(100)])
    assert (estimate_rows(changed), known_reading(changed, None).layout) == (100, "instruction")
    assert known.layout == "pair"


@pytest.mark.parametrize("last", ["\n", ""])
def test_rows_of_spans_are_those_between_their_cuts(tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("a.jsonl", 137), ("b.jsonl", 1), ("c.jsonl", 60)):
        text = "\n".join(json.dumps(row) for row in rows(count)) + last
        (tmp_path / name).write_text(text)
    source = Source(path=str(tmp_path / "*.jsonl"))
    spans = plan_spans(source, span_bytes=1000)
    monkeypatch.setattr(estimate, "plan_spans", lambda source: spans)
    assert len(spans) > 10 and estimate_rows(source) == 198
