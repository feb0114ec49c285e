"""Rows of their own that are held out: files and splits; and nothing that asks the same is trained on."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ratchet.look.rows import read_whole
from ratchet.pairs.checks import Reason
from ratchet.pairs.flow import pairs_identity, prepare_pairs
from ratchet.pairs.sample import sample_pairs
from ratchet.pairs.unique import digests_of, unique_ids
from ratchet.pipeline.answered import question
from ratchet.plan.data import HeldOutRows, Source, held_out_source
from ratchet.store.layout import layout_at
from ratchet.store.record import finished_record
from tests.support.raised import raises


def write(path: Path, *asked: str, answer: str = "Well.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": text, "chosen": answer, "rejected": "No."} for text in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(tmp_path: Path, **keys: Any) -> Source:
    return Source(path=str(tmp_path / "train.jsonl"), held_out={"path": str(tmp_path / "test.jsonl")}, **keys)


def asked(folder: Path, part: str) -> list[str]:
    return [row["prompt"][-1]["content"] for row in pq.read_table(folder / f"{part}.parquet").to_pylist()]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", *(f"question {at}" for at in range(8)), "Why so?", "What now?")
    write(tmp_path / "test.jsonl", "why SO", "something else", "something else", answer="It is.")
    return tmp_path


def test_no_row_with_a_held_out_prompt_is_trained_on(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, folder = prepare_pairs("mine", source(files), layout_at(str(files / "store")), None)
    assert asked(folder, "heldout") == ["why SO", "something else"]
    assert asked(folder, "train") == [*(f"question {at}" for at in range(8)), "What now?"]
    counts = finished_record(folder).counts
    assert (counts["read"], counts["kept"], counts["skipped"]) == (13, 11, {"duplicate": 1, Reason.HELD_OUT: 1})
    assert [text for text in caplog.messages if "1 of 13 rows are left out, as they ask what" in text]


def test_a_sample_is_of_what_is_trained_on(files: Path) -> None:
    _, folder = prepare_pairs("mine", source(files, max_rows=3), layout_at(str(files / "store")), None)
    assert asked(folder, "heldout") == ["why SO", "something else"]
    assert len(asked(folder, "train")) == 3 and not {"Why so?"} & {*asked(folder, "train")}


def test_the_look_and_the_estimates_agree_with_the_run(files: Path, tmp_path: Path) -> None:
    _, folder = prepare_pairs("mine", source(files), layout_at(str(files / "store")), None)
    (tmp_path / "look").mkdir()
    seen: list[int] = []
    read = read_whole("mine", source(files), None, tmp_path / "look", None, lambda number, _: seen.append(number))
    assert {**read.counts} == finished_record(folder).counts and len(seen) == 10
    sampled = sample_pairs(source(files), None, 100)
    assert [pair.prompt[-1].content for pair in sampled.pairs] == asked(folder, "train")


def test_the_content_of_the_rows_is_in_the_identity(files: Path, tmp_path: Path) -> None:
    known = pairs_identity(source(files), None)
    (tmp_path / "moved").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / "moved" / name).write_bytes((files / name).read_bytes())
    assert pairs_identity(source(tmp_path / "moved"), None) == known
    write(files / "test.jsonl", "why SO")
    assert pairs_identity(source(files), None) != known != pairs_identity(Source(path=str(files / "train.jsonl")), None)


def test_a_command_with_nothing_to_do_looks_at_the_held_out_rows(files: Path) -> None:
    asked_before = question({}, [source(files)])
    assert asked_before is not None and files / "test.jsonl" in asked_before.files
    at_url = source(files).model_copy(update={"held_out": HeldOutRows(path="https://example.org/test.jsonl")})
    assert question({}, [at_url]) is None, "what lies there may change unseen"


def test_a_split_of_the_sources_folder(tmp_path: Path) -> None:
    write(tmp_path / "d/data/train-00000-of-00001.jsonl", "one", "two", "Three?")
    write(tmp_path / "d/data/test-00000-of-00001.jsonl", "three", "four")
    mine = Source(path=str(tmp_path / "d"), held_out={"split": "test"})
    _, folder = prepare_pairs("mine", mine, layout_at(str(tmp_path / "store")), None)
    assert (asked(folder, "train"), asked(folder, "heldout")) == (["one", "two"], ["three", "four"])


def test_a_split_of_the_hub() -> None:
    mine = Source(hub={"name": "owner/rows", "revision": "0" * 40}, held_out={"split": "test"}, max_rows=3)
    rows = held_out_source(mine)
    assert rows is not None and rows.hub is not None and (rows.hub.split, rows.max_rows) == ("test", None)
    assert rows.hub.revision == "0" * 40
    assert pairs_identity(mine, None)["held_out"]["hub"]["split"] == "test"


def test_held_out_rows_that_come_to_nothing_stop_the_run(files: Path) -> None:
    write(files / "test.jsonl", "", " ")
    with raises("data.nothing-left") as caught:
        prepare_pairs("mine", source(files, max_bad_share=1.0), layout_at(str(files / "store")), None)
    assert caught.value.where == "data.mine.held_out" and "2 empty text" in caught.value.what
    (files / "test.jsonl").unlink()
    with raises("data.no-file"):
        prepare_pairs("mine", source(files), layout_at(str(files / "store")), None)
    same = Source(path=str(files / "train.jsonl"), held_out={"path": str(files / "train.jsonl")})
    with raises("data.nothing-left") as caught:
        prepare_pairs("mine", same, layout_at(str(files / "store")), None)
    assert "10 prompt is held out" in caught.value.what


def test_held_out_demonstrations_do_not_go_with_pairs(files: Path) -> None:
    (files / "test.jsonl").write_text(json.dumps({"instruction": "Why?", "output": "So."}) + "\n")
    with raises("plan.rows"):
        prepare_pairs("mine", source(files), layout_at(str(files / "store")), None)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"path": "x.jsonl", "held_out": {}}, "give a path, a split, or both"),
        ({"path": "x.jsonl", "held_out": 1.0}, "less than 1"),
        ({"path": "x", "split": "test", "held_out": {"split": "test"}}, "is the one that is trained on"),
        ({"hub": {"name": "a/b"}, "held_out": {"split": "train"}}, "is the one that is trained on"),
        ({"generate": {"kind": "arithmetic"}, "held_out": {"split": "test"}}, "have no splits"),
    ],
)
def test_what_cannot_be_held_out(keys: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Source(**keys)


def test_a_share_that_came_to_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shots = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
    rows = [
        {"prompt": [*shots, {"role": "user", "content": f"q {at}"}], "chosen": "a", "rejected": "b"} for at in range(60)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(20):
        mine = Source(path=str(tmp_path / "x.jsonl"), held_out=0.4, seed=seed)
        if len(sample_pairs(mine, None, 100).pairs) == 60:
            break
    with caplog.at_level(logging.WARNING):
        prepare_pairs("mine", mine, layout_at(str(tmp_path / "store")), None)
    assert [text for text in caplog.messages if "nothing is held out, where a share of 0.4 would be 24 pairs" in text]


def test_ids_that_were_added_are_known(tmp_path: Path) -> None:
    texts = [hashlib.blake2b(bytes([at % 251, at // 251]), digest_size=16).hexdigest() for at in range(20_000)]
    ids = digests_of(pa.chunked_array([texts]))
    with unique_ids(tmp_path / "ids") as known:
        known.add(ids[::3])
        assert known.has(ids).tolist() == [at % 3 == 0 for at in range(20_000)]
        assert known.has(ids[:0]).tolist() == []


def dump(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("counted", ["012", "123"])
def test_held_out_answers_are_read_as_those_to_train_on(tmp_path: Path, counted: str) -> None:
    options = ["zero", "one", "two"]
    dump(
        tmp_path / "train.jsonl",
        [{"question": f"q {n}?", "choices": options, "answer": counted[n % 3]} for n in range(30)],
    )
    dump(
        tmp_path / "test.jsonl", [{"question": f"h {n}?", "choices": options, "answer": "12"[n % 2]} for n in range(6)]
    )
    _, folder = prepare_pairs("mine", source(tmp_path, build="multiple_choice"), layout_at(str(tmp_path / "s")), None)
    right = {
        row["prompt"][-1]["content"]: row["chosen"] for row in pq.read_table(folder / "heldout.parquet").to_pylist()
    }
    assert right == {f"h {n}?": options[counted.index("12"[n % 2])] for n in range(6)}
    assert len(sample_pairs(source(tmp_path, build="multiple_choice"), None, 100).pairs) == 60


def test_prompts_are_cut_off_held_out_answers_where_they_are_cut_off_the_others(tmp_path: Path) -> None:
    def row(name: str, *, whole: bool) -> dict[str, str]:
        head = f"What is {name}? " if whole else ""
        return {"prompt": f"What is {name}?", "chosen": f"{head}It is good.", "rejected": f"{head}It is bad."}

    dump(tmp_path / "train.jsonl", [row(f"q{n}", whole=n < 20) for n in range(30)])
    dump(tmp_path / "test.jsonl", [row(f"h{n}", whole=n < 5) for n in range(12)])
    _, folder = prepare_pairs("mine", source(tmp_path), layout_at(str(tmp_path / "s")), None)
    assert {row["chosen"] for row in pq.read_table(folder / "heldout.parquet").to_pylist()} == {"It is good."}


def test_held_out_rows_of_a_mixture_may_begin_with_one_of_its_kinds(tmp_path: Path) -> None:
    first = [{"prompt": f"p {n}?", "chosen": "a", "rejected": "b"} for n in range(40)]
    second = [{"question": f"q {n}?", "chosen": "a", "rejected": "b"} for n in range(20)]
    dump(tmp_path / "train.jsonl", [*first, *second])
    dump(tmp_path / "test.jsonl", [{"prompt": "h?", "chosen": "a", "rejected": "b"}])
    _, folder = prepare_pairs("mine", source(tmp_path), layout_at(str(tmp_path / "s")), None)
    assert (asked(folder, "heldout"), len(asked(folder, "train"))) == (["h?"], 60)


def test_held_out_rows_are_taken_out_before_a_sample_is_drawn(files: Path) -> None:
    write(files / "test.jsonl", *(f"Question {at}!" for at in range(7)))
    _, folder = prepare_pairs("mine", source(files, max_rows=3), layout_at(str(files / "store")), None)
    found = [pair.prompt[-1].content for pair in sample_pairs(source(files, max_rows=3), None, 100).pairs]
    assert found == asked(folder, "train") and len(found) == 3


@pytest.mark.parametrize("train_on", ["all", "last"])
def test_no_later_turn_that_asks_a_held_out_question_is_trained_on(tmp_path: Path, train_on: str) -> None:
    def talk(*texts: str) -> dict[str, Any]:
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]}

    dump(
        tmp_path / "train.jsonl",
        [talk("Hi", "Yes?", "why SO", "So.", "More", "No."), talk("Hi", "Yes?", "Why so?", "So.")],
    )
    dump(tmp_path / "test.jsonl", [talk("Why so?", "So.")])
    mine = source(tmp_path, train_on=train_on)
    _, folder = prepare_pairs("mine", mine, layout_at(str(tmp_path / "store")), None)
    assert asked(folder, "train") == (["Hi", "More"] if train_on == "all" else ["More"])
    assert [pair.prompt[-1].content for pair in sample_pairs(mine, None, 9).pairs] == asked(folder, "train")
    skipped = [row for row in pq.read_table(folder / "skipped.parquet").to_pylist() if row["reason"] == Reason.HELD_OUT]
    assert {row["detail"] for row in skipped} == {"a row that is held out asks what the last turn asks"}
    assert len(skipped) == (2 if train_on == "all" else 1)
