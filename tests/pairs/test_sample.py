"""Pairs that are looked at before anything is read: whole where there are few, some prompts of many, and their ids."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ratchet.errors import DataError
from ratchet.pairs import sample
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.sample import encoded, sample_pairs, whole_prompts
from ratchet.pairs.source import read_source
from ratchet.pairs.tokens import Policy
from ratchet.plan.data import Generated, Hub, Source


def rows(prompts: int, each: int = 3) -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {n}", "chosen": "yes", "rejected": f"no {k}"} for n in range(prompts) for k in range(each)
    ]


def write(path: Path, values: list[dict[str, Any]], **keys: Any) -> Source:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), path, row_group_size=90)
    elif path.suffix == ".json":
        path.write_text(json.dumps(values))
    else:
        text = "".join(json.dumps(value) + "\n" for value in values)
        (path.write_bytes(gzip.compress(text.encode())) if path.suffix == ".gz" else path.write_text(text))
    return Source(path=str(path), **keys)


def test_of_a_small_source_all_that_is_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [*rows(40), *rows(40)], held_out=0.3)
    found = sample_pairs(source, None, 1000)
    assert found.whole and len(found.pairs) == len({pair.pair_id for pair in found.pairs})
    prompts = {pair.prompt_id for pair in found.pairs}
    assert 20 < len(prompts) < 36 and len(found.pairs) == 3 * len(prompts)
    capped = sample_pairs(source.model_copy(update={"held_out": 0.0, "max_rows": 30}), None, 1000)
    assert len(capped.pairs) == 30 and capped.whole


def test_of_many_pairs_whole_prompts(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", rows(200), held_out=0.0)
    found = sample_pairs(source, None, 100)
    assert not found.whole and len(found.pairs) == 102
    assert len({pair.prompt_id for pair in found.pairs}) == 34
    assert found == sample_pairs(source, None, 100)
    assert found != sample_pairs(source.model_copy(update={"seed": 1}), None, 100)


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.json", "x.jsonl.gz", "generated"])
def test_of_a_large_source_rows_from_many_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_SMALL_BYTES", 1000)
    monkeypatch.setattr(sample, "_SMALL_ROWS", 100)
    if name == "generated":
        source = Source(generate=Generated(kind="arithmetic_quiz", rows=600), build="multiple_choice")
    else:
        source = write(tmp_path / name, rows(600), held_out=0.1)
    found = sample_pairs(source, None, 160)
    assert not found.whole and 100 < len(found.pairs) <= 170
    assert found == sample_pairs(source, None, 160)
    every = {item.pair_id for item in read_source(source) if isinstance(item, PreferencePair)}
    assert {pair.pair_id for pair in found.pairs} <= every
    assert len({pair.prompt_id for pair in found.pairs}) < len(found.pairs) / 2
    words = [pair.prompt[0].content.split()[-1] for pair in found.pairs]
    places = [pair.row for pair in found.pairs] if name == "generated" else [int(word) for word in words]
    # JSON arrays and gzip files can be read from their beginning alone.
    assert max(places) - min(places) > 300 or name in {"x.json", "x.jsonl.gz"}


def test_a_source_on_the_hub_gives_nothing() -> None:
    assert sample_pairs(Source(hub=Hub(name="a/b")), None, 10) == sample.PairSample((), whole=False)


def test_whole_prompts_until_there_are_enough() -> None:
    prompts = ["a", "b", "a", "c", "b", "d"]
    assert whole_prompts(prompts, 6, 0) == [0, 1, 2, 3, 4, 5]
    some = whole_prompts(prompts, 3, 0)
    assert 3 <= len(some) <= 4 and all(
        ([p for i, p in enumerate(prompts) if i in some].count(p)) == prompts.count(p)
        for p in {prompts[i] for i in some}
    )


def pair(prompt: str, chosen: str, rejected: str | None) -> PreferencePair:
    worse = None if rejected is None else answer_turn(rejected)
    return PreferencePair((Turn("user", prompt),), answer_turn(chosen), worse, "f", 1)


def test_ids_are_those_of_the_tokenizer_or_of_characters() -> None:
    words = Tokenizer(models.WordLevel({"one": 0, "two": 1, "three": 2}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pairs = [pair("one two", "three", "two two"), pair("one", "two", None)]
    first, second = encoded(pairs, words, Policy(8, "drop"))
    assert [first.prompt.tolist(), first.chosen.tolist(), first.rejected.tolist()] == [[0, 1], [2], [1, 1]]
    assert len(second.rejected) == 0
    (signs,) = encoded([pair("né", "a", "bc")], None, Policy(8, "drop"))
    assert [signs.prompt.tolist(), signs.rejected.tolist()] == [[110, 233], [98, 99]]


def test_a_length_policy_drops_or_trims() -> None:
    long = pair("x" * 30, "y" * 10, "z")
    assert encoded([long], None, Policy(8, "drop")) == []  # 40 characters, and 32 are 8 tokens
    (trimmed,) = encoded([long], None, Policy(8, "trim_prompt"))
    assert len(trimmed.prompt) == 22
    assert encoded([pair("x", "y" * 40, "z")], None, Policy(8, "trim_prompt")) == []


def test_a_tokenizer_that_cannot_encode_is_an_error_of_the_data() -> None:
    """The library raises a bare Exception; `check` says in words why nothing was counted, and goes on."""
    bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))  # noqa: S106  a token, not a password
    with pytest.raises(DataError, match="UNK"):
        encoded([pair("zebra", "a", "a")], bare, Policy(8, "drop"))
