"""Folders: which files a split has, by what `datasets` saved, by a card, or by names; never two splits at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raised import raises
from ratchet.pairs.files import source_files
from ratchet.pairs.read import plan_spans, read_span
from ratchet.plan.data import Source


def touch(folder: Path, *names: str, card: str | None = None) -> None:
    """Write files of one row each, which says the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name}) + "\n")
    if card is not None:
        (folder / "README.md").write_text(f"---\n{card}---\n# Mine\n")


def save(folder: Path, name: str) -> None:
    """Write the folder that `Dataset.save_to_disk` would."""
    folder.mkdir(parents=True)
    table = pa.table({"name": [name]})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))


def read(folder: Path, **keys: Any) -> list[str]:
    source = Source(path=str(folder), **keys)
    return [row.value["name"] for span in plan_spans(source) for row in read_span(span, source) if row.value]


def fault(code: str, folder: Path, **keys: Any) -> str:
    with raises(code) as caught:
        read(folder, **keys)
    assert caught.value.where.startswith(str(folder))
    return str(caught.value)


def test_of_a_saved_dict_one_split_is_read_and_train_by_itself(tmp_path: Path) -> None:
    save(tmp_path / "test", "test")
    assert read(tmp_path) == ["test"], "the only one"
    save(tmp_path / "valid", "valid")
    assert "there are several, and none is called train: test, valid" in fault("data.split", tmp_path)
    save(tmp_path / "train", "train")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "valid", "test"]}')
    assert read(tmp_path) == ["train"] and read(tmp_path, split="valid") == ["valid"]
    assert "did you mean train?" in fault("data.split", tmp_path, split="trian")
    assert "without splits" in fault("data.split", tmp_path / "train", split="train")


CARD = """\
license: mit
configs:
- config_name: helpful
  default: true
  data_files:
  - {split: train, path: "helpful/train-*.jsonl"}
  - split: test
    path: ["helpful/test.jsonl", "more/**"]
- config_name: harmless
  data_files: harmless/*.jsonl
"""
CLONE = (
    *("helpful/train-1.jsonl", "helpful/train-2.jsonl", "helpful/test.jsonl", "more/a/b.jsonl", "more/c.jsonl"),
    *("harmless/x.jsonl", "harmless/deep/y.jsonl", "notes/z.jsonl"),
)


def test_the_card_of_a_clone_says_which_files_a_split_has(tmp_path: Path) -> None:
    touch(tmp_path, *CLONE, card=CARD)
    assert read(tmp_path) == read(tmp_path, config="helpful") == ["helpful/train-1.jsonl", "helpful/train-2.jsonl"]
    assert read(tmp_path, split="test") == ["helpful/test.jsonl", "more/a/b.jsonl", "more/c.jsonl"]
    assert read(tmp_path, config="harmless") == ["harmless/x.jsonl"]
    assert "did you mean harmless?" in fault("data.split", tmp_path, config="harmles")
    assert "give one of: test, train" in fault("data.split", tmp_path, split="dev")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("data.jsonl", ["data.jsonl"]),
        ("'*.jsonl'", ["data.jsonl", "more.jsonl"]),
        ("{train: [data.jsonl], test: more.jsonl}", ["data.jsonl"]),
        ("[{split: train, path: 'mor?.jsonl'}]", ["more.jsonl"]),
        ("'[d]ata.jsonl'", ["data.jsonl"]),
        ("'{data,mor?}.js*'", ["data.jsonl", "more.jsonl"]),
        ("'*.jsonl'\n  data_dir: deep", ["deep/data.jsonl"]),
        ("{train: data.jsonl}\n  data_dir: ./deep/", ["deep/data.jsonl"]),
    ],
)
def test_a_card_names_files_in_several_ways(tmp_path: Path, files: str, expected: list[str]) -> None:
    touch(
        tmp_path,
        "data.jsonl",
        "more.jsonl",
        "deep/data.jsonl",
        card=f"configs:\n- config_name: default\n  data_files: {files}\n",
    )
    assert read(tmp_path) == expected


def test_a_card_may_name_a_folder_for_each_config(tmp_path: Path) -> None:
    names = [f"data/{config}/{split}.jsonl" for config in ("de", "en") for split in ("test", "train")]
    card = "".join(f"- {{config_name: {one}, data_dir: data/{one}}}\n" for one in ("de", "en"))
    touch(tmp_path, *names, card=f"configs:\n{card}")
    assert read(tmp_path, config="en") == ["data/en/train.jsonl"]
    assert read(tmp_path, config="de", split="test") == ["data/de/test.jsonl"]
    assert "`config: de`" in fault("data.split", tmp_path)


