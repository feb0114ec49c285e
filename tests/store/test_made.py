"""What is made once: found, waited for, made aside and published under a lease that is still held."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bits import flip
from raised import raises
from ratchet.errors import DataError
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait, leased
from ratchet.store.made import Product, ensure, find, keep, record_of, survey, turn
from ratchet.store.record import read_record


def content(folder: Path) -> Product:
    (folder / "content").write_text("made")
    return Product({"rows": 3}, {"pairs": "p"}, {"why": "a test"})


def there(folder: Path) -> Product:
    raise AssertionError("it is there already")


@dataclasses.dataclass(frozen=True)
class Thing:
    work: Callable[[Path], Product] = content
    kind: ClassVar[str] = "things"
    what: ClassVar[str] = "the thing"
    identity: ClassVar[Mapping[str, Any]] = {"kind": "things", "of": 1}

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        look()
        return self.work(folder)


@dataclasses.dataclass(frozen=True)
class Other(Thing):
    identity: ClassVar[Mapping[str, Any]] = {"kind": "things", "of": 2}


DIGEST = fingerprint(Thing.identity)
LEASE = f"things-{DIGEST}"


def test_a_thing_is_made_once_and_its_record_says_what_its_maker_said(tmp_path: Path) -> None:
    folder = ensure(Layout(tmp_path), Thing()).folder
    assert folder == tmp_path / "store" / "things" / DIGEST
    record = read_record(folder)
    assert record is not None and record.identity == Thing.identity and record.fingerprint == DIGEST
    assert (record.counts, record.inputs, record.facts) == ({"rows": 3}, {"pairs": "p"}, {"why": "a test"})
    assert record.files.keys() == {"content"}
    assert ensure(Layout(tmp_path), Thing(there)).folder == folder


def test_what_is_damaged_is_put_aside_and_made_again(tmp_path: Path) -> None:
    folder = ensure(Layout(tmp_path), Thing()).folder
    flip(folder / "content", 3)
    assert ensure(Layout(tmp_path), Thing()).folder == folder
    assert (folder / "content").read_text() == "made" and len(list((tmp_path / "store" / "damaged").iterdir())) == 1


def test_what_is_there_is_found_and_says_whether_it_was_made_just_now(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert find(layout, Thing()) is None
    made = ensure(layout, Thing())
    assert made.fresh and not ensure(layout, Thing()).fresh
    found = find(layout, Thing(there))
    assert found is not None and (found.fingerprint, found.folder) == (DIGEST, made.folder)
    flip(made.folder / "content", 3)
    assert find(layout, Thing()) is None and [*survey(layout, {1: Thing(), 2: Other()})] == [1]
    flip(made.folder / "record.json", 40)
    assert survey(layout, {1: Thing()}) == {}, "a record that cannot be believed counts for nothing"


def test_what_is_kept_under_anothers_lease_is_found_and_put_aside_where_it_is_damaged(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with leased(layout.lease("another"), what="x") as lease:
        made = keep(layout, Thing(), [lease])
        found = find(layout, Thing())
        assert made.fresh and found is not None and (found.folder, found.fresh) == (made.folder, False)
        flip(made.folder / "content", 3)
        assert keep(layout, Thing(), [lease]).folder == made.folder and find(layout, Thing()) is not None
        assert len(list((tmp_path / "store" / "damaged").iterdir())) == 1
        (layout.lease("another") / "7.json").write_text("{}")  # as one does that has seen this lease lapse
        shutil.rmtree(made.folder)
        with raises("run.taken-over"):
            keep(layout, Thing(), [lease])
    assert find(layout, Thing()) is None


def test_what_is_kept_apart_is_never_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    one, two = (keep(layout, Thing(), (), apart=True) for _ in range(2))
    assert find(layout, Thing()) is None and one.folder != two.folder and (one.folder / "content").exists()
    assert one.record.fingerprint == DIGEST


def test_a_record_says_the_seconds_of_its_maker_where_that_counts_them(tmp_path: Path) -> None:
    said = [record_of(Thing(), Product(seconds=seconds), "then", 7.00049).seconds for seconds in (None, 2.5)]
    assert said == [7.0, 2.5]


def test_the_work_ends_where_the_one_who_waits_is_stopped(tmp_path: Path) -> None:
    calls, error = list[int](), DataError("stopped")

    def look() -> None:
        calls.append(1)
        if len(calls) == 2:  # the first is before the work begins
            raise error

    with pytest.raises(DataError) as caught:
        ensure(Layout(tmp_path), Thing(there), Wait(look=look))
    assert caught.value is error


def test_what_another_process_made_meanwhile_is_taken_and_its_lease_released(tmp_path: Path) -> None:
    layout, said, waits = Layout(tmp_path), list[str](), threading.Event()
    found: list[Path] = []
    wait = Wait(said.append, waits.set)
    with leased(layout.lease(LEASE), what="x"):
        other = threading.Thread(target=lambda: found.append(ensure(layout, Thing(there), wait).folder))
        other.start()
        assert waits.wait(600)
        elsewhere = ensure(Layout(tmp_path / "elsewhere"), Thing()).folder
        folder = layout.made("things", DIGEST)
        shutil.copytree(elsewhere, folder)
    other.join(600)
    assert found == [folder] and said[0].startswith("waiting for the thing: ")


def test_nothing_is_published_once_another_process_took_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    def slow(folder: Path) -> Product:
        (layout.lease(LEASE) / "7.json").write_text("{}")  # as one does that has seen this lease lapse
        return content(folder)

    with raises("run.taken-over"):
        ensure(layout, Thing(slow))
    assert not list((tmp_path / "store" / "things").iterdir()), "neither the folder nor what was begun aside"


def test_an_error_leaves_nothing_behind_and_the_next_one_begins_again(tmp_path: Path) -> None:
    error = DataError("a bad row")

    def broken(folder: Path) -> Product:
        content(folder)
        raise error

    with pytest.raises(DataError) as caught:
        ensure(Layout(tmp_path), Thing(broken))
    assert caught.value is error
    assert not list((tmp_path / "store" / "things").iterdir())
    ensure(Layout(tmp_path), Thing())


def test_a_turn_keeps_the_leases_of_what_is_missing_alone(tmp_path: Path) -> None:
    layout, missing = Layout(tmp_path), {"a": "one", "b": "two"}

    def look(mine: bool) -> dict[str, str]:
        return {"b": "two"} if mine else missing

    with turn(layout, look, lambda found: found, SILENTLY) as mine:
        assert mine.found == {"b": "two"} and mine.leases.keys() == {"b"}
        with leased(layout.lease("a"), what="another's", refuse="it must be free"):
            mine.check()


def test_a_turn_under_a_lease_that_is_held_looks_once_and_checks_that_lease(tmp_path: Path) -> None:
    layout, looks = Layout(tmp_path), list[bool]()
    with (
        leased(layout.lease("run"), what="x") as lease,
        turn(layout, looks.append, lambda found: {"a": "one"}, SILENTLY, held=lease) as mine,
    ):
        assert looks == [True] and not layout.lease("a").exists()
        mine.check()
        (layout.lease("run") / "7.json").write_text("{}")  # as one does that has seen this lease lapse
        with raises("run.taken-over"):
            mine.check()
