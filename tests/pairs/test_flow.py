"""The flow on Ray gives what the Ray-free path gives; identities follow contents."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.pairs import flow
from ratchet.pairs.assemble import assemble
from ratchet.pairs.flow import pairs_identity, prepare_pairs
from ratchet.pairs.parts import plan_parts
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import read_record

TABLES = ("train", "heldout", "skipped")


def lines(count: int, **more: Any) -> str:
    return "".join(
        json.dumps({"prompt": f"p{i % 90}", "chosen": f"c{i % 180}", "rejected": "r", **more}) + "\n"
        for i in range(count)
    )


def identity_of(source: Source, system: str | None = None) -> str:
    return fingerprint(pairs_identity(source, system))


def test_identity_is_of_contents_and_not_of_places(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(lines(3))
    one, two = (str(tmp_path / name / "x.jsonl") for name in ("a", "b"))
    assert identity_of(Source(path=one)) == identity_of(Source(path=two))
    before = identity_of(Source(path=one))
    os.utime(one, ns=(1, 1))
    assert identity_of(Source(path=one)) == before
    Path(one).write_text(lines(3).replace("c1", "c9"))
    os.utime(one, ns=(2, 2))
    assert identity_of(Source(path=one)) != before


def test_identity_changes_with_all_that_changes_pairs_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(lines(3))
    plain = {"path": str(tmp_path / "x.jsonl")}
    changes: list[dict[str, Any]] = [
        {"layout": "pair"},
        {"build": "multiple_choice"},
        {"where": ["a == 1"]},
        {"min_margin": 1.0},
        {"system": "s"},
        {"max_rows": 3},
        {"max_characters": 9},
        {"held_out": 0.1},
        {"seed": 1},
    ]
    found = [identity_of(Source.model_validate({**plain, **change})) for change in [{}, *changes]]
    found += [identity_of(Source.model_validate({"generate": {"kind": "arithmetic", "rows": rows}})) for rows in (1, 2)]
    found += [
        identity_of(Source.model_validate({"hub": {"name": "a/b", "revision": name * 40}})) for name in ("c", "d")
    ]
    found.append(identity_of(Source.model_validate(plain), "other default"))
    assert len({*found}) == len(found)
    assert identity_of(Source.model_validate({**plain, "max_bad_share": 0.5})) == found[0]
    own = [identity_of(Source.model_validate({**plain, "system": "s"}), default) for default in (None, "t")]
    assert own[0] == own[1]


def test_a_file_that_is_absent_has_no_identity(tmp_path: Path) -> None:
    with raises("data.no-file"):
        pairs_identity(Source(path=str(tmp_path / "x.jsonl")), None)


@pytest.mark.ray
def test_ray_gives_what_the_plain_path_gives_for_any_spans(
    tmp_path: Path, session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = lines(2000) + "nonsense\n" + lines(40, extra=1)
    (tmp_path / "x.jsonl").write_text(text)
    for change in ({}, {"max_rows": 50, "where": ["chosen != c3"]}):
        source = Source.model_validate({"path": str(tmp_path / "x.jsonl"), **change, "held_out": 0.2})
        plain = tmp_path / f"plain{len(change)}"
        plain.mkdir()
        counts = assemble(read_source(source), plain, source)
        for spans in (1, 3):
            layout = Layout(tmp_path / f"{len(change)}-{spans}")
            small = functools.partial(plan_parts, span_bytes=len(text) // spans + 1, span_rows=7)
            monkeypatch.setattr(flow, "plan_parts", small)
            digest, folder = prepare_pairs("mine", source, layout, None)
            assert folder == layout.pairs(digest)
            assert sorted(path.name for path in folder.iterdir()) == [
                "heldout.parquet",
                "record.json",
                "skipped.parquet",
                "train.parquet",
            ]
            for table in TABLES:
                assert pq.read_table(folder / f"{table}.parquet").equals(pq.read_table(plain / f"{table}.parquet"))
            record = read_record(folder)
            assert record is not None
            assert (record.kind, record.fingerprint, record.counts) == ("pairs", digest, vars(counts))
            columns = {"read": ["prompt", "chosen", "rejected"], "not_read": ["extra"]}
            assert record.facts == {"layout": "pair", "demonstrations": False, **columns}
            assert prepare_pairs("mine", source, layout, None) == (digest, folder)


@pytest.mark.ray
def test_errors_cross_ray_and_leave_nothing_behind(tmp_path: Path, session: None) -> None:
    import gzip

    data = gzip.compress(lines(5000).encode(), 1)
    (tmp_path / "x.jsonl.gz").write_bytes(data[:-20])
    (tmp_path / "y.jsonl").write_text(lines(90) + "nonsense\n" * 10)
    layout = Layout(tmp_path / "out")
    with raises("data.damaged") as caught:
        prepare_pairs("mine", Source(path=str(tmp_path / "x.jsonl.gz")), layout, None)
    assert caught.value.where == str(tmp_path / "x.jsonl.gz")
    source = Source(path=str(tmp_path / "y.jsonl"))
    with raises("data.bad-rows"):
        prepare_pairs("mine", source, layout, None)
    assert [path for path in (tmp_path / "out").rglob("*.*") if "leases" not in path.parts] == []
    prepare_pairs("mine", source.model_copy(update={"max_bad_share": 0.2}), layout, None)
    with raises("data.bad-rows"):
        prepare_pairs("mine", source, layout, None)


@pytest.mark.ray
def test_generated_rows_on_ray(tmp_path: Path, session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source.model_validate({"generate": {"kind": "arithmetic_quiz", "rows": 50}, "build": "multiple_choice"})
    found = []
    for span_rows in (50, 17):
        monkeypatch.setattr(flow, "plan_parts", functools.partial(plan_parts, span_rows=span_rows))
        _, folder = prepare_pairs("mine", source, Layout(tmp_path / str(span_rows)), "be brief")
        record = read_record(folder)
        assert record is not None
        assert record.counts["read"] == 150
        found.append([pq.read_table(folder / f"{table}.parquet") for table in TABLES])
    assert all(one.equals(two) for one, two in zip(*found, strict=True))
    led = found[0][0].column("prompt")[0].as_py()[0]
    assert {key: value for key, value in led.items() if value is not None} == {"role": "system", "content": "be brief"}