def test_the_example_of_a_split_is_one_to_train_on(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{one}-00000-of-00001.jsonl" for one in ("test_prefs", "train_prefs", "train_sft")))
    assert "`split: train_prefs`" in fault("data.split", tmp_path)
    touch(tmp_path / "b", "test.jsonl", "dev.jsonl")
    assert "`split: validation`" in fault("data.split", tmp_path / "b")


def test_a_card_that_is_broken_or_names_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", card="configs:\n- {data_files: [{split: train}]}\n")
    assert "README.md" in fault("data.form", tmp_path)
    touch(tmp_path, card="configs: [\n")
    assert "give the files themselves" in fault("data.form", tmp_path)
    touch(tmp_path, card="configs:\n- {config_name: a, data_files: gone.jsonl}\n")
    assert "fetch the data set again" in fault("data.no-file", tmp_path)
    touch(tmp_path, card="license: mit\n")
    assert read(tmp_path) == ["train.jsonl"], "a card without files says nothing"


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.jsonl", "test.jsonl", "README.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"], [0], [1]),
        (["train_prefs-00000-of-00001.jsonl", "train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"], [1], [2]),
        (["train/0.jsonl", "train/1.jsonl", "eval/0.jsonl"], [0, 1], [2]),
        (["my-Training-1.ndjson", "my-Training-2.ndjson", "my-testing-1.ndjson"], [0, 1], [2]),
        ([".git/train.jsonl", "train.jsonl", "x_test.jsonl"], [1], [2]),
    ],
)
def test_without_a_card_names_say_it(tmp_path: Path, names: list[str], train: list[Any], test: list[Any]) -> None:
    touch(tmp_path, *names)
    expected = [[names[one] if isinstance(one, int) else one for one in part] for part in (train, test)]
    assert [read(tmp_path), read(tmp_path, split="test")] == expected


@pytest.mark.parametrize("card", ["license: mit\n", 'configs:\n- {config_name: default, data_files: "data/train-*"}\n'])
def test_a_part_that_is_missing_of_a_split_is_an_error(tmp_path: Path, card: str) -> None:
    names = [f"data/train-{at:05}-of-00003.jsonl" for at in range(3)]
    touch(tmp_path, names[0], names[2], "data/test-00001-of-00002.jsonl", card=card)
    said = fault("data.no-file", tmp_path)
    assert "1 of 3 files of one split are missing: data/train-00001-of-00003" in said and "fetch" in said
    touch(tmp_path, names[1])
    assert read(tmp_path) == names, "what is missing of another split is not asked for"


def test_a_saved_dict_without_its_splits_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert "no split is there" in fault("data.no-file", tmp_path)


def test_files_of_one_split_that_are_no_parts_of_one_thing_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "easy/train.jsonl", "hard/train.jsonl")
    assert "`config: easy`" in fault("data.split", tmp_path)
    assert read(tmp_path, config="hard") == ["hard/train.jsonl"]
    assert "it has easy, hard" in fault("data.split", tmp_path, config="none")
    touch(tmp_path / "two", "train_chosen.jsonl", "train_sft.jsonl")
    assert "any of: train_chosen.jsonl, train_sft.jsonl" in fault("data.split", tmp_path / "two")
    touch(tmp_path / "forms", "train.jsonl")
    (tmp_path / "forms" / "train.csv").write_text("name\nx\n")
    assert "train.csv, train.jsonl" in fault("data.split", tmp_path / "forms")


def test_a_folder_that_says_nothing_is_an_error_that_names_its_files(tmp_path: Path) -> None:
    touch(tmp_path / "lone", "prefs.jsonl", card="license: mit\n")
    touch(tmp_path / "parts", "part_1.jsonl", "part_02.jsonl")
    (tmp_path / "lone" / "dataset_infos.json").write_text("{}")
    assert read(tmp_path / "lone") == ["prefs.jsonl"], "what is there is one thing"
    assert read(tmp_path / "parts") == ["part_02.jsonl", "part_1.jsonl"]
    touch(tmp_path / "a", "one.jsonl", "two.jsonl")
    assert f"path: {tmp_path}/a/*.jsonl" in fault("data.form", tmp_path / "a")
    touch(tmp_path / "b", "deep/one.jsonl", "two.ndjson")
    assert "deep/one.jsonl, two.ndjson" in fault("data.form", tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.bin").write_text("x")
    assert "it has model.bin" in fault("data.form", tmp_path / "c")


def test_a_split_is_never_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    (tmp_path / "a.csv").write_text("name\nx\n")
    for name in ("a.jsonl", "a.csv"):
        assert "no split train" in fault("data.split", tmp_path / name, split="train")
        assert "is of a folder" in fault("data.split", tmp_path / name, config="default")


def test_labels_do_not_change_with_the_place_of_the_folder(tmp_path: Path) -> None:
    labels = []
    for place in ("here", "there/deeper"):
        touch(tmp_path / place, *CLONE, card=CARD)
        labels.append([file.label for file in source_files(Source(path=str(tmp_path / place), split="test"))])
    assert labels[0] == labels[1] == ["helpful/test.jsonl", "more/a/b.jsonl", "more/c.jsonl"]


def test_a_place_that_cannot_be_looked_into_is_an_error(tmp_path: Path) -> None:
    name = "x" * 300
    assert f"{name}: cannot be looked into: File name too long" in fault("data", tmp_path / name)


def test_what_begins_with_a_dot_is_not_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, "train.jsonl", ".cache/train.csv", ".train.csv", "a/.git/train.parquet")
    assert read(tmp_path) == ["train.jsonl"]
