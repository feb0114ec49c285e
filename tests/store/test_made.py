"""What is made once: found, waited for, made aside and published under a lease that is still held."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from bits import flip
from ratchet.errors import DataError, RunError
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait, leased
from ratchet.store.made import Entry, Product, ensure, turn
from ratchet.store.record import Record, read_record

ENTRY = Entry("things", {"kind": "things", "of": 1}, "the thing")


def make(folder: Path) -> Product:
    (folder / "content").write_text("made")
    return Product({"rows": 3}, {"pairs": "p"}, {"why": "a test"})


def fail(folder: Path) -> Product:
    raise AssertionError("it is there already")


def test_a_thing_is_made_once_and_its_record_says_what_its_maker_said(tmp_path: Path) -> None:
    folder = ensure(Layout(tmp_path), ENTRY, make, SILENTLY)
    assert folder == tmp_path / "store" / "things" / ENTRY.fingerprint
    record = read_record(folder)
    assert record is not None and record.identity == ENTRY.identity and record.fingerprint == ENTRY.fingerprint
    assert (record.counts, record.inputs, record.facts) == ({"rows": 3}, {"pairs": "p"}, {"why": "a test"})
    assert record.files.keys() == {"content"}
    assert ensure(Layout(tmp_path), ENTRY, fail, SILENTLY) == folder


def test_what_is_damaged_is_put_aside_and_made_again(tmp_path: Path) -> None:
    folder = ensure(Layout(tmp_path), ENTRY, make, SILENTLY)
    flip(folder / "content", 3)
    assert ensure(Layout(tmp_path), ENTRY, make, SILENTLY) == folder
    assert (folder / "content").read_text() == "made" and len(list((tmp_path / "store" / "damaged").iterdir())) == 1


def test_a_record_that_is_not_accepted_ends_the_search(tmp_path: Path) -> None:
    ensure(Layout(tmp_path), ENTRY, make, SILENTLY)

    def accept(record: Record) -> None:
        raise DataError(f"{record.counts['rows']} rows")

    with pytest.raises(DataError, match="3 rows"):
        ensure(Layout(tmp_path), ENTRY, fail, SILENTLY, accept)


def test_what_another_process_made_meanwhile_is_taken_and_its_lease_released(tmp_path: Path) -> None:
    layout, said, waits = Layout(tmp_path), list[str](), threading.Event()
    found: list[Path] = []
    wait = Wait(said.append, waits.set)
    with leased(layout.lease(ENTRY.key), what="x"):
        other = threading.Thread(target=lambda: found.append(ensure(layout, ENTRY, fail, wait)))
        other.start()
        assert waits.wait(60)
        elsewhere = ensure(Layout(tmp_path / "elsewhere"), ENTRY, make, SILENTLY)
        folder = layout.made(ENTRY.kind, ENTRY.fingerprint)
        shutil.copytree(elsewhere, folder)
    other.join(60)
    assert found == [folder] and said[0].startswith("waiting for the thing: ")


def test_nothing_is_published_once_another_process_took_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    def slow(folder: Path) -> Product:
        (layout.lease(ENTRY.key) / "7.json").write_text("{}")  # as one does that has seen this lease lapse
        return make(folder)

    with pytest.raises(RunError, match="another process took over"):
        ensure(layout, ENTRY, slow, SILENTLY)
    assert not list((tmp_path / "store" / "things").iterdir()), "neither the folder nor what was begun aside"


def test_an_error_leaves_nothing_behind_and_the_next_one_begins_again(tmp_path: Path) -> None:
    def broken(folder: Path) -> Product:
        make(folder)
        raise DataError("a bad row")

    with pytest.raises(DataError, match="a bad row"):
        ensure(Layout(tmp_path), ENTRY, broken, SILENTLY)
    assert not list((tmp_path / "store" / "things").iterdir())
    ensure(Layout(tmp_path), ENTRY, make, SILENTLY)


def test_a_turn_keeps_the_leases_of_what_is_missing_alone(tmp_path: Path) -> None:
    layout, missing = Layout(tmp_path), {"a": "one", "b": "two"}

    def look(mine: bool) -> dict[str, str]:
        return {"b": "two"} if mine else missing

    with turn(layout, look, lambda found: found, SILENTLY) as mine:
        assert mine.found == {"b": "two"} and mine.leases.keys() == {"b"}
        with leased(layout.lease("a"), what="another's", refuse="it must be free"):
            mine.check()
